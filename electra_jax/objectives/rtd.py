"""Replaced token detection (ELECTRA §2): the losses of generator and discriminator that objectives share.

Shapes: B batch, L length.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from electra_jax.models.config import PretrainingConfig
from electra_jax.models.inputs import EncoderInputs, SpecialTokens
from electra_jax.models.pretraining import PretrainingModel
from electra_jax.objectives.base import EPSILON, TOKENS, Objective, Phase, Sums
from electra_jax.objectives.corruption import MaskedBatch, masked_targets, write_tokens
from electra_jax.objectives.metrics import detection_metrics
from electra_jax.objectives.mlm import (
    apply_rngs,
    make_init,
    make_prepare,
    mlm_loss,
    mlm_normalizer,
    predict_masked,
)

RTD_METRICS = detection_metrics("rtd", "replaced_rate", drawn="mask_prob")
# Logit bins of the mergeable AUC. Early in training all logits lie within a few tenths, so the bins are
# narrow (0.01).
HISTOGRAM_LIMIT, HISTOGRAM_BINS = 10.24, 2048
EMBEDDINGS = ("generator_embeddings", "discriminator_embeddings")
ENCODERS = ("generator", "generator_predictions", "discriminator", "discriminator_predictions")


def rtd_loss(
    logits_BL: jax.Array,
    is_replaced_BL: jax.Array,
    is_token_BL: jax.Array,
    normalizer: jax.Array,
    name: str = "rtd",
) -> tuple[jax.Array, Sums]:
    """Binary cross-entropy of "replaced" on every real token, [CLS] and [SEP] included, divided by
    `normalizer`.

    Returns:
      The loss and its sums, whose names begin with `name` (see `detection_metrics`).
    """
    bce = (is_token_BL.astype(jnp.float32) * binary_cross_entropy(logits_BL, is_replaced_BL)).sum()
    sums = detection_sums(jax.lax.stop_gradient(logits_BL), is_replaced_BL, is_token_BL, name)
    return bce / normalizer, {f"{name}_bce": bce} | sums


def binary_cross_entropy(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Cross-entropy of each bool label; log(1 + e^x) − x·y, the stable form."""
    return jax.nn.softplus(logits) - logits * labels.astype(jnp.float32)


def detection_sums(
    logits_BL: jax.Array, is_replaced_BL: jax.Array, is_token_BL: jax.Array, name: str
) -> Sums:
    """Confusion counts at logit 0 and histograms of the logits of replaced and original tokens."""
    predicted_BL = logits_BL > 0
    count = lambda condition_BL: (condition_BL & is_token_BL).sum(dtype=jnp.float32)
    scaled_BL = (logits_BL + HISTOGRAM_LIMIT) * (HISTOGRAM_BINS / (2 * HISTOGRAM_LIMIT))
    bins_BL = jnp.clip(scaled_BL.astype(jnp.int32), 0, HISTOGRAM_BINS - 1) + jnp.where(
        is_replaced_BL, HISTOGRAM_BINS, 0
    )
    histogram = jnp.zeros(2 * HISTOGRAM_BINS).at[bins_BL.ravel()].add(is_token_BL.ravel().astype(jnp.float32))
    return {
        f"{name}_true_positive": count(predicted_BL & is_replaced_BL),
        f"{name}_false_positive": count(predicted_BL & ~is_replaced_BL),
        f"{name}_false_negative": count(~predicted_BL & is_replaced_BL),
        f"{name}_true_negative": count(~predicted_BL & ~is_replaced_BL),
        f"{name}_histogram": histogram.reshape(2, HISTOGRAM_BINS),  # [original | replaced, bins]
    }


def embedding_modules(config: PretrainingConfig) -> tuple[str, ...]:
    """The top-level modules of PretrainingModel that hold embeddings."""
    return ("embeddings",) if config.shares_embeddings else EMBEDDINGS


def generator_loss(
    model: nn.Module,
    objective: Mapping[str, Any],
    params,
    batch: MaskedBatch,
    normalizer: jax.Array,
    dropout_key: jax.Array | None,
) -> tuple[jax.Array, tuple[Sums, jax.Array]]:
    """(MLM without gen_weight, (its sums, the ids with the generator's samples [B, L])), from one forward
    pass."""
    predictions = predict_masked(model, objective, params, batch, dropout_key, batch.uniforms_BP)
    value, sums = mlm_loss(predictions, batch, normalizer, z_loss_weight=objective["z_loss_weight"])
    corrupted_BL = write_tokens(batch.ids_BL, batch.positions_BP, predictions.samples_BP, batch.weights_BP)
    return value, (sums, corrupted_BL)


def detection_logits(
    model: nn.Module, params, corrupted_BL: jax.Array, inputs: EncoderInputs, dropout_key: jax.Array | None
) -> jax.Array:
    """The discriminator's logits [B, L]."""
    return model.apply(
        {"params": params},
        corrupted_BL,
        inputs,
        is_training=dropout_key is not None,
        method="discriminate",
        rngs=apply_rngs(dropout_key, "discriminate"),
    )


def token_count(inputs: EncoderInputs) -> jax.Array:
    """Number of real tokens, the sum TOKENS."""
    return inputs.is_token_BL.sum(dtype=jnp.float32)


def rtd_normalizers(batch: MaskedBatch) -> dict[str, jax.Array]:
    """Denominators "mlm", the masked positions, and "rtd", the real tokens."""
    return {"mlm": mlm_normalizer(batch), "rtd": token_count(batch.inputs) + EPSILON}


class Losses(NamedTuple):
    """The weighted losses of generator and discriminator, each with the signature of `Phase.loss`."""

    generator: Callable  # its carry is the corrupted ids [B, L]
    discriminator: Callable  # takes that carry
    objective: Callable[[tuple[Phase, ...]], Objective]  # an objective that consists of these phases


def make_losses(config: PretrainingConfig, objective: Mapping[str, Any], special: SpecialTokens) -> Losses:
    """The losses over one `PretrainingModel`."""
    model = PretrainingModel(config)
    prepare = make_prepare(objective, special, config.discriminator.type_vocab_size)

    def generator(params, batch: MaskedBatch, normalizers, dropout_key, carry):
        del carry
        value, measured = generator_loss(model, objective, params, batch, normalizers["mlm"], dropout_key)
        return objective["gen_weight"] * value, measured

    def discriminator(params, batch: MaskedBatch, normalizers, dropout_key, corrupted_BL):
        logits_BL = detection_logits(model, params, corrupted_BL, batch.inputs, dropout_key)
        # A sample equal to the original counts as original (ELECTRA §2).
        value, sums = rtd_loss(
            logits_BL, corrupted_BL != batch.ids_BL, batch.inputs.is_token_BL, normalizers["rtd"]
        )
        return objective["disc_weight"] * value, (sums | {TOKENS: token_count(batch.inputs)}, None)

    return Losses(
        generator,
        discriminator,
        lambda phases: Objective(
            init=make_init(model, prepare),
            prepare=prepare,
            normalizers=rtd_normalizers,
            phases=phases,
            targets=masked_targets,
        ),
    )
