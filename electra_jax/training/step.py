"""The jitted training and evaluation steps: the same for every objective.

Shapes: B batch, L length.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from electra_jax.objectives.base import TOKENS, Objective, Sums
from electra_jax.training import trouble
from electra_jax.training.averaging import interpolate
from electra_jax.training.gradients import Accumulation, gradients, select
from electra_jax.training.state import TrainState

NO_STEP = jnp.iinfo(jnp.int32).max
# (step from 0, ids [B, L]) → (batch with its noise, key for dropout)
BatchOf = Callable[[jax.Array, jax.Array], tuple[Any, jax.Array]]


def make_train_step(
    objective: Objective,
    optimizers: dict[str, optax.GradientTransformation],
    *,
    batch_of: BatchOf,
    accumulation: Accumulation,
    window_steps: int,
    ema_decay: float,
    first_step: int = 0,
    detector: trouble.Detector | None = None,
) -> Callable[[TrainState, jax.Array], tuple[TrainState, Sums]]:
    """(state, ids [B, L]) → (state after the update, metric sums of the window so far).

    All randomness follows from the step, by `batch_of`. The returned sums are a copy, since the state is
    donated to the next step.

    Args:
      optimizers: phase name → optimizer; the optimizer state has the same keys.
      batch_of: see `training_batch`.
      window_steps: length of a logging window in steps. Windows also restart at `first_step`, so that none
        spans two stages of the run.
      ema_decay: above 0, the state is an `AveragedTrainState`, whose average is updated after every step.
      first_step: first step of the stage.
      detector: of a run that leaves out the updates of steps in trouble; its state has a guard.
    """

    def train_step(state: TrainState, ids_BL: jax.Array) -> tuple[TrainState, Sums]:
        batch, dropout_key = batch_of(state.step, ids_BL)
        normalizers = objective.normalizers(batch)
        params, opt_state, carry = state.params, {}, None
        all_grads, all_updates, sums = {}, {}, {}
        for phase in objective.phases:
            grads, phase_sums, carry = gradients(
                phase, params, batch, normalizers, dropout_key, carry, accumulation
            )
            trained = select(params, phase)
            updates, opt_state[phase.name] = optimizers[phase.name].update(
                grads, state.opt_state[phase.name], trained
            )
            params = params | optax.apply_updates(trained, updates)
            all_grads, all_updates, sums = (
                all_grads | grads,
                all_updates | updates,
                add_sums(sums, phase_sums),
            )
        sums |= step_sums(state.step, all_grads, all_updates)
        is_new_window = (state.step % window_steps == 0) | (state.step == first_step)
        if detector is not None:
            is_finite = sums["nonfinite_step"] == NO_STEP
            guard = trouble.without_past(state.guard, state.step == first_step)
            verdict, guard = trouble.judge(guard, sums, is_finite, is_new_window, detector)
            of_step = trouble.report(guard, verdict, sums)
            sums = trouble.without_sums(verdict, sums) | {"nonfinite_step": jnp.int32(NO_STEP)}
        window = merge_windows(
            jax.tree.map(lambda x: jnp.where(is_new_window, jnp.zeros_like(x), x), state.window),
            sums,
            is_new_window,
        )
        new = state.replace(step=state.step + 1, params=params, opt_state=opt_state, window=window)
        if ema_decay:
            trained = {name: params[name] for name in new.ema}
            new = new.replace(ema=interpolate(new.ema, trained, 1.0 - ema_decay))
        if detector is not None:
            new = trouble.without_update(verdict, state, new).replace(guard=guard)
            window = window | of_step
        return new, jax.tree.map(jnp.copy, window)

    return train_step


def add_sums(sums: Sums, more: Sums) -> Sums:
    """Sums of two phases; only "loss" is in both."""
    return sums | more | {"loss": sums.get("loss", 0.0) + more["loss"]}


def training_batch(
    objective: Objective, seed: int, num_steps: int, step: jax.Array, ids_BL: jax.Array
) -> tuple[Any, jax.Array]:
    """(batch with its noise, key for dropout) of a step of a run with this seed and `num_steps`. Bound to
    them, it is a `BatchOf`."""
    corruption_key, dropout_key = step_keys(seed, step)
    return objective.at_progress(objective.prepare(corruption_key, ids_BL), step / num_steps), dropout_key


def step_keys(seed: int, step: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The two keys of one step: for the noise on the tokens, and for dropout."""
    key = jax.random.fold_in(jax.random.key(seed, impl="threefry2x32"), step)
    return jax.random.fold_in(key, 0), jax.random.fold_in(key, 1)


def step_sums(step: jax.Array, grads, updates) -> Sums:
    """Metric sums that the step adds to the objective's: gradient norms by top-level module, and the first
    step whose gradients or updates are not finite."""
    norms = {f"gradient_norm_{name}": optax.tree.norm(tree) for name, tree in grads.items()}
    norm = optax.tree.norm(grads)
    # A NaN or infinity anywhere in the loss reaches some gradient; a huge update is caught one step
    # earlier, before its parameters give a NaN.
    is_finite = jnp.isfinite(norm) & jnp.isfinite(optax.tree.norm(updates))
    return norms | {
        "gradient_norm": norm,
        "steps": jnp.ones([]),
        "nonfinite_step": jnp.where(is_finite, NO_STEP, step + 1),
    }


def abstract_window(objective: Objective, params, batch_size: int, sequence_length: int) -> Sums:
    """Shapes of the metric sums of one training step; nothing is computed.

    Raises:
      ValueError: no phase returns the sum TOKENS.
    """

    def sums_of(params, ids_BL):
        batch = objective.prepare(jax.random.key(0), ids_BL)
        sums, carry = {}, None
        for phase in objective.phases:
            loss, (phase_sums, carry) = phase.loss(
                params, batch, objective.normalizers(batch), jax.random.key(0), carry
            )
            sums = add_sums(sums, phase_sums | {"loss": loss})
        if TOKENS not in sums:
            raise ValueError(
                f"objective: got the sums {sorted(sums)}, expected one of its phases to give {TOKENS!r}, the "
                "number of real tokens (objectives/base.py)."
            )
        trained = {name: params[name] for phase in objective.phases for name in phase.trains}
        return sums | step_sums(jnp.zeros([], jnp.int32), trained, trained)

    return jax.eval_shape(sums_of, params, jax.ShapeDtypeStruct((batch_size, sequence_length), jnp.int32))


def merge_windows(window: Sums, sums: Sums, is_new: jax.Array) -> Sums:
    """Add a step's sums to the window; `nonfinite_step` takes the earliest instead."""
    earliest = jnp.minimum(jnp.where(is_new, NO_STEP, window["nonfinite_step"]), sums["nonfinite_step"])
    return jax.tree.map(jnp.add, window, sums) | {"nonfinite_step": earliest}


def make_evaluation_step(objective: Objective, *, seed: int, vocab_size: int) -> Callable[..., Sums]:
    """(params, ids [B, L], batch index) → metric sums, without dropout. The noise depends on the index alone,
    so evaluations at different steps see the same masks."""

    def evaluation_step(params, ids_BL: jax.Array, index: jax.Array) -> Sums:
        batch = objective.prepare(
            jax.random.fold_in(jax.random.key(seed, impl="threefry2x32"), index), ids_BL
        )
        sums, carry = {}, None
        for phase in objective.phases:
            _, (phase_sums, carry) = phase.loss(params, batch, objective.normalizers(batch), None, carry)
            sums |= phase_sums
        # Counts of the predicted tokens, for the loss of a model that only counts tokens (unigram.py).
        ids_BP, weights_BP = objective.targets(batch)
        counts = jnp.zeros(vocab_size).at[ids_BP.ravel()].add(weights_BP.ravel())
        return sums | {"target_counts": counts}

    return evaluation_step
