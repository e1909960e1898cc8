"""Which values a configuration may have: a table, one row per key, for pre-training and fine-tuning alike.

What is not in the table is checked where it is used: the model by models/config.py, the mesh by
distributed/mesh.py, stages by configuration/stages.py, tasks by data_pipelines/tasks.
"""

import math
from collections.abc import Callable, Collection
from typing import Any, NamedTuple

from flax.traverse_util import flatten_dict, unflatten_dict

from data_pipelines.problems import Problems
from electra_jax.models.config import DTYPES
from electra_jax.objectives.corruption import MASKING
from electra_jax.training.schedules import SCHEDULES, check_schedule
from electra_jax.training.trouble import ON_NONFINITE, ON_SPIKE


class Allowed(NamedTuple):
    """The values that a key may have."""

    accepts: Callable[[Any], bool]
    expected: str  # for the error: "expected …"


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def one_of(names: Collection[str]) -> Allowed:
    """One of some names."""
    return Allowed(lambda value: value in names, f"one of {', '.join(sorted(names))}")


COUNT = Allowed(lambda value: _is_whole(value) and value >= 1, "1 or more")
COUNT_OR_NONE = Allowed(lambda value: _is_whole(value) and value >= 0, "0 or more")
POSITIVE = Allowed(lambda value: _is_number(value) and value > 0, "a number above 0")
NOT_NEGATIVE = Allowed(lambda value: _is_number(value) and value >= 0, "0 or a number above it")
SHARE = Allowed(lambda value: _is_number(value) and 0 <= value <= 1, "a share, from 0 to 1")
PROBABILITY = Allowed(lambda value: _is_number(value) and 0 < value < 1, "a probability between 0 and 1")
MOMENTUM = Allowed(lambda value: _is_number(value) and 0 <= value < 1, "0 or a number below 1")
DROPOUT = Allowed(MOMENTUM.accepts, "0 or a probability below 1")

# Key: (what it may be, a value to pass instead).
RULES: dict[str, tuple[Allowed, Any]] = {
    "model.vocab_size": (Allowed(COUNT_OR_NONE.accepts, "0 (that of the datasets) or more"), 0),
    "model.layer_norm_epsilon": (POSITIVE, 1e-12),
    "model.initializer_range": (NOT_NEGATIVE, 0.02),
    "model.hidden_dropout": (DROPOUT, 0.1),
    "model.attention_dropout": (DROPOUT, 0.1),
    "model.head_dropout": (DROPOUT, 0.1),
    "model.dtype": (one_of(DTYPES), "bfloat16"),
    "objective.mask_prob": (PROBABILITY, 0.15),
    "objective.mask_token_prob": (SHARE, 0.85),
    "objective.random_token_prob": (SHARE, 0.1),
    "objective.swap_prob": (PROBABILITY, 0.15),
    "objective.insert_prob": (PROBABILITY, 0.15),
    "objective.masking": (one_of(MASKING), "uniform"),
    "objective.swap_permutation": (one_of(("uniform", "cyclic")), "uniform"),
    "objective.correction_normalizer": (one_of(("selected", "all")), "selected"),
    "objective.temperature": (POSITIVE, 1.0),
    "objective.vocab_chunk_size": (COUNT_OR_NONE, 0),
    "data.sequence_length": (Allowed(COUNT_OR_NONE.accepts, "0 (that of the datasets) or more"), 0),
    "data.prefetch": (Allowed(COUNT_OR_NONE.accepts, "0 (no background thread) or more"), 2),
    "optimizer.learning_rate": (POSITIVE, 5e-4),
    "optimizer.discriminator_learning_rate": (
        Allowed(NOT_NEGATIVE.accepts, "0 (the same as learning_rate) or a number above it"),
        0.0,
    ),
    "optimizer.schedule": (one_of(SCHEDULES), "warmup_times_decay"),
    "optimizer.warmup_steps": (COUNT_OR_NONE, 100),
    "optimizer.warmup_share": (MOMENTUM, 0.1),
    "optimizer.layer_decay": (POSITIVE, 0.8),
    "optimizer.top_exponent": (COUNT_OR_NONE, 1),
    "optimizer.beta1": (MOMENTUM, 0.9),
    "optimizer.beta2": (MOMENTUM, 0.999),
    "optimizer.epsilon": (POSITIVE, 1e-6),
    "optimizer.weight_decay": (NOT_NEGATIVE, 0.01),
    # 0 would remove all gradients.
    "optimizer.clip_norm": (
        Allowed(lambda value: value == math.inf or POSITIVE.accepts(value), "a number above 0, or inf"),
        1.0,
    ),
    "train.num_steps": (COUNT, 1000),
    "train.num_epochs": (COUNT, 3),
    "train.batch_size": (COUNT, 32),
    "train.validate_every": (Allowed(COUNT_OR_NONE.accepts, "0 (after every epoch) or a number of steps"), 0),
    "train.keep": (one_of(("last", "best")), "last"),
    "train.num_microbatches": (COUNT, 1),
    "train.gradient_dtype": (one_of(DTYPES), "float32"),
    "train.ema_decay": (
        Allowed(MOMENTUM.accepts, "0 (no average is kept) or a number below 1, such as 0.999"),
        0.0,
    ),
    "trouble.on_nonfinite": (one_of(ON_NONFINITE), "rollback"),
    "trouble.on_spike": (one_of(ON_SPIKE), "rollback"),
    "trouble.spike_deviations": (POSITIVE, 10.0),
    "trouble.spike_memory": (COUNT, 100),
    "trouble.max_skips": (COUNT, 10),
    "trouble.rollback_steps": (COUNT, 100),
    "trouble.max_rollbacks": (COUNT, 5),
    "eval.every": (COUNT, 1000),
    "eval.batch_size": (COUNT, 32),
    "eval.max_batches": (COUNT, 100),
    "probe.every": (Allowed(COUNT_OR_NONE.accepts, "0 (never) or more"), 0),
    "checkpoint.every": (COUNT, 1000),
    "checkpoint.keep": (COUNT, 3),
    "log.every": (COUNT, 100),
    "log.peak_flops": (NOT_NEGATIVE, 0.0),
}
# The same for keys that fine-tuning has with other values, or lacks.
OF_PRETRAINING: dict[str, tuple[Allowed, Any]] = {
    "train.num_epochs": (
        Allowed(NOT_NEGATIVE.accepts, "0 (train.num_steps decides) or a number above it"),
        3,
    ),
    "train.num_tokens": (
        Allowed(NOT_NEGATIVE.accepts, "0 (train.num_steps decides) or a number above it"),
        1e9,
    ),
}
# The keys that decide the length of a run, and what must fit it.
OF_LENGTH = ("train.num_steps", *OF_PRETRAINING, "optimizer.warmup_steps")
WEIGHT = NOT_NEGATIVE, 1.0  # of config.objective.*_weight


def check_values(config: dict[str, Any]) -> None:
    """Check every value that has a row in the table.

    Args:
      config: a whole configuration, of pre-training or of fine-tuning.

    Raises:
      ValueError: some values are not allowed; names the key of each, what is allowed, and a value to pass.
    """
    problems, values = Problems(), flatten_dict(config, sep=".")
    for key in wrong_values(config):
        allowed, example = _rule(key, config)
        problems.add_text(
            f"config.{key}: got {values[key]!r}, expected {allowed.expected}. "
            f"Pass, for example, --config.{key}={example}."
        )
    problems.report()


def wrong_values(config: dict[str, Any]) -> dict[str, Any]:
    """Key → value of each that is not allowed."""
    return {
        key: value
        for key, value in flatten_dict(config, sep=".").items()
        if (rule := _rule(key, config)) is not None and not rule[0].accepts(value)
    }


def with_allowed_values(config: dict[str, Any], wrong: Collection[str]) -> dict[str, Any]:
    """The configuration with an allowed value for each of the keys `wrong`, so that checks of how values fit
    together do not report the same mistake again."""
    flat = flatten_dict(config, keep_empty_nodes=True, sep=".")
    return unflatten_dict(flat | {key: _rule(key, config)[1] for key in wrong}, sep=".") if wrong else config


def _rule(key: str, config: dict[str, Any]) -> tuple[Allowed, Any] | None:
    if key.startswith("objective.") and key.endswith("_weight"):
        return WEIGHT
    return (RULES | OF_PRETRAINING if "objective" in config else RULES).get(key)


def check_warmup(config: dict[str, Any]) -> None:
    """Raises ValueError when the learning rate of a pre-training would never reach its peak."""
    num_steps, warmup_steps = config["train"]["num_steps"], config["optimizer"]["warmup_steps"]
    check_schedule(
        warmup_steps,
        num_steps,
        total=f"config.train.num_steps={num_steps}",
        remedy=f"Pass --config.optimizer.warmup_steps={num_steps // 10}, or more --config.train.num_steps.",
    )
