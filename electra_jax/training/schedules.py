"""Learning-rate schedules as pure functions of the step.

The schedule of config.optimizer spans a whole run, or those of its stages that name no schedule of their own
(configuration/stages.py).
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

Schedule = Callable[[jax.Array], jax.Array]  # step → learning rate


def warmup_times_decay(peak: float, warmup_steps: int, total_steps: int) -> Schedule:
    """peak · (1 − step/total) · min(1, step/warmup), as electra model/optimization.py.

    The two factors multiply, so the peak is never quite reached; the rate is 0 at step 0 and at
    `total_steps`.

    Raises:
      ValueError: the warm-up is negative, or does not end before the run.
    """
    check_schedule(warmup_steps, total_steps)

    def schedule(step: jax.Array) -> jax.Array:
        step = jnp.minimum(jnp.asarray(step, jnp.float32), total_steps)
        warmup = jnp.minimum(1.0, step / warmup_steps) if warmup_steps else 1.0
        return peak * (1.0 - step / total_steps) * warmup

    return schedule


def warmup_then_decay(peak: float, warmup_steps: int, total_steps: int) -> Schedule:
    """peak · step/warmup up to the end of the warm-up, then peak · (1 − step/total), as microsoft/DeBERTa
    optims/lr_schedulers.py. At the end of the warm-up the rate drops at once by the fraction warmup/total.

    Raises:
      ValueError: the warm-up is negative, or does not end before the run.
    """
    check_schedule(warmup_steps, total_steps)

    def schedule(step: jax.Array) -> jax.Array:
        step = jnp.minimum(jnp.asarray(step, jnp.float32), total_steps)
        return peak * jnp.where(step < warmup_steps, step / max(warmup_steps, 1), 1.0 - step / total_steps)

    return schedule


def warmup_constant(
    peak: float,
    warmup_steps: int,
    total_steps: int,
    decay_steps: int = 0,
    final_share: float = 1.0,
    shape: Callable[[jax.Array], jax.Array] = lambda x: x,
) -> Schedule:
    """peak · step/warmup up to the end of the warm-up, then the peak; in the last `decay_steps` from there to
    final_share · peak (trapezoidal, or warmup–stable–decay, WSD).

    With x the share of the decay that is done, the rate is peak · (final + (1 − final) · (1 − shape(x))).
    `shape` √x gives the decay of Hägele et al. 2024, Scaling Laws and Compute-Optimal Training Beyond Fixed
    Training Durations, §4; the final share is ModernBERT's alpha_f.

    Raises:
      ValueError: the warm-up is negative or does not end before the run, or warm-up and decay overlap.
    """
    check_schedule(warmup_steps, total_steps, decay_steps)
    start = total_steps - decay_steps

    def schedule(step: jax.Array) -> jax.Array:
        step = jnp.minimum(jnp.asarray(step, jnp.float32), total_steps)
        done = shape(jnp.maximum(step - start, 0.0) / max(decay_steps, 1))
        share = jnp.where(step < warmup_steps, step / max(warmup_steps, 1), 1.0 - (1.0 - final_share) * done)
        return peak * share

    return schedule


SCHEDULES = {
    "warmup_times_decay": warmup_times_decay,
    "warmup_then_decay": warmup_then_decay,
    "warmup_constant": warmup_constant,
}
# Those that end in a decay from the constant rate → how it falls.
DECAYS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "warmup_constant_linear": lambda x: x,
    "warmup_constant_sqrt": jnp.sqrt,
}
NAMES = (*SCHEDULES, *DECAYS)


def make_schedule(optimizer: Mapping[str, Any], num_steps: int, first_step: int = 0) -> Schedule:
    """Step of the run → learning rate, for config.optimizer.

    Args:
      num_steps: number of steps that the schedule spans.
      first_step: step of the run that it begins with.

    Raises:
      ValueError: an unknown schedule, or one that does not fit into its steps.
    """
    name = optimizer["schedule"]
    if name not in NAMES:
        raise ValueError(f"config.optimizer.schedule: got {name!r}, expected one of {sorted(NAMES)}.")
    peak, warmup_steps = optimizer["learning_rate"], optimizer["warmup_steps"]
    if name in DECAYS:
        schedule = warmup_constant(
            peak,
            warmup_steps,
            num_steps,
            decay_length(optimizer, num_steps),
            optimizer["final_share"],
            DECAYS[name],
        )
    else:
        schedule = SCHEDULES[name](peak, warmup_steps, num_steps)
    # Skipped updates are not counted, so the count may still be below `first_step`.
    return (lambda step: schedule(jnp.maximum(step - first_step, 0))) if first_step else schedule


def decay_length(optimizer: Mapping[str, Any], num_steps: int) -> int:
    """Steps of the decay after a constant rate in a schedule of `num_steps` steps; 0 where there is none."""
    if optimizer["schedule"] not in DECAYS:
        return 0
    share = optimizer["decay_share"]
    return optimizer["decay_steps"] or (max(1, round(share * num_steps)) if share else 0)


def has_decay(optimizer: Mapping[str, Any]) -> bool:
    """Whether the schedule of config.optimizer lowers the rate after the warm-up."""
    name = optimizer["schedule"]
    return decay_length(optimizer, num_steps=1) > 0 if name in DECAYS else name != "warmup_constant"


def check_schedule(
    warmup_steps: int, total_steps: int, decay_steps: int = 0, *, total: str = "", remedy: str = ""
) -> None:
    """Check that the warm-up ends before the run does, and before the decay.

    Args:
      total: what `total_steps` is, for the error.
      remedy: what to change, for the error.

    Raises:
      ValueError: the warm-up is negative, does not end before the run, or overlaps the decay.
    """
    total = total or f"the {total_steps} steps of the run"
    if not 0 <= warmup_steps < total_steps:
        raise ValueError(
            f"config.optimizer.warmup_steps: got {warmup_steps}, expected fewer than {total}: the learning "
            f"rate would never reach its peak. {remedy or 'Change it, or the length of the run.'}"
        )
    if warmup_steps + decay_steps > total_steps:
        raise ValueError(
            f"config.optimizer.decay_steps, config.optimizer.decay_share: got a decay of {decay_steps} steps "
            f"after config.optimizer.warmup_steps={warmup_steps}, expected at most {total} for both. Make "
            "one of them shorter; decay_steps=0 means decay_share of the steps."
        )
