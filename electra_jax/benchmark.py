"""Measure: `python -m electra_jax.benchmark --suite=… [--json=FILE]`.

  cpu        ELECTRA-small's training step, 32 rows of 128, beside the same step in PyTorch `transformers`,
             each computing in float32 and in bfloat16 (PyTorch: autocast). `electra_small_tokens_per_second`
             is the better of ours.
  deberta    The same for DeBERTaV3-xsmall, 32 rows of 128 and 8 of 512, without the enhanced mask decoder:
             the peer has none.
  attention  One layer of disentangled attention, forward and backward: gather against skew, in time and in
             memory.
  compiled   Temporary memory on a TPU v5e and an NVIDIA H100 that need not be there: of DeBERTaV3-xsmall's
             attention, gather and skew, and of its step, with the vocabulary whole and in chunks. Through
             `bash launch/compile_only.sh benchmark --suite=compiled`.
  courses    FLOPs of MCL's step, 8 rows, with one course after the other, beside ELECTRA's. Compiled, but not
             run.

--config chooses another recipe to measure. The contestants take turns in one process and medians are
reported, so that a busy machine slows all of them. It needs the packages of `pip install -e '.[test]'`.
"""

import json
from pathlib import Path
from typing import Any

from absl import app, flags
from ml_collections import config_flags

from electra_jax.benchmarks.compiled_memory import compiled_attention, step_figures
from electra_jax.benchmarks.courses import course_figures
from electra_jax.benchmarks.relative_attention import compare_attention
from electra_jax.benchmarks.training_step import Metrics, compare_steps
from electra_jax.configuration.flags import load_config
from electra_jax.distributed.absent_devices import absent_devices
from electra_jax.models.config import make_pretraining_config


def cpu_suite(config: dict[str, Any], rounds: int, steps: int) -> Metrics:
    """Ours in eight parts, whose activations stay in the caches: the same update, faster. PyTorch is fastest
    in one."""
    return compare_steps(
        "electra_small", config, batch_size=32, length=128, num_microbatches=8, rounds=rounds, steps=steps
    )


def deberta_suite(config: dict[str, Any], rounds: int, steps: int) -> Metrics:
    """Both shapes one after the other; the figures' names start with the shape. Ours in parts of eight and of
    four rows: with smaller ones the gradients of two large tables are added up more often than the caches are
    worth."""
    config["model"]["disentangled"]["enhanced_mask_decoder"] = False
    return {
        f"{batch_size}x{length}_{key}": value
        for batch_size, length, num_microbatches in ((32, 128, 4), (8, 512, 2))
        for key, value in compare_steps(
            "deberta_v3_xsmall",
            config,
            batch_size=batch_size,
            length=length,
            num_microbatches=num_microbatches,
            rounds=rounds,
            steps=steps,
        ).items()
    }


def attention_suite(config: dict[str, Any], rounds: int, steps: int) -> Metrics:
    """The discriminator's layers, in the recipe's dtype."""
    encoder = make_pretraining_config(config["model"]).discriminator
    return {
        f"{batch_size}x{length}_{key}": value
        for batch_size, length in ((8, 128), (2, 512))
        for key, value in compare_attention(
            encoder, batch_size=batch_size, length=length, rounds=rounds, steps=steps
        ).items()
    }


def compiled_suite(config: dict[str, Any], rounds: int, steps: int) -> Metrics:
    """8 rows a device in bfloat16; nothing is timed."""
    del rounds, steps
    config["model"]["dtype"] = "bfloat16"
    figures: Metrics = {}
    for name in ("v5e:1x1", "h100:1"):
        devices = absent_devices(name)
        device_figures = compiled_attention(config, devices[0], batch_size=8) | step_figures(
            config, devices, batch_size=8, vocab_chunk_size=16_384
        )
        figures |= {f"{name}_{key}": value for key, value in device_figures.items()}
    return figures


def courses_suite(config: dict[str, Any], rounds: int, steps: int) -> Metrics:
    """Nothing is timed."""
    del rounds, steps
    return course_figures(config, batch_size=8)


# Name: (what it does, the recipe it measures unless --config says otherwise).
SUITES = {
    "cpu": (cpu_suite, "configs/electra.py:size=small"),
    "deberta": (deberta_suite, "configs/deberta_v3.py:size=xsmall"),
    "attention": (attention_suite, "configs/deberta_v3.py:size=xsmall"),
    "compiled": (compiled_suite, "configs/deberta_v3.py:size=xsmall"),
    "courses": (courses_suite, "configs/mcl.py:size=small"),
}

_CONFIG = config_flags.DEFINE_config_file(
    "config", None, "Recipe to measure; without it, the suite's own.", lock_config=True
)
_SUITE = flags.DEFINE_enum("suite", None, sorted(SUITES), "What to measure.", required=True)
_JSON = flags.DEFINE_string("json", None, "File that takes the figures as JSON.")
_ROUNDS = flags.DEFINE_integer("rounds", 5, "Turns of each contestant.", lower_bound=1)
_STEPS = flags.DEFINE_integer("steps", 4, "Timed steps a turn, after one that is not timed.", lower_bound=1)


def main(argv: list[str]) -> None:
    """Command line of this module."""
    if len(argv) > 1:
        raise app.UsageError(f"unexpected arguments {argv[1:]}")
    run, default_config = SUITES[_SUITE.value]
    config = _CONFIG.value if _CONFIG.value is not None else load_config(default_config)
    figures = run(config.to_dict(), _ROUNDS.value, _STEPS.value)
    for key, value in figures.items():
        print(f"{key:48s} {value:,.3f}" if isinstance(value, float) else f"{key:48s} {value}")
    if _JSON.value:
        Path(_JSON.value).write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    app.run(main)
