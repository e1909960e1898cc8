"""Numerical trouble on the devices: a step whose gradients, update or loss are not finite, or whose loss is
far above its own past, is left out. What the host does about it afterwards is in watch.py.

Only a run that asks for it has this part (`is_guarded`); the program and the checkpoints of all others are
the same as without this module.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from electra_jax.objectives.base import Sums

STOP, SKIP, ROLLBACK, IGNORE = "stop", "skip", "rollback", "ignore"
ON_NONFINITE = (STOP, SKIP, ROLLBACK)
ON_SPIKE = (IGNORE, *ON_NONFINITE)

# Verdicts on a step.
FINE, NONFINITE, SPIKE = 0, 1, 2
# Before a step's own sums, which the host gets beside those of the window.
OF_STEP = "step/"
CLIP = 3.0  # deviations; an outlier moves mean and deviation no more than a loss at this distance
# Share of the mean that the deviation counts as at least: where losses hardly vary, rounding is no spike.
SMALLEST_DEVIATION = 1e-3

Guard = dict[str, jax.Array]


class Detector(NamedTuple):
    """When a loss is a spike."""

    deviations: float  # mean absolute deviations above the mean; inf: never
    memory: int  # steps that mean and deviation remember; until then no loss is a spike


def is_guarded(trouble: dict[str, Any]) -> bool:
    """Whether a run with this config.trouble decides on the devices, and so has a guard in its state."""
    return trouble["on_nonfinite"] != STOP or trouble["on_spike"] != IGNORE


def make_detector(trouble: dict[str, Any]) -> Detector | None:
    """The detector of config.trouble; None for a run without a guard."""
    if not is_guarded(trouble):
        return None
    never = trouble["on_spike"] == IGNORE
    return Detector(float("inf") if never else trouble["spike_deviations"], trouble["spike_memory"])


def init_guard() -> Guard:
    """The guard of a state: scalars, all 0.

    losses: how many losses of the stage mean and deviation come from. mean, deviation: of the loss,
    exponentially weighted; the deviation is the mean absolute one. skipped: updates left out since the start
    of the run; skipped_steps: those of the present logging window; skips_in_a_row: those since the last
    update.
    """
    counts = ("losses", "skipped", "skipped_steps", "skips_in_a_row")
    return {name: jnp.zeros([], jnp.int32) for name in counts} | {
        name: jnp.zeros([], jnp.float32) for name in ("mean", "deviation")
    }


def without_past(guard: Guard, is_first: jax.Array) -> Guard:
    """The guard before a step; the first step of a stage has no past, since other text has another loss."""
    past = ("losses", "mean", "deviation")
    return guard | {name: jnp.where(is_first, jnp.zeros_like(guard[name]), guard[name]) for name in past}


def judge(
    guard: Guard, sums: Sums, is_finite: jax.Array, is_new_window: jax.Array, detector: Detector
) -> tuple[jax.Array, Guard]:
    """(verdict on a step, guard after it).

    Args:
      sums: of the step, with "loss".
      is_finite: whether its gradients and updates are.
      is_new_window: whether the step is the first of a logging window.
    """
    loss = sums["loss"]
    deviation = jnp.maximum(guard["deviation"], SMALLEST_DEVIATION * jnp.abs(guard["mean"]))
    is_high = (guard["losses"] >= detector.memory) & (loss - guard["mean"] > detector.deviations * deviation)
    is_finite &= jnp.isfinite(loss)
    verdict = jnp.where(is_finite, jnp.where(is_high, SPIKE, FINE), NONFINITE)
    is_skipped = (verdict != FINE).astype(jnp.int32)
    learnt = _learn(guard, loss, deviation, detector)
    guard = {name: jnp.where(verdict == FINE, value, guard[name]) for name, value in learnt.items()} | {
        "skipped": guard["skipped"] + is_skipped,
        "skipped_steps": jnp.where(is_new_window, 0, guard["skipped_steps"]) + is_skipped,
        "skips_in_a_row": (guard["skips_in_a_row"] + 1) * is_skipped,
    }
    return verdict, guard


def _learn(guard: Guard, loss: jax.Array, deviation: jax.Array, detector: Detector) -> Guard:
    """Mean and deviation after one more loss: at first plain means over all losses, then exponential ones
    with weight 1/memory. From then on a loss counts as at most CLIP deviations away (Huber's clipping)."""
    weight = 1.0 / jnp.minimum(guard["losses"] + 1, detector.memory)
    error = jnp.where(guard["losses"] == 0, 0.0, loss - guard["mean"])
    is_warm = guard["losses"] >= detector.memory
    error = jnp.where(is_warm, jnp.clip(error, -CLIP * deviation, CLIP * deviation), error)
    mean = jnp.where(guard["losses"] == 0, loss, guard["mean"] + weight * error)
    return {
        "losses": jnp.minimum(guard["losses"] + 1, detector.memory),
        "mean": mean,
        "deviation": guard["deviation"] + weight * (jnp.abs(error) - guard["deviation"]),
    }


def without_sums(verdict: jax.Array, sums: Sums) -> Sums:
    """The step's sums for the logging window: zeros if the step is left out."""
    return {name: jnp.where(verdict == FINE, value, jnp.zeros_like(value)) for name, value in sums.items()}


def without_update(verdict: jax.Array, before: Any, after: Any) -> Any:
    """`after`, a TrainState, with the parameters, optimizer states and moving average of `before` if the step
    is left out."""
    names = [name for name in ("params", "opt_state", "ema") if hasattr(after, name)]
    keep = lambda old, new: jnp.where(verdict == FINE, new, old)
    return after.replace(
        **{name: jax.tree.map(keep, getattr(before, name), getattr(after, name)) for name in names}
    )


def report(guard: Guard, verdict: jax.Array, sums: Sums) -> Sums:
    """What the host gets beside the sums of the window: the counts of skipped steps, and of this step the
    verdict, loss and gradient norms."""
    counts = {name: guard[name] for name in ("skipped", "skipped_steps")}
    of_step = {
        "verdict": verdict,
        "skips_in_a_row": guard["skips_in_a_row"],
        "mean": guard["mean"],
        "deviation": guard["deviation"],
    } | {name: value for name, value in sums.items() if name == "loss" or name.startswith("gradient_norm")}
    return counts | {OF_STEP + name: value for name, value in of_step.items()}
