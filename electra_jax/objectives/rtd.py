"""Replaced token detection: ELECTRA's joint objective (ELECTRA §2; run_pretraining.py).

Shapes: B batch, L length, P masked positions, V vocab.
"""

import jax
import jax.numpy as jnp

from electra_jax.models.config import PretrainingConfig
from electra_jax.models.inputs import SpecialTokens
from electra_jax.models.pretraining import PretrainingModel
from electra_jax.objectives.base import EPSILON, Objective, Sums
from electra_jax.objectives.corruption import MaskedBatch, sample_tokens, write_tokens
from electra_jax.objectives.mlm import apply_rngs, make_init, make_prepare, mlm_loss, mlm_normalizer

# Logit bins of the mergeable AUC. Early in training all logits lie within a few tenths, so the bins are narrow (0.01).
HISTOGRAM_LIMIT, HISTOGRAM_BINS = 10.24, 2048


def rtd_loss(logits_BL: jax.Array, is_replaced_BL: jax.Array, is_token_BL: jax.Array,
             normalizer: jax.Array) -> tuple[jax.Array, Sums]:
    """Binary cross-entropy of "replaced" on every real token, [CLS] and [SEP] included, divided by `normalizer`."""
    weights_BL = is_token_BL.astype(jnp.float32)
    labels_BL = is_replaced_BL.astype(jnp.float32)
    # log(1 + e^x) − x·y, the stable form of the sigmoid cross-entropy.
    bce_BL = jax.nn.softplus(logits_BL) - logits_BL * labels_BL
    bce = (weights_BL * bce_BL).sum()
    return bce / normalizer, {"rtd_bce": bce} | detection_sums(jax.lax.stop_gradient(logits_BL), is_replaced_BL, is_token_BL)


def detection_sums(logits_BL: jax.Array, is_replaced_BL: jax.Array, is_token_BL: jax.Array) -> Sums:
    """Confusion counts at logit 0 and histograms of the logits of replaced and original tokens."""
    predicted_BL = logits_BL > 0
    count = lambda condition_BL: (condition_BL & is_token_BL).sum(dtype=jnp.float32)  # noqa: E731
    scaled_BL = (logits_BL + HISTOGRAM_LIMIT) * (HISTOGRAM_BINS / (2 * HISTOGRAM_LIMIT))
    bins_BL = jnp.clip(scaled_BL.astype(jnp.int32), 0, HISTOGRAM_BINS - 1) + jnp.where(is_replaced_BL, HISTOGRAM_BINS, 0)
    histogram = jnp.zeros(2 * HISTOGRAM_BINS).at[bins_BL.ravel()].add(is_token_BL.ravel().astype(jnp.float32))
    return {
        "rtd_true_positive": count(predicted_BL & is_replaced_BL),
        "rtd_false_positive": count(predicted_BL & ~is_replaced_BL),
        "rtd_false_negative": count(~predicted_BL & is_replaced_BL),
        "rtd_true_negative": count(~predicted_BL & ~is_replaced_BL),
        "rtd_histogram": histogram.reshape(2, HISTOGRAM_BINS),  # [original | replaced, bins]
    }


def make_electra_objective(config: PretrainingConfig, objective: dict, special: SpecialTokens) -> Objective:
    """gen_weight·MLM + disc_weight·RTD, one forward pass of the generator serving both its loss and the samples."""
    model = PretrainingModel(config)
    prepare = make_prepare(objective, special, config.discriminator.type_vocab_size)

    def normalizers(batch: MaskedBatch):
        return {"mlm": mlm_normalizer(batch), "rtd": batch.inputs.is_token_BL.sum(dtype=jnp.float32) + EPSILON}

    def loss(params, batch: MaskedBatch, normalizers, dropout_key):
        is_training = dropout_key is not None
        logits_BPV = model.apply({"params": params}, batch.masked_ids_BL, batch.inputs, batch.positions_BP, is_training,
                                 method="generate", rngs=apply_rngs(dropout_key, "generate"))
        generator_loss, generator_sums = mlm_loss(logits_BPV, batch, normalizers["mlm"])
        samples_BP = sample_tokens(logits_BPV, batch.uniforms_BP, objective["temperature"])
        corrupted_BL = write_tokens(batch.ids_BL, batch.positions_BP, samples_BP, batch.weights_BP)
        # A sample equal to the original counts as original (ELECTRA §2).
        is_replaced_BL = corrupted_BL != batch.ids_BL
        logits_BL = model.apply({"params": params}, corrupted_BL, batch.inputs, is_training,
                                method="discriminate", rngs=apply_rngs(dropout_key, "discriminate"))
        discriminator_loss, discriminator_sums = rtd_loss(logits_BL, is_replaced_BL, batch.inputs.is_token_BL,
                                                          normalizers["rtd"])
        total = objective["gen_weight"] * generator_loss + objective["disc_weight"] * discriminator_loss
        tokens = {"tokens": batch.inputs.is_token_BL.sum(dtype=jnp.float32)}
        return total, generator_sums | discriminator_sums | tokens

    return Objective(make_init(model, prepare), prepare, normalizers, loss)
