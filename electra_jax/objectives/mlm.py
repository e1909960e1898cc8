"""Masked language modelling: the generator's loss, and a baseline objective of its own.

Shapes: B batch, L length, P masked positions, V vocab.
"""

import jax
import jax.numpy as jnp
from flax import linen as nn

from electra_jax.models.config import PretrainingConfig
from electra_jax.models.inputs import SpecialTokens
from electra_jax.models.pretraining import MaskedLanguageModel
from electra_jax.objectives.base import EPSILON, Objective, Sums
from electra_jax.objectives.corruption import MaskedBatch, mask_tokens


def mlm_loss(logits_BPV: jax.Array, batch: MaskedBatch, normalizer: jax.Array) -> tuple[jax.Array, Sums]:
    """Cross-entropy of the original ids at the masked positions, summed and divided by `normalizer`; and its sums."""
    # Of V numbers a position the loss and the accuracy need the maximum, the sum and the target's logit. The target is picked
    # by comparing indices: that stays inside a shard of the vocabulary and has no scatter as its derivative.
    max_BP = jax.lax.stop_gradient(logits_BPV.max(axis=-1))
    exp_BPV = jnp.exp(logits_BPV - max_BP[..., None])
    total_BP = exp_BPV.sum(axis=-1)
    index_BPV = jax.lax.broadcasted_iota(jnp.int32, logits_BPV.shape, 2)
    target_logit_BP = jnp.where(index_BPV == batch.targets_BP[..., None], logits_BPV, 0.0).sum(axis=-1)
    nll_BP = jnp.log(total_BP) + max_BP - target_logit_BP
    nll = (batch.weights_BP * nll_BP).sum()
    # Entropy of the softmax, log Z − E[logit]: tells whether the generator is still close to uniform.
    expected_BP = jax.lax.stop_gradient((exp_BPV * (logits_BPV - max_BP[..., None])).sum(axis=-1) / total_BP)
    entropy_BP = jax.lax.stop_gradient(jnp.log(total_BP)) - expected_BP
    is_correct_BP = jax.lax.stop_gradient(target_logit_BP) >= max_BP
    sums = {
        "mlm_nll": nll,
        "mlm_correct": (batch.weights_BP * is_correct_BP).sum(),
        "mlm_entropy": (batch.weights_BP * entropy_BP).sum(),
        "mlm_weight": batch.weights_BP.sum(),
    }
    return nll / normalizer, sums


def mlm_normalizer(batch: MaskedBatch) -> jax.Array:
    """Number of predicted positions in the global batch."""
    return batch.weights_BP.sum() + EPSILON


def apply_rngs(dropout_key: jax.Array | None, name: str) -> dict[str, jax.Array]:
    """Random streams of one forward pass; generator and discriminator draw independent dropout masks."""
    return {} if dropout_key is None else {"dropout": jax.random.fold_in(dropout_key, {"generate": 0, "discriminate": 1}[name])}


def make_prepare(objective: dict, special: SpecialTokens, type_vocab_size: int):
    """Masking as configured: (key, ids [B, L]) → MaskedBatch."""

    def prepare(key: jax.Array, ids_BL: jax.Array) -> MaskedBatch:
        return mask_tokens(key, ids_BL, special, mask_prob=objective["mask_prob"],
                           mask_token_prob=objective["mask_token_prob"], type_vocab_size=type_vocab_size)

    return prepare


def make_init(model: nn.Module, prepare):
    """Initialiser of a pre-training model: (key, sequence_length) → parameters with logical axes."""

    def init(key: jax.Array, sequence_length: int):
        batch = prepare(key, jnp.ones((1, sequence_length), jnp.int32))
        return model.init(key, batch.ids_BL, batch.inputs, batch.positions_BP)["params"]

    return init


def make_mlm_objective(config: PretrainingConfig, objective: dict, special: SpecialTokens) -> Objective:
    """The papers' baseline: an encoder of the discriminator's size, dynamic masking, no next-sentence prediction."""
    model = MaskedLanguageModel(config)
    prepare = make_prepare(objective, special, config.discriminator.type_vocab_size)

    def loss(params, batch, normalizers, dropout_key):
        logits_BPV = model.apply({"params": params}, batch.masked_ids_BL, batch.inputs, batch.positions_BP,
                                 is_training=dropout_key is not None, method="generate",
                                 rngs=apply_rngs(dropout_key, "generate"))
        value, sums = mlm_loss(logits_BPV, batch, normalizers["mlm"])
        return value, sums | {"tokens": batch.inputs.is_token_BL.sum(dtype=jnp.float32)}

    return Objective(make_init(model, prepare), prepare,
                     lambda batch: {"mlm": mlm_normalizer(batch)}, loss)
