"""Electric: an energy a token, by noise-contrastive estimation (google-research/electra run_pretraining.py,
electric_objective; the paper, Clark et al., "Pre-Training Transformers as Energy-Based Cloze Models", EMNLP
2020, was not at hand).

Of every token it is asked whether it is text or noise. With a share m of noise from q, the odds of noise are
m·q(x_t)/((1 − m)·p(x_t)): so the logit is given log q and log(m/(1 − m)), and what is left for the
discriminator to learn is the energy −log p(x_t) of the token in its context.

Shapes: B batch, L length, P noise positions.
"""

import math

import jax
import jax.numpy as jnp

from electra_jax.models.ablations import TwoTowerModel
from electra_jax.models.config import PretrainingConfig
from electra_jax.models.inputs import SpecialTokens
from electra_jax.models.pretraining import gather_positions
from electra_jax.objectives.ablations import check_chunks, require_absolute_positions
from electra_jax.objectives.adversarial import require_plain_samples
from electra_jax.objectives.base import EPSILON, Objective, Phase
from electra_jax.objectives.corruption import MaskedBatch, chosen_positions, is_ordinary, write_tokens
from electra_jax.objectives.mlm import apply_rngs, make_init, make_prepare
from electra_jax.objectives.rtd import detection_logits, rtd_loss, token_count
from electra_jax.objectives.vocabulary import VocabularyPredictions, predict_vocabulary


def noise_logits(energy_BL: jax.Array, log_noise_BL: jax.Array, noise_share: float) -> jax.Array:
    """Logit of "this token is noise": energy + log q + log(m/(1 − m)); log q has no gradient."""
    return energy_BL + jax.lax.stop_gradient(log_noise_BL) + math.log(noise_share / (1.0 - noise_share))


def make_electric_objective(config: PretrainingConfig, objective: dict, special: SpecialTokens) -> Objective:
    """gen_weight·(cross-entropy of the noise model, at every token that is not special) + disc_weight·(noise
    or text, at all).

    A token counts as noise where it was drawn, also when it came out as it was. The rtd_… metrics are of that
    question, mlm_… those of the noise model. Logits of all positions are computed in pieces of the
    vocabulary.

    Raises: ValueError: config.model is not an ELECTRA with tied embeddings, or config.objective's temperature
      is not 1 or its vocab_chunk_size not a piece of the vocabulary.
    """
    require_absolute_positions(config, objective)
    require_plain_samples(objective)
    check_chunks(config, objective)
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
            "tokens": token_count(batch.inputs),
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
    return Objective(make_init(model, prepare), prepare, normalizers, (Phase("joint", modules, loss),))


def draw_noise(
    model: TwoTowerModel, objective: dict, params, batch: MaskedBatch, dropout_key: jax.Array | None
) -> tuple[VocabularyPredictions, jax.Array, jax.Array]:
    """(the noise model's loss terms at all positions [B, L], log q of each token that stands there after the
    noise [B, L], the ids with noise [B, L]). The noise model reads the text as it is, since it cannot see the
    token it predicts."""
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
    # A second and a third look at the chosen positions alone, without gradients.
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
