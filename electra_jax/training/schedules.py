"""Learning-rate schedules as pure functions of the step."""

from collections.abc import Callable

import jax
import jax.numpy as jnp


def warmup_times_decay(peak: float, warmup_steps: int, total_steps: int) -> Callable[[jax.Array], jax.Array]:
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


def warmup_then_decay(peak: float, warmup_steps: int, total_steps: int) -> Callable[[jax.Array], jax.Array]:
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


SCHEDULES = {"warmup_times_decay": warmup_times_decay, "warmup_then_decay": warmup_then_decay}


def check_schedule(warmup_steps: int, total_steps: int, total: str = "", remedy: str = "") -> None:
    """Check that the warm-up ends before the run does.

    Args:
      total: what `total_steps` is, for the error.
      remedy: what to change, for the error.

    Raises:
      ValueError: it does not, or it is negative.
    """
    if not 0 <= warmup_steps < total_steps:
        raise ValueError(
            f"config.optimizer.warmup_steps: got {warmup_steps}, expected fewer than "
            f"{total or f'the {total_steps} steps of the run'}: the learning rate would never reach its "
            f"peak. {remedy or 'Change it, or the length of the run.'}"
        )
