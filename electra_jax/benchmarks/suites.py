"""The suites of `python -m electra_jax.benchmark`: what each measures, and on which recipe."""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

from data_pipelines.progress import waiting
from electra_jax.benchmarks.checkpoints import checkpoint_figures
from electra_jax.benchmarks.compiled_memory import compiled_attention, step_figures
from electra_jax.benchmarks.courses import course_figures
from electra_jax.benchmarks.input import input_figures
from electra_jax.benchmarks.kept_bytes import kept_bytes
from electra_jax.benchmarks.long_rows import long_row_figures
from electra_jax.benchmarks.relative_attention import compare_attention
from electra_jax.benchmarks.training_step import Metrics, compare_steps, require_settings
from electra_jax.distributed.absent_devices import absent_devices
from electra_jax.distributed.platforms import check_platforms
from electra_jax.models.config import make_pretraining_config
from electra_jax.planning.compiler_log import compiler_messages_in_a_file


class Suite(NamedTuple):
    """One suite."""

    run: Callable[..., Metrics]  # takes a configuration and, if it is timed, `rounds` and `steps`
    is_timed: bool
    default_config: str  # the recipe that it measures unless --config gives another
    needs: Mapping[str, str] = MappingProxyType({})  # settings without which it has nothing to measure


def run_suite(name: str, config: dict[str, Any], *, rounds: int, steps: int) -> Metrics:
    """The figures of a suite.

    Args:
      config: the recipe to measure.
      rounds: turns of each program, if the suite is timed.
      steps: timed steps in a turn.

    Raises:
      ValueError: the suite cannot measure this recipe, or this machine lacks the devices of JAX_PLATFORMS.
    """
    suite = SUITES[name]
    if suite.is_timed:  # on the devices of this machine
        check_platforms()
    require_settings(config, suite.needs, f"--suite={name} measures no other")
    return suite.run(config, rounds=rounds, steps=steps) if suite.is_timed else suite.run(config)


def cpu_suite(config: dict[str, Any], *, rounds: int, steps: int) -> Metrics:
    """ELECTRA's step beside PyTorch's.

    Ours takes the batch in two microbatches, whose activations stay in the caches: the same update, faster.
    PyTorch is fastest with one.
    """
    return compare_steps(
        "electra_small", config, batch_size=32, length=128, num_microbatches=2, rounds=rounds, steps=steps
    )


def deberta_suite(config: dict[str, Any], *, rounds: int, steps: int) -> Metrics:
    """DeBERTaV3's step beside PyTorch's, in two shapes; the figures' names start with the shape.

    Ours takes microbatches of eight and of four rows. With smaller ones, adding up the gradients of two large
    embedding tables costs more than the caches save.
    """
    if disentangled := config["model"]["disentangled"]:
        disentangled = disentangled | {"enhanced_mask_decoder": False}
        config = config | {"model": config["model"] | {"disentangled": disentangled}}
    figures: Metrics = {}
    for batch_size, length, num_microbatches in ((32, 128, 4), (8, 512, 2)):
        shape_figures = compare_steps(
            "deberta_v3_xsmall",
            config,
            batch_size=batch_size,
            length=length,
            num_microbatches=num_microbatches,
            rounds=rounds,
            steps=steps,
        )
        figures |= _with_prefix(f"{batch_size}x{length}", shape_figures)
    return figures


def attention_suite(config: dict[str, Any], *, rounds: int, steps: int) -> Metrics:
    """One attention layer of the discriminator, in the recipe's dtype and two shapes."""
    encoder = make_pretraining_config(config["model"]).discriminator
    figures: Metrics = {}
    for batch_size, length in ((8, 128), (2, 512)):
        shape_figures = compare_attention(
            encoder, batch_size=batch_size, length=length, rounds=rounds, steps=steps
        )
        figures |= _with_prefix(f"{batch_size}x{length}", shape_figures)
    return figures


def compiled_suite(config: dict[str, Any]) -> Metrics:
    """Memory of one layer and of the step on accelerators: 8 rows on a device, in bfloat16."""
    config = config | {"model": config["model"] | {"dtype": "bfloat16"}}
    encoder = make_pretraining_config(config["model"]).discriminator
    kept = kept_bytes(encoder, config["data"]["sequence_length"])
    figures: Metrics = {"kept_bytes_per_token_and_layer": kept}
    for name in ("v5e:1x1", "h100:1"):
        with compiler_messages_in_a_file(), waiting(f"compiling for {name}"):
            devices = absent_devices(name)
            figures |= _with_prefix(name, compiled_attention(config, devices[0], batch_size=8))
            step = step_figures(config, devices, batch_size=8, vocab_chunk_size=16_384)
        figures |= _with_prefix(name, step)
    return figures


def courses_suite(config: dict[str, Any]) -> Metrics:
    """FLOPs of MCL's courses, 8 rows."""
    return course_figures(config, batch_size=8)


def checkpoint_suite(config: dict[str, Any], *, rounds: int, steps: int) -> Metrics:
    """The cost of a checkpoint's checksums. A save is no step: `steps` does not matter."""
    del steps
    return checkpoint_figures(config, rounds=rounds)


def _with_prefix(prefix: str, figures: Metrics) -> Metrics:
    return {f"{prefix}_{key}": value for key, value in figures.items()}


DISENTANGLED = {"model.position": "disentangled"}
SUITES = {
    "cpu": Suite(cpu_suite, True, "configs/electra.py:size=small"),
    "deberta": Suite(deberta_suite, True, "configs/deberta_v3.py:size=xsmall"),
    "attention": Suite(attention_suite, True, "configs/deberta_v3.py:size=xsmall", DISENTANGLED),
    "compiled": Suite(compiled_suite, False, "configs/deberta_v3.py:size=xsmall", DISENTANGLED),
    "long_rows": Suite(
        long_row_figures, False, "configs/modernbert.py:size=base", {"model.position": "rotary"}
    ),
    "input": Suite(input_figures, True, "configs/debug.py"),
    "checkpoint": Suite(checkpoint_suite, True, "configs/electra.py:size=small"),
    "courses": Suite(courses_suite, False, "configs/mcl.py:size=small", {"objective.name": "mcl"}),
}
