"""Masked language modelling: the generator's loss, which other objectives share, and the baseline objective.

Shapes: B batch, L length, P masked positions.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from electra_jax.models.config import PretrainingConfig
from electra_jax.models.flops import generator_flops, masked_head_flops
from electra_jax.models.heads import VocabularyLogits
from electra_jax.models.inputs import SpecialTokens
from electra_jax.models.pretraining import MaskedLanguageModel
from electra_jax.objectives.base import EPSILON, TOKENS, Objective, Phase, Sums
from electra_jax.objectives.corruption import MASKING, MaskedBatch, RandomTokens, mask_tokens, masked_targets
from electra_jax.objectives.denoisers import choose_denoised_positions, denoisers_of
from electra_jax.objectives.metrics import mean_metric, prediction_metrics
from electra_jax.objectives.row import ObjectiveRow
from electra_jax.objectives.vocabulary import (
    VocabularyPredictions,
    predict_vocabulary,
    predict_with_log_total,
)

PASSES = ("generate", "discriminate", "regenerate", "rediscriminate")
# Keys of config.model, or their beginnings, that mean nothing for one encoder of the discriminator's shape.
UNUSED_MODEL_KEYS = ("generator.", "embedding_sharing")
MLM_METRICS = prediction_metrics("mlm", entropy="generator_entropy")
# The metric of z-loss: the mean square of log Z, Z the sum of the exponentials of a prediction's logits. The
# loss keeps logits from drifting (Chowdhery et al. 2022, PaLM, §5). A row with this metric takes
# config.objective.z_loss_weight; with 0 the program has no such term.
Z_LOSS_METRIC = mean_metric("mlm_z_loss", "mlm_z", "mlm_weight")


def mlm_loss(
    predictions: VocabularyPredictions,
    batch: MaskedBatch,
    normalizer: jax.Array,
    name: str = "mlm",
    z_loss_weight: float = 0.0,
) -> tuple[jax.Array, Sums]:
    """Cross-entropy of the original ids at the masked positions, with z-loss if it has a weight, summed and
    divided by `normalizer`.

    Returns:
      The loss and its sums, whose names begin with `name` (see `prediction_metrics`).
    """
    nll = (batch.weights_BP * predictions.nll_BP).sum()
    sums = {
        f"{name}_nll": nll,
        f"{name}_correct": (batch.weights_BP * predictions.is_correct_BP).sum(),
        # Entropy of the softmax: shows whether the generator is still close to uniform.
        f"{name}_entropy": (batch.weights_BP * predictions.entropy_BP).sum(),
        f"{name}_weight": batch.weights_BP.sum(),
    }
    if not z_loss_weight:
        return nll / normalizer, sums
    z_loss = (batch.weights_BP * jnp.square(predictions.log_total_BP)).sum()
    return (nll + z_loss_weight * z_loss) / normalizer, sums | {f"{name}_z": z_loss}


def mlm_normalizer(batch: MaskedBatch) -> jax.Array:
    """Number of predicted positions in the global batch."""
    return batch.weights_BP.sum() + EPSILON


def apply_rngs(dropout_key: jax.Array | None, name: str) -> dict[str, jax.Array]:
    """Random streams of the forward pass `name`, one of PASSES; each draws independent dropout masks."""
    return {} if dropout_key is None else {"dropout": jax.random.fold_in(dropout_key, PASSES.index(name))}


def predict_masked(
    model: nn.Module,
    objective: Mapping[str, Any],
    params,
    batch: MaskedBatch,
    dropout_key: jax.Array | None,
    uniforms_BP: jax.Array | None,
    name: str = "generate",
) -> VocabularyPredictions:
    """The generator's forward pass: loss terms at the masked positions, and samples if uniforms are given."""
    logits = model.apply(
        {"params": params},
        batch.masked_ids_BL,
        batch.inputs,
        batch.positions_BP,
        is_training=dropout_key is not None,
        method="generate",
        rngs=apply_rngs(dropout_key, name),
    )
    return score_masked(objective, logits, batch, uniforms_BP)


def score_masked(
    objective: Mapping[str, Any], logits: VocabularyLogits, batch: MaskedBatch, uniforms_BP: jax.Array | None
) -> VocabularyPredictions:
    """Loss terms of logits at the masked positions, and samples if uniforms are given."""
    predict = predict_with_log_total if objective["z_loss_weight"] else predict_vocabulary
    return predict(
        *logits,
        batch.targets_BP,
        uniforms_BP,
        temperature=1.0 if uniforms_BP is None else objective["temperature"],
        chunk_size=objective["vocab_chunk_size"],
        dtype=logits.x_BPE.dtype.name,
    )


def make_prepare(
    objective: Mapping[str, Any],
    special: SpecialTokens,
    type_vocab_size: int,
    random_tokens: RandomTokens | None = None,
) -> Callable[[jax.Array, jax.Array], MaskedBatch]:
    """Masking as configured: (key, ids [B, L]) → MaskedBatch.

    Args:
      objective: config.objective as `registry.make_objective` hands it on.

    Raises:
      ValueError: config.objective.masking is unknown.
    """
    if objective["masking"] not in MASKING:
        raise ValueError(
            f"config.objective.masking: got {objective['masking']!r}, expected one of {sorted(MASKING)}."
        )
    masking = objective["masking"]
    if denoisers := denoisers_of(objective):
        masking = functools.partial(
            choose_denoised_positions, denoisers=denoisers, pieces=objective["pieces"]
        )

    def prepare(key: jax.Array, ids_BL: jax.Array) -> MaskedBatch:
        return mask_tokens(
            key,
            ids_BL,
            special,
            mask_prob=objective["mask_prob"],
            masking=masking,
            mask_token_prob=objective["mask_token_prob"],
            type_vocab_size=type_vocab_size,
            random_tokens=random_tokens,
        )

    return prepare


def make_init(model: nn.Module, mask: Callable[[jax.Array, jax.Array], MaskedBatch]):
    """Initialiser of a pre-training model: (key, sequence length) → parameters with logical axes. `mask` is
    what `make_prepare` returns."""

    def init(key: jax.Array, sequence_length: int):
        batch = mask(key, jnp.ones((1, sequence_length), jnp.int32))
        return model.init(key, batch.ids_BL, batch.inputs, batch.positions_BP)["params"]

    return init


def make_mlm_objective(
    config: PretrainingConfig, objective: Mapping[str, Any], special: SpecialTokens
) -> Objective:
    """The papers' baseline: an encoder of the discriminator's size, dynamic masking, no next-sentence
    prediction.

    Raises:
      ValueError: more random tokens than config.objective.mask_token_prob leaves.
    """
    random_prob, most = objective["random_token_prob"], 1.0 - objective["mask_token_prob"]
    if not 0.0 <= random_prob <= most + EPSILON:
        raise ValueError(
            f"config.objective.random_token_prob: got {random_prob}, expected "
            f"0 … {most:g}, what config.objective.mask_token_prob leaves."
        )
    model, encoder = MaskedLanguageModel(config), config.discriminator
    random_tokens = RandomTokens(random_prob, encoder.vocab_size) if random_prob else None
    prepare = make_prepare(objective, special, encoder.type_vocab_size, random_tokens)

    def loss(params, batch, normalizers, dropout_key, carry):
        predictions = predict_masked(model, objective, params, batch, dropout_key, None)
        value, sums = mlm_loss(
            predictions, batch, normalizers["mlm"], z_loss_weight=objective["z_loss_weight"]
        )
        return value, (sums | {TOKENS: batch.inputs.is_token_BL.sum(dtype=jnp.float32)}, carry)

    return Objective(
        init=make_init(model, prepare),
        prepare=prepare,
        normalizers=lambda batch: {"mlm": mlm_normalizer(batch)},
        phases=(Phase("mlm", ("embeddings", "generator", "generator_predictions"), loss),),
        targets=masked_targets,
    )


def mlm_flops(config: PretrainingConfig, sequence_length: int, objective: Mapping[str, Any]) -> float:
    """One encoder of the discriminator's shape, and its head on the masked positions."""
    return generator_flops(config.discriminator, sequence_length) + masked_head_flops(
        config.discriminator, objective["mask_prob"]
    )


MLM = ObjectiveRow(
    name="mlm",
    title="masked language modelling",
    make=make_mlm_objective,
    flops=mlm_flops,
    metrics=(MLM_METRICS, Z_LOSS_METRIC),
    # Share of the chosen tokens that become any token. BERT: mask_token_prob=0.8, random_token_prob=0.1.
    settings={"random_token_prob": 0.0},
    not_read=("gen_weight", "disc_weight", "temperature"),
    predicts_tokens=True,
    card_text="An encoder pre-trained with plain masked language modelling, to be fine-tuned or used "
    "to fill in masks.",
)
