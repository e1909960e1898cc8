"""SiFT, scale-invariant fine-tuning: outputs should not change when the normalised embeddings are perturbed
(DeBERTa §4).

As in microsoft/DeBERTa (sift/sift.py, apps/run.py): the sum of the embeddings is standardised, so that noise
has the same meaning at any scale. Random noise is added to it, moved by one step in the direction in which
the outputs change most. The penalty is the symmetric cross-entropy between the outputs with and without the
noise. Each of the three passes (ordinary, for the step, with the result) draws another dropout mask. The
standardised sum has no gradient: the tables learn from the penalty through the ordinary outputs.

Where this differs from the published code:
- The ordinary pass is not standardised. The published code standardises there too, in evaluation as well.
  The LayerNorm that follows makes both the same but for its epsilon: the states before its scale differ by a
  factor of about 1 + epsilon / (2 · variance of the sum).
- Only scored elements count: no rows that fill a batch, and in tagging no padding and no pieces inside a word
  (published: all positions).
- Regression: squared error in place of the cross-entropy, which is zero for a single output.
- Questions, which the published code does not cover: the mean over start and end, among the tokens that can
  be one, as in the loss. With ELECTRA's head the ends are those given the true start; its logit for no answer
  has no penalty.
- A gradient that is not finite gets no special treatment (published: float16 skips the step).

Shapes: B batch, L length, E embedding_size, C outputs.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from electra_jax.finetuning.batches import TaskBatch
from electra_jax.finetuning.models import TaskModel
from electra_jax.finetuning.span_heads import IMPOSSIBLE, can_answer

EPSILON = 1e-6  # added to the largest element of a gradient


class Sift(NamedTuple):
    """config.sift."""

    vat_lambda: float  # weight of the penalty; 0: no penalty
    learning_rate: float  # length of the step that the noise is moved by
    init_perturbation: float  # standard deviation of the noise


def make_sift(section: dict[str, float]) -> Sift:
    """config.sift, checked.

    Raises:
      ValueError: a value is negative or not finite.
    """
    sift = Sift(
        vat_lambda=section["vat_lambda"],
        learning_rate=section["learning_rate"],
        init_perturbation=section["init_perturbation"],
    )
    for name, value in sift._asdict().items():
        if not 0 <= value < math.inf:
            raise ValueError(f"config.sift.{name}: got {value}, expected 0 or more.")
    return sift


def sift_penalty(
    model: TaskModel, params: Any, batch: TaskBatch, outputs: Any, sift: Sift, key: jax.Array
) -> jax.Array:
    """Mean distance between `outputs`, from the ordinary training pass, and those with perturbed embeddings.

    It is differentiable in `params` and `outputs`, and not yet multiplied by its weight.
    """
    start_key, step_key, penalty_key = jax.random.split(key, 3)
    weights, ordinary = batch.is_scored.astype(jnp.float32), _scores(model, outputs, batch.ids_BL)

    def perturbed(params: Any, perturbation_BLE: jax.Array, dropout_key: jax.Array) -> jax.Array:
        outputs = model.apply(
            {"params": params},
            batch.ids_BL,
            True,
            batch.labels,
            perturbation_BLE,
            batch.packed,
            rngs={"dropout": dropout_key},
        )
        return _scores(model, outputs, batch.ids_BL)

    frozen = jax.lax.stop_gradient(params)

    def distance_of(perturbation_BLE: jax.Array) -> jax.Array:
        scores = perturbed(frozen, perturbation_BLE, step_key)
        return (weights * _distances(model.task_type, ordinary, scores)).sum()

    encoded = batch.ids_BL if batch.packed is None else batch.packed.ids_RL
    shape = (*encoded.shape, model.config.embedding_size)
    start_BLE = initial_perturbation(start_key, shape, sift.init_perturbation)
    perturbation_BLE = ascend(distance_of, start_BLE, sift.learning_rate)
    scores = perturbed(params, perturbation_BLE, penalty_key)
    forward = _distances(model.task_type, ordinary, scores)
    backward = _distances(model.task_type, scores, ordinary)
    distances = forward + backward
    return (weights * distances).sum() / jnp.maximum(weights.sum(), 1.0)


def initial_perturbation(key: jax.Array, shape: Sequence[int], stddev: float) -> jax.Array:
    """Normal noise of `shape`, clipped at two standard deviations."""
    return jnp.clip(stddev * jax.random.normal(key, shape), -2 * stddev, 2 * stddev)


def ascend(loss: Callable[[jax.Array], jax.Array], start_BLE: jax.Array, learning_rate: float) -> jax.Array:
    """`start_BLE` moved along the gradient of `loss`; in each token the largest element by `learning_rate`.

    The result has no gradient.
    """
    gradient_BLE = jax.grad(loss)(start_BLE)
    largest_BL1 = jnp.abs(gradient_BLE).max(axis=-1, keepdims=True)
    return jax.lax.stop_gradient(start_BLE + learning_rate * gradient_BLE / (largest_BL1 + EPSILON))


def _scores(model: TaskModel, outputs: Any, ids_BL: jax.Array) -> jax.Array:
    """Outputs as one array, whose last axis is a distribution: [B, C], of tags [B, L, C], of an answer's two
    ends [B, 2, L]."""
    if model.task_type != "question_answering":
        return outputs
    logits_B2L = jnp.stack([outputs.start_logits, outputs.end_logits], axis=1)
    return jnp.where(can_answer(ids_BL, model.special)[:, None], logits_B2L, IMPOSSIBLE)


def _distances(task_type: str, target: jax.Array, scores: jax.Array) -> jax.Array:
    """Distance of `scores` from `target`, which gets no gradient: [B], of tags [B, L]."""
    target = jax.lax.stop_gradient(target)
    if task_type == "regression":
        return jnp.square(scores - target)[:, 0]
    losses = -(jax.nn.softmax(target) * jax.nn.log_softmax(scores)).sum(axis=-1)
    return losses.mean(axis=-1) if task_type == "question_answering" else losses
