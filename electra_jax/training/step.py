"""The jitted training and evaluation steps: the same for every objective.

Shapes: B batch, L length.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

from electra_jax.objectives.base import Objective, Sums
from electra_jax.training.state import TrainState

NO_STEP = jnp.iinfo(jnp.int32).max


def make_train_step(objective: Objective, optimizer: optax.GradientTransformation, *, seed: int, num_microbatches: int,
                    window_steps: int) -> Callable[[TrainState, jax.Array], tuple[TrainState, Sums]]:
    """(state, ids [B, L]) → (state after the update, metric sums of the window so far).

    A window is `window_steps` steps long and restarts by itself; the returned sums are a copy, since the state is
    donated to the next step. Everything random follows from (seed, step).
    """

    def train_step(state: TrainState, ids_BL: jax.Array) -> tuple[TrainState, Sums]:
        corruption_key, dropout_key = step_keys(seed, state.step)
        batch = objective.prepare(corruption_key, ids_BL)
        grads, sums = accumulate_gradients(objective, state.params, batch, dropout_key, num_microbatches)
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        sums |= step_sums(state.step, grads, updates)
        is_new_window = state.step % window_steps == 0
        window = merge_windows(jax.tree.map(lambda x: jnp.where(is_new_window, jnp.zeros_like(x), x), state.window), sums,
                               is_new_window)
        return TrainState(state.step + 1, params, opt_state, window), jax.tree.map(jnp.copy, window)

    return train_step


def step_keys(seed: int, step: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Keys of one step: for the noise on the tokens and for dropout."""
    key = jax.random.fold_in(jax.random.key(seed, impl="threefry2x32"), step)
    return jax.random.fold_in(key, 0), jax.random.fold_in(key, 1)


def accumulate_gradients(objective: Objective, params, batch, dropout_key: jax.Array, num_microbatches: int):
    """Gradients and metric sums of the whole batch, computed a microbatch at a time.

    Denominators come from the whole batch, so the result equals that of one large batch however tokens are spread.
    """
    normalizers = objective.normalizers(batch)

    def grad_and_sums(microbatch, index):
        grad_fn = jax.value_and_grad(objective.loss, has_aux=True)
        (loss, sums), grads = grad_fn(params, microbatch, normalizers, jax.random.fold_in(dropout_key, index))
        return grads, sums | {"loss": loss}  # of microbatches: they add up to the loss of the batch

    if num_microbatches == 1:
        return grad_and_sums(batch, 0)
    # Microbatch i takes rows i, i + n, i + 2n, …: each data shard keeps its own rows and nothing moves.
    split = lambda x: jnp.moveaxis(x.reshape(-1, num_microbatches, *x.shape[1:]), 1, 0)  # noqa: E731
    microbatches = jax.tree.map(split, batch)

    def body(total, indexed):
        index, microbatch = indexed
        return jax.tree.map(jnp.add, total, grad_and_sums(microbatch, index)), None

    shapes = jax.eval_shape(grad_and_sums, jax.tree.map(lambda x: x[0], microbatches), 0)
    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
    total, _ = jax.lax.scan(body, zeros, (jnp.arange(num_microbatches), microbatches))
    return total


def step_sums(step: jax.Array, grads, updates) -> Sums:
    """Metric sums that the step adds to the objective's: gradient norms by top-level module, and the first bad step."""
    norms = {f"gradient_norm_{name}": optax.tree.norm(tree) for name, tree in grads.items()}
    norm = optax.tree.norm(grads)
    # A NaN or infinity anywhere in the loss reaches some gradient; a huge update ruins the parameters a step before that.
    is_finite = jnp.isfinite(norm) & jnp.isfinite(optax.tree.norm(updates))
    return norms | {
        "gradient_norm": norm,
        "steps": jnp.ones([]),
        "nonfinite_step": jnp.where(is_finite, NO_STEP, step + 1),
    }


def abstract_window(objective: Objective, params, batch_size: int, sequence_length: int) -> Sums:
    """Shapes of the metric sums that one training step produces; nothing is computed."""

    def sums_of(params, ids_BL):
        batch = objective.prepare(jax.random.key(0), ids_BL)
        grads, sums = accumulate_gradients(objective, params, batch, jax.random.key(0), num_microbatches=1)
        return sums | step_sums(jnp.zeros([], jnp.int32), grads, grads)

    return jax.eval_shape(sums_of, params, jax.ShapeDtypeStruct((batch_size, sequence_length), jnp.int32))


def merge_windows(window: Sums, sums: Sums, is_new: jax.Array) -> Sums:
    """Add a step's sums to the window; `nonfinite_step` takes the earliest instead."""
    earliest = jnp.minimum(jnp.where(is_new, NO_STEP, window["nonfinite_step"]), sums["nonfinite_step"])
    return jax.tree.map(jnp.add, window, sums) | {"nonfinite_step": earliest}


def make_evaluation_step(objective: Objective, *, seed: int, vocab_size: int) -> Callable[..., Sums]:
    """(params, ids [B, L], batch index) → metric sums, without dropout. The noise depends on the index alone, so that
    evaluations at different steps see the same masks."""

    def evaluation_step(params, ids_BL: jax.Array, index: jax.Array) -> Sums:
        batch = objective.prepare(jax.random.fold_in(jax.random.key(seed, impl="threefry2x32"), index), ids_BL)
        _, sums = objective.loss(params, batch, objective.normalizers(batch), None)
        # Counts of the predicted tokens give the entropy of a unigram model fitted to these very tokens.
        counts = jnp.zeros(vocab_size).at[batch.targets_BP.ravel()].add(batch.weights_BP.ravel())
        return sums | {"target_counts": counts}

    return evaluation_step
