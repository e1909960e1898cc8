"""Replaced token detection: ELECTRA's joint update (ELECTRA §2) and DeBERTaV3's alternating one (DeBERTaV3
§3.3).

Shapes: B batch, L length.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from electra_jax.models.config import PretrainingConfig
from electra_jax.models.inputs import EncoderInputs, SpecialTokens
from electra_jax.models.pretraining import PretrainingModel
from electra_jax.objectives.base import EPSILON, Objective, Phase, Sums
from electra_jax.objectives.corruption import MaskedBatch, write_tokens
from electra_jax.objectives.mlm import (
    apply_rngs,
    make_init,
    make_prepare,
    mlm_loss,
    mlm_normalizer,
    predict_masked,
)

# Logit bins of the mergeable AUC. Early in training all logits lie within a few tenths, so the bins are
# narrow (0.01).
HISTOGRAM_LIMIT, HISTOGRAM_BINS = 10.24, 2048


def rtd_loss(
    logits_BL: jax.Array,
    is_replaced_BL: jax.Array,
    is_token_BL: jax.Array,
    normalizer: jax.Array,
    name: str = "rtd",
) -> tuple[jax.Array, Sums]:
    """Binary cross-entropy of "replaced" on every real token, [CLS] and [SEP] included, divided by
    `normalizer`; and its sums, by `name`."""
    bce = (is_token_BL.astype(jnp.float32) * binary_cross_entropy(logits_BL, is_replaced_BL)).sum()
    sums = detection_sums(jax.lax.stop_gradient(logits_BL), is_replaced_BL, is_token_BL, name)
    return bce / normalizer, {f"{name}_bce": bce} | sums


def binary_cross_entropy(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Of each bool label; log(1 + e^x) − x·y, the stable form."""
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


def make_electra_objective(config: PretrainingConfig, objective: dict, special: SpecialTokens) -> Objective:
    """gen_weight·MLM + disc_weight·RTD in one update, one forward pass of the generator serving its loss and
    the samples."""
    losses = make_losses(config, objective, special)

    def loss(params, batch: MaskedBatch, normalizers, dropout_key, carry):
        del carry
        shared = params, batch, normalizers, dropout_key
        generator_loss, (generator_sums, corrupted_BL) = losses.generator(*shared, None)
        discriminator_loss, (discriminator_sums, _) = losses.discriminator(*shared, corrupted_BL)
        return generator_loss + discriminator_loss, (generator_sums | discriminator_sums, None)

    return losses.objective((Phase("joint", (*embedding_modules(config), *ENCODERS), loss),))


def make_deberta_v3_objective(
    config: PretrainingConfig, objective: dict, special: SpecialTokens
) -> Objective:
    """DeBERTaV3's alternation (§3.3): the generator is updated first; the discriminator then reads its
    *updated* embeddings.

    With tied embeddings, whose tables both losses move, the update is a joint one, as in ELECTRA.
    """
    if config.embedding_sharing == "tied":
        return make_electra_objective(config, objective, special)
    losses = make_losses(config, objective, special)
    modules = (*EMBEDDINGS, *ENCODERS)
    return losses.objective(
        tuple(
            Phase(name, tuple(module for module in modules if module.startswith(name)), getattr(losses, name))
            for name in ("generator", "discriminator")
        )
    )


EMBEDDINGS = ("generator_embeddings", "discriminator_embeddings")
ENCODERS = ("generator", "generator_predictions", "discriminator", "discriminator_predictions")


def embedding_modules(config: PretrainingConfig) -> tuple[str, ...]:
    """The top-level modules of PretrainingModel that hold embeddings."""
    shares_module = config.embedding_sharing == "tied" and config.discriminator.disentangled is None
    return ("embeddings",) if shares_module else EMBEDDINGS


def generator_loss(
    model: nn.Module,
    objective: dict,
    params,
    batch: MaskedBatch,
    normalizer: jax.Array,
    dropout_key: jax.Array | None,
) -> tuple[jax.Array, tuple[Sums, jax.Array]]:
    """(gen_weight·MLM, (its sums, the batch with the generator's samples [B, L])): one forward pass serves
    both."""
    predictions = predict_masked(model, objective, params, batch, dropout_key, batch.uniforms_BP)
    value, sums = mlm_loss(predictions, batch, normalizer)
    corrupted_BL = write_tokens(batch.ids_BL, batch.positions_BP, predictions.samples_BP, batch.weights_BP)
    return objective["gen_weight"] * value, (sums, corrupted_BL)


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
    """Real tokens, the sum "tokens" of every objective."""
    return inputs.is_token_BL.sum(dtype=jnp.float32)


class Losses(NamedTuple):
    """The two weighted losses in the form that `Phase` wants; the generator's carry is the corrupted batch
    [B, L]."""

    generator: Callable
    discriminator: Callable
    objective: Callable[[tuple[Phase, ...]], Objective]


def make_losses(config: PretrainingConfig, objective: dict, special: SpecialTokens) -> Losses:
    """Losses over one model, and the objective that is made of phases of them."""
    model = PretrainingModel(config)
    prepare = make_prepare(objective, special, config.discriminator.type_vocab_size)

    def normalizers(batch: MaskedBatch):
        return {"mlm": mlm_normalizer(batch), "rtd": token_count(batch.inputs) + EPSILON}

    def generator(params, batch: MaskedBatch, normalizers, dropout_key, carry):
        del carry
        return generator_loss(model, objective, params, batch, normalizers["mlm"], dropout_key)

    def discriminator(params, batch: MaskedBatch, normalizers, dropout_key, corrupted_BL):
        logits_BL = detection_logits(model, params, corrupted_BL, batch.inputs, dropout_key)
        # A sample equal to the original counts as original (ELECTRA §2).
        value, sums = rtd_loss(
            logits_BL, corrupted_BL != batch.ids_BL, batch.inputs.is_token_BL, normalizers["rtd"]
        )
        return objective["disc_weight"] * value, (sums | {"tokens": token_count(batch.inputs)}, None)

    return Losses(
        generator,
        discriminator,
        lambda phases: Objective(make_init(model, prepare), prepare, normalizers, phases),
    )
