"""Encoders that predict tokens in a text with the generator's samples (ELECTRA §3.5): what Replace MLM and
All-Tokens MLM share. They measure how much of ELECTRA's gain comes from inputs without [MASK].

The loss is gen_weight·MLM of the generator + token_weight·(loss of the encoder), each a mean over the
positions that it predicts. The paper does not state the weights.

Shapes: B batch, L length, P masked positions.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax

from electra_jax.models.ablations import TokenModel
from electra_jax.models.config import PretrainingConfig
from electra_jax.models.inputs import SpecialTokens
from electra_jax.objectives.base import EPSILON, TOKENS, Objective, Phase, Sums
from electra_jax.objectives.corruption import MaskedBatch, masked_targets
from electra_jax.objectives.metrics import mean_metric
from electra_jax.objectives.mlm import (
    Z_LOSS_METRIC,
    apply_rngs,
    make_init,
    make_prepare,
    mlm_normalizer,
)
from electra_jax.objectives.requirements import require_absolute_positions
from electra_jax.objectives.rtd import embedding_modules, generator_loss, token_count
from electra_jax.objectives.vocabulary import VocabularyPredictions, predict_vocabulary

# (params, ids with samples [B, L], batch, normalizers, dropout key) → (loss, sums)
TokenLoss = Callable[..., tuple[jax.Array, Sums]]
TOKEN_METRICS = (
    mean_metric("token_loss", "token_nll", "token_weight"),
    mean_metric("token_accuracy", "token_correct", "mlm_weight"),
    Z_LOSS_METRIC,
)
TOKEN_SETTINGS = {"token_weight": 1.0}  # weight of the encoder's loss; the paper does not state it


def make_token_model(
    config: PretrainingConfig, objective: Mapping[str, Any], *, has_gate: bool
) -> TokenModel:
    """Raises ValueError for encoders other than ELECTRA's: a DeBERTa that predicts tokens ends in a
    decoder."""
    require_absolute_positions(config, objective)
    return TokenModel(config, has_gate)


def make_token_objective(
    model: TokenModel, objective: Mapping[str, Any], special: SpecialTokens, token_loss: TokenLoss
) -> Objective:
    """gen_weight·MLM of the generator + token_weight·token_loss of the encoder that reads its samples, in one
    update."""
    prepare = make_prepare(objective, special, model.config.discriminator.type_vocab_size)

    def loss(params, batch: MaskedBatch, normalizers, dropout_key, carry):
        del carry
        generator_value, (generator_sums, corrupted_BL) = generator_loss(
            model, objective, params, batch, normalizers["mlm"], dropout_key
        )
        value, sums = token_loss(params, corrupted_BL, batch, normalizers, dropout_key)
        return (
            objective["gen_weight"] * generator_value + objective["token_weight"] * value,
            (generator_sums | sums | {TOKENS: token_count(batch.inputs)}, None),
        )

    gate = ("discriminator_gate",) if model.has_gate else ()
    modules = (
        *embedding_modules(model.config),
        "generator",
        "generator_predictions",
        "discriminator",
        "discriminator_tokens",
    )
    return Objective(
        init=make_init(model, prepare),
        prepare=prepare,
        normalizers=lambda batch: {
            "mlm": mlm_normalizer(batch),
            "tokens": token_count(batch.inputs) + EPSILON,
        },
        phases=(Phase("joint", modules + gate, loss),),
        targets=masked_targets,
    )


def predict_tokens(
    model: TokenModel,
    objective: Mapping[str, Any],
    params,
    corrupted_BL: jax.Array,
    batch: MaskedBatch,
    positions_BP: jax.Array | None,
    dropout_key: jax.Array | None,
) -> tuple[VocabularyPredictions, jax.Array | None]:
    """The encoder's forward pass.

    Args:
      positions_BP: where it predicts; None: everywhere.

    Returns:
      Loss terms of the original tokens, [B, P] or [B, L], and the gate's logits [B, L], None without a gate.
    """
    logits, gate_BL = model.apply(
        {"params": params},
        corrupted_BL,
        batch.inputs,
        positions_BP,
        is_training=dropout_key is not None,
        method="predict_tokens",
        rngs=apply_rngs(dropout_key, "discriminate"),
    )
    targets = batch.ids_BL if positions_BP is None else batch.targets_BP
    predictions = predict_vocabulary(
        *logits,
        targets,
        None,
        temperature=1.0,
        chunk_size=objective["vocab_chunk_size"],
        dtype=logits.x_BPE.dtype.name,
    )
    return predictions, gate_BL


def describe_token_encoder(title: str) -> str:
    """Opening paragraph of the model card of such an encoder."""
    return (
        f"An encoder pre-trained with {title}, **to be fine-tuned**. It predicts the original tokens of a "
        "text in which some have been replaced. It was never trained on [MASK]."
    )
