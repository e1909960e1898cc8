"""SiFT, scale-invariant fine-tuning: outputs should not change when the normalised embeddings are nudged
(DeBERTa §4).

As in microsoft/DeBERTa (sift/sift.py, apps/run.py): random noise, moved one step to where the outputs change
most, is added to the embeddings' sum, which is standardised first, so that the noise means the same at any
scale. The penalty is the symmetric cross-entropy between the outputs without and with it. Each of the three
passes (ordinary, for the step, with the result) has a dropout mask of its own. The standardised sum has no
gradient: the tables learn from the penalty through the ordinary outputs.

Decided here:
- The ordinary pass stays as it is, where the published code standardises there too, in evaluation as well.
  The LayerNorm right behind makes both the same but for its epsilon: the states before its scale differ by a
  factor of about 1 + epsilon / (2 · variance of the sum).
- Only what is scored counts: no rows that fill a batch, and of tags no other pieces and padding (published:
  all positions).
- Regression: squared error in place of the cross-entropy (published: the cross-entropy, which of one output
  is zero).
- Questions, which the published code has not: the mean over start and end, among the tokens that can be one,
  as in the loss. Of ELECTRA's head the ends given the true start; its logit for no answer has no penalty.
- A gradient that is not finite is no special case (published: the step is left out then, for float16).

Shapes: B batch, L length, E embedding_size, C outputs.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from electra_jax.finetuning.batches import TaskBatch
from electra_jax.finetuning.models import TaskModel
from electra_jax.finetuning.span_heads import IMPOSSIBLE, can_answer

EPSILON = 1e-6  # beside the largest element of a gradient


class Sift(NamedTuple):
    """config.sift: the penalty's weight (0: none), the length of the step and the standard deviation of the
    noise."""

    vat_lambda: float
    learning_rate: float
    init_perturbation: float


def make_sift(section: dict[str, float]) -> Sift:
    """config.sift, checked.

    Raises:
      ValueError: a value is negative.
    """
    for name, value in section.items():
        if value < 0:
            raise ValueError(f"config.sift.{name}: got {value}, expected 0 or more.")
    return Sift(**section)


def sift_penalty(
    model: TaskModel, params: Any, batch: TaskBatch, outputs: Any, sift: Sift, key: jax.Array
) -> jax.Array:
    """Mean distance of the batch's `outputs`, from the ordinary pass in training, to those with perturbed
    embeddings.

    Differentiable in `params` and `outputs`; without its weight.
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
            rngs={"dropout": dropout_key},
        )
        return _scores(model, outputs, batch.ids_BL)

    frozen = jax.lax.stop_gradient(params)

    def distance_of(perturbation_BLE: jax.Array) -> jax.Array:
        return (
            weights * _distances(model.kind, ordinary, perturbed(frozen, perturbation_BLE, step_key))
        ).sum()

    shape = (*batch.ids_BL.shape, model.config.embedding_size)
    start_BLE = initial_perturbation(start_key, shape, sift.init_perturbation)
    perturbation_BLE = ascend(distance_of, start_BLE, sift.learning_rate)
    scores = perturbed(params, perturbation_BLE, penalty_key)
    distances = _distances(model.kind, ordinary, scores) + _distances(model.kind, scores, ordinary)
    return (weights * distances).sum() / jnp.maximum(weights.sum(), 1.0)


def initial_perturbation(key: jax.Array, shape: Sequence[int], stddev: float) -> jax.Array:
    """Normal noise of `shape`, clipped at two standard deviations."""
    return jnp.clip(stddev * jax.random.normal(key, shape), -2 * stddev, 2 * stddev)


def ascend(loss: Callable[[jax.Array], jax.Array], start_BLE: jax.Array, learning_rate: float) -> jax.Array:
    """`start_BLE` moved along the gradient of `loss`; in every token the largest element moves by
    `learning_rate`.

    The result has no gradient.
    """
    gradient_BLE = jax.grad(loss)(start_BLE)
    largest_BL1 = jnp.abs(gradient_BLE).max(axis=-1, keepdims=True)
    return jax.lax.stop_gradient(start_BLE + learning_rate * gradient_BLE / (largest_BL1 + EPSILON))


def _scores(model: TaskModel, outputs: Any, ids_BL: jax.Array) -> jax.Array:
    """Outputs as one array, whose last axis is a distribution's: [B, C], of tags [B, L, C], of answers' two
    ends [B, 2, L]."""
    if model.kind != "question_answering":
        return outputs
    logits_B2L = jnp.stack([outputs.start_logits, outputs.end_logits], axis=1)
    return jnp.where(can_answer(ids_BL, model.special)[:, None], logits_B2L, IMPOSSIBLE)


def _distances(kind: str, target: jax.Array, scores: jax.Array) -> jax.Array:
    """How far `scores` are from `target`, which has no gradient, for everything that is scored: [B], of tags
    [B, L]."""
    target = jax.lax.stop_gradient(target)
    if kind == "regression":
        return jnp.square(scores - target)[:, 0]
    losses = -(jax.nn.softmax(target) * jax.nn.log_softmax(scores)).sum(axis=-1)
    return losses.mean(axis=-1) if kind == "question_answering" else losses
