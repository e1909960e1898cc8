"""Temporary memory of DeBERTaV3's training step on absent devices, and a check that no [B, L, V] is formed.

Shapes: B batch, L length, P masked positions, V vocab.
"""

import math
import re
from typing import Any

import jax

from electra_jax.benchmarks.relative_attention import attention_gradient, layers_for
from electra_jax.benchmarks.training_step import Metrics
from electra_jax.distributed.mesh import make_mesh
from electra_jax.distributed.sharding import axis_context, replicated
from electra_jax.models.config import EncoderConfig, make_pretraining_config
from electra_jax.planning.compiled import compile_for, compile_step


def compiled_attention(config: dict[str, Any], device: jax.Device, *, batch_size: int) -> Metrics:
    """Temporary MiB of one attention layer, forward and backward, in each form that the device can compute.

    Raises:
      AssertionError: the kernels' program has a buffer with a score for each query and key, or distance.
    """
    encoder = make_pretraining_config(config["model"]).discriminator
    length = config["data"]["sequence_length"]
    figures: Metrics = {}
    for form in layers_for(device):
        compiled = compile_layer(encoder, form, device, batch_size=batch_size, length=length)
        if form == "pallas":
            squares = score_buffers(compiled.as_text(), batch_size * encoder.num_heads, length)
            assert not squares, f"the kernels' program has buffers with all scores: {sorted(squares)}"
        figures[f"attention_{form}_temporary_mib"] = compiled.memory_analysis().temp_size_in_bytes / 2**20
    return figures


def compile_layer(
    encoder: EncoderConfig, form: str, device: jax.Device, *, batch_size: int, length: int
) -> jax.stages.Compiled:
    """The gradients of one attention layer, in a form of LAYERS, compiled for the device."""
    mesh = make_mesh({"data": 1, "fsdp": 1, "tensor": 1}, [device])
    with axis_context(mesh):  # tells the layer which device it is for
        function, shapes = attention_gradient(encoder, form, batch_size, length)
        place = lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=replicated(mesh))
        return compile_for(device, jax.jit(function).lower(*jax.tree.map(place, shapes)))


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


def score_buffers(program_text: str, num_matrices: int, length: int) -> set[str]:
    """Shapes of B·H·L rows or more, each of L numbers or more, in a program's HLO text: a score for each
    query and key, or distance. `num_matrices` is B·H."""
    shapes = re.findall(r"\[(\d+(?:,\d+)+)\]", program_text)
    are_scores = lambda sizes: math.prod(sizes[:-1]) >= num_matrices * length and sizes[-1] >= length
    return {text for text in shapes if are_scores(tuple(map(int, text.split(","))))}


def vocabulary_rows(program_text: str, vocab_size: int) -> int:
    """Elements of the largest array that has a dimension V, divided by V, in a program's HLO text."""
    dimensions = set(re.findall(r"\[(\d+(?:,\d+)*)\]", program_text))
    shapes = [tuple(map(int, text.split(","))) for text in dimensions]
    return max((math.prod(shape) // vocab_size for shape in shapes if vocab_size in shape), default=0)
