"""Electric: an energy per token, by noise-contrastive estimation.

Written after google-research/electra run_pretraining.py, electric_objective; the paper, Clark et al.,
"Pre-Training Transformers as Energy-Based Cloze Models", EMNLP 2020, was not available.

The discriminator classifies every token as text or noise. With a share m of noise from q, the odds of noise
are m·q(x_t)/((1 − m)·p(x_t)). log q and log(m/(1 − m)) are added to the logit, so the discriminator learns
the remaining term: the energy −log p(x_t) of the token in its context.

Shapes: B batch, L length, P noise positions.
"""

import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from electra_jax.models.ablations import TwoTowerModel
from electra_jax.models.config import PretrainingConfig
from electra_jax.models.flops import discriminator_flops, encoder_flops, masked_head_flops
from electra_jax.models.inputs import SpecialTokens
from electra_jax.models.pretraining import gather_positions
from electra_jax.objectives.base import EPSILON, TOKENS, Objective, Phase
from electra_jax.objectives.corruption import (
    MaskedBatch,
    chosen_positions,
    is_ordinary,
    masked_targets,
    write_tokens,
)
from electra_jax.objectives.mlm import MLM_METRICS, apply_rngs, make_init, make_prepare
from electra_jax.objectives.requirements import (
    require_absolute_positions,
    require_one_mask_prob,
    require_plain_samples,
    require_vocabulary_chunks,
)
from electra_jax.objectives.row import ObjectiveRow
from electra_jax.objectives.rtd import RTD_METRICS, detection_logits, rtd_loss, token_count
from electra_jax.objectives.vocabulary import VocabularyPredictions, predict_vocabulary


def noise_logits(energy_BL: jax.Array, log_noise_BL: jax.Array, noise_share: float) -> jax.Array:
    """Logit of "this token is noise": energy + log q + log(m/(1 − m)); log q has no gradient."""
    return energy_BL + jax.lax.stop_gradient(log_noise_BL) + math.log(noise_share / (1.0 - noise_share))


def make_electric_objective(
    config: PretrainingConfig, objective: Mapping[str, Any], special: SpecialTokens
) -> Objective:
    """gen_weight·(cross-entropy of the noise model, at every token that is not special) + disc_weight·(noise
    or text, at every token).

    A drawn token counts as noise even if it equals the original. The metrics rtd_… are of noise or text,
    mlm_… of the noise model. The logits of all positions are computed in chunks of the vocabulary.

    Raises:
      ValueError: config.model is not an ELECTRA with tied embeddings, config.objective.temperature is not 1,
        there are config.objective.denoisers, or config.objective.vocab_chunk_size is not smaller than the
        vocabulary.
    """
    require_absolute_positions(config, objective)
    require_plain_samples(objective)
    require_one_mask_prob(objective)
    require_vocabulary_chunks(config, objective)
    if config.embedding_sharing != "tied":
        raise ValueError(
            f"config.model.embedding_sharing: got {config.embedding_sharing!r}, expected 'tied' with "
            "config.objective.name='electric'."
        )
    model = TwoTowerModel(config)
    prepare = make_prepare(objective, special, config.discriminator.type_vocab_size)

    def normalizers(batch: MaskedBatch):
        return {
            "mlm": is_ordinary(batch.ids_BL, special).sum(dtype=jnp.float32) + EPSILON,
            "rtd": token_count(batch.inputs) + EPSILON,
        }

    def loss(params, batch: MaskedBatch, normalizers, dropout_key, carry):
        del carry
        noise, log_noise_BL, corrupted_BL = draw_noise(model, objective, params, batch, dropout_key)
        weights_BL = is_ordinary(batch.ids_BL, special).astype(jnp.float32)
        nll = (weights_BL * noise.nll_BP).sum()
        sums = {
            "mlm_nll": nll,
            "mlm_correct": (weights_BL * noise.is_correct_BP).sum(),
            "mlm_entropy": (weights_BL * noise.entropy_BP).sum(),
            "mlm_weight": weights_BL.sum(),
            TOKENS: token_count(batch.inputs),
        }
        energy_BL = detection_logits(model, params, corrupted_BL, batch.inputs, dropout_key)
        logits_BL = noise_logits(energy_BL, log_noise_BL, objective["mask_prob"])
        is_noise_BL = chosen_positions(batch.positions_BP, batch.weights_BP, batch.ids_BL.shape[1])
        value, detection = rtd_loss(logits_BL, is_noise_BL, batch.inputs.is_token_BL, normalizers["rtd"])
        return (
            objective["gen_weight"] * nll / normalizers["mlm"] + objective["disc_weight"] * value,
            (sums | detection, None),
        )

    modules = (
        "embeddings",
        "generator_left",
        "generator_right",
        "generator_predictions",
        "discriminator",
        "discriminator_predictions",
    )
    return Objective(
        init=make_init(model, prepare),
        prepare=prepare,
        normalizers=normalizers,
        phases=(Phase("joint", modules, loss),),
        targets=masked_targets,
    )


def draw_noise(
    model: TwoTowerModel,
    objective: Mapping[str, Any],
    params,
    batch: MaskedBatch,
    dropout_key: jax.Array | None,
) -> tuple[VocabularyPredictions, jax.Array, jax.Array]:
    """The noise model's forward pass over the original text; it cannot see the token that it predicts.

    Returns:
      Its loss terms at all positions [B, L], log q of each token after the noise [B, L], and the ids with
      noise [B, L].
    """
    logits = model.apply(
        {"params": params},
        batch.ids_BL,
        batch.inputs,
        is_training=dropout_key is not None,
        method="generate",
        rngs=apply_rngs(dropout_key, "generate"),
    )
    options = {
        "temperature": 1.0,
        "chunk_size": objective["vocab_chunk_size"],
        "dtype": logits.x_BPE.dtype.name,
    }
    everywhere = predict_vocabulary(*logits, batch.ids_BL, None, **options)
    # Two more passes over the vocabulary, at the chosen positions alone and without gradients.
    chosen = jax.lax.stop_gradient(logits._replace(x_BPE=gather_positions(logits.x_BPE, batch.positions_BP)))
    samples_BP = predict_vocabulary(*chosen, batch.targets_BP, batch.uniforms_BP, **options).samples_BP
    sampled = predict_vocabulary(*chosen, samples_BP, None, **options)
    rows_B1, length = jnp.arange(batch.ids_BL.shape[0])[:, None], batch.ids_BL.shape[1]
    columns_BP = jnp.where(batch.weights_BP > 0, batch.positions_BP, length)  # out of range: dropped
    log_noise_BL = (
        jax.lax.stop_gradient(-everywhere.nll_BP).at[rows_B1, columns_BP].set(-sampled.nll_BP, mode="drop")
    )
    return (
        everywhere,
        log_noise_BL,
        write_tokens(batch.ids_BL, batch.positions_BP, samples_BP, batch.weights_BP),
    )


def electric_flops(config: PretrainingConfig, sequence_length: int, objective: Mapping[str, Any]) -> float:
    """Two towers of the generator's shape, a head on both of their states and on every position, one third of
    two more products with the vocabulary at the noise positions (`draw_noise`), and a discriminator. A step
    is counted as three forward passes, and those products have no backward pass."""
    generator = config.generator
    noise = 2 * objective["mask_prob"] * 2 * generator.embedding_size * generator.vocab_size
    return (
        2 * encoder_flops(generator, sequence_length)
        + 2 * generator.hidden_size * generator.embedding_size
        + masked_head_flops(generator, 1.0)
        + noise / 3
        + discriminator_flops(config, sequence_length)
    )


ELECTRIC = ObjectiveRow(
    name="electric",
    title="Electric",
    make=make_electric_objective,
    flops=electric_flops,
    metrics=(MLM_METRICS, RTD_METRICS),
    needs_chunks=True,
    logit_is_log_odds=False,
    card_text="The discriminator of Electric: **the model to fine-tune**. Its logit for a token is an "
    "energy: the larger it is, the less likely the token is in its context.",
    not_published=("generator_left", "generator_right"),
    not_published_note="the two-tower noise model, for which transformers has no class. The discriminator's "
    "logit is an energy: the larger it is, the less likely the token is in its context",
    continues_as="electra",
)
