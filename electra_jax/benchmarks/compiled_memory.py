"""Temporary memory of DeBERTaV3's training step on absent devices, and a check that no [B, L, V] is formed.

Shapes: B batch, L length, P masked positions, V vocab.
"""

import math
import re
from typing import Any

import jax

from electra_jax.benchmarks.relative_attention import LAYERS, attention_gradient
from electra_jax.benchmarks.training_step import Metrics
from electra_jax.models.config import make_pretraining_config
from electra_jax.planning.compiled import compile_step, compiler_options


def compiled_attention(config: dict[str, Any], device: jax.Device, *, batch_size: int) -> Metrics:
    """Temporary MiB of one attention layer, forward and backward, in each of LAYERS."""
    encoder = make_pretraining_config(config["model"]).discriminator
    sharding = jax.sharding.SingleDeviceSharding(device)
    figures: Metrics = {}
    for form in LAYERS:
        function, shapes = attention_gradient(encoder, form, batch_size, config["data"]["sequence_length"])
        place = lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)
        shapes = jax.tree.map(place, shapes)
        compiled = jax.jit(function).lower(*shapes).compile(compiler_options(device))
        figures[f"attention_{form}_temporary_mib"] = compiled.memory_analysis().temp_size_in_bytes / 2**20
    return figures


def step_figures(
    config: dict[str, Any], devices: list[jax.Device], *, batch_size: int, vocab_chunk_size: int
) -> Metrics:
    """Temporary MiB of the step on each device, with the vocabulary whole and in chunks.

    Raises:
      AssertionError: an array of B·L·V elements or more is among the step's buffers.
    """
    figures: Metrics = {}
    for name, chunk_size in (("whole", 0), ("chunked", vocab_chunk_size)):
        changed = {
            "objective": config["objective"] | {"vocab_chunk_size": chunk_size},
            "train": config["train"] | {"batch_size": batch_size * len(devices)},
        }
        compiled = compile_step(config | changed, devices)
        figures[f"step_{name}_temporary_mib"] = compiled.memory_analysis().temp_size_in_bytes / 2**20
        rows = vocabulary_rows(compiled.as_text(), config["model"]["vocab_size"])
        limit = batch_size * config["data"]["sequence_length"]
        assert rows < limit, (
            f"a buffer of the compiled step has {rows} rows of the vocabulary, expected fewer than {limit}"
        )
        figures[f"step_{name}_vocabulary_rows"] = rows
    return figures


def vocabulary_rows(program_text: str, vocab_size: int) -> int:
    """Elements of the largest array that has a dimension V, divided by V, in a program's HLO text."""
    dimensions = set(re.findall(r"\[(\d+(?:,\d+)*)\]", program_text))
    shapes = [tuple(map(int, text.split(","))) for text in dimensions]
    return max((math.prod(shape) // vocab_size for shape in shapes if vocab_size in shape), default=0)
