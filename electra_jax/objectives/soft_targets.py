"""Losses against distributions in place of right answers: what a student learns from its teachers.

Shapes: B batch, L length, P masked positions, D hidden, V vocab.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax.scipy.special import xlogy

from electra_jax.objectives.vocabulary import pick

# Of the length of a state in the cosine; states after LayerNorm have a length of about √D.
SMALLEST_LENGTH = 1e-6
HIDDEN_DISTANCES = ("mse", "cosine")


def ensemble_probabilities(logits_BPV: Sequence[jax.Array], temperature: float) -> jax.Array:
    """The mean of softmax(logits / temperature) [B, P, V] over the models of an ensemble."""
    return sum(jax.nn.softmax(one / temperature, axis=-1) for one in logits_BPV) / len(logits_BPV)


def ensemble_nll(logits_BPV: Sequence[jax.Array], targets_BP: jax.Array) -> jax.Array:
    """−log of the mean probability [B, P] that the models of an ensemble give the targets."""
    log_probabilities = jnp.stack(
        [pick(one, targets_BP) - jax.nn.logsumexp(one, axis=-1) for one in logits_BPV]
    )
    return jnp.log(len(logits_BPV)) - jax.nn.logsumexp(log_probabilities, axis=0)


def divergence(probabilities_BPV: jax.Array, logits_BPV: jax.Array, temperature: float) -> jax.Array:
    """KL(q ‖ softmax(logits / temperature)) [B, P] in nats, q the given probabilities."""
    log_student_BPV = jax.nn.log_softmax(logits_BPV / temperature, axis=-1)
    return (xlogy(probabilities_BPV, probabilities_BPV) - probabilities_BPV * log_student_BPV).sum(axis=-1)


def hidden_distance(states_BLD: jax.Array, teachers_BLD: jax.Array, kind: str) -> jax.Array:
    """Distance [B, L] of two states, float32: "mse", the mean of the squared differences, or "cosine", one
    minus the cosine of the angle between them."""
    one, other = states_BLD.astype(jnp.float32), teachers_BLD.astype(jnp.float32)
    if kind == "mse":
        return jnp.square(one - other).mean(axis=-1)
    length = lambda x: jnp.sqrt(jnp.square(x).sum(axis=-1) + SMALLEST_LENGTH**2)
    return 1.0 - (one * other).sum(axis=-1) / (length(one) * length(other))
