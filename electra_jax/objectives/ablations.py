"""What is between BERT and ELECTRA (ELECTRA §3.5, and the two-stage procedure of §3.2): which part of the
gain comes from a loss on all tokens, and which from inputs without [MASK].

Losses are means over the positions that count. Their weights, which the paper leaves open, are
config.objective's: gen_weight of the generator's, disc_weight of a detection loss, token_weight of the loss
of an encoder that predicts tokens.

Shapes: B batch, L length, P masked positions.
"""

import jax
import jax.numpy as jnp

from electra_jax.models.ablations import TokenModel
from electra_jax.models.config import PretrainingConfig
from electra_jax.models.inputs import SpecialTokens
from electra_jax.models.pretraining import PretrainingModel
from electra_jax.objectives.base import EPSILON, Objective, Phase, Sums
from electra_jax.objectives.corruption import MaskedBatch, chosen_positions
from electra_jax.objectives.mlm import apply_rngs, make_init, make_prepare, mlm_normalizer
from electra_jax.objectives.rtd import (
    ENCODERS,
    detection_logits,
    embedding_modules,
    generator_loss,
    make_losses,
    rtd_loss,
    token_count,
)
from electra_jax.objectives.vocabulary import VocabularyPredictions, predict_vocabulary


def make_electra_15_objective(
    config: PretrainingConfig, objective: dict, special: SpecialTokens
) -> Objective:
    """ELECTRA 15 %: ELECTRA, but the discriminator's loss is the mean over the masked positions alone."""
    model, losses = PretrainingModel(config), make_losses(config, objective, special)

    def loss(params, batch: MaskedBatch, normalizers, dropout_key, carry):
        generator_value, (generator_sums, corrupted_BL) = losses.generator(
            params, batch, normalizers, dropout_key, carry
        )
        logits_BL = detection_logits(model, params, corrupted_BL, batch.inputs, dropout_key)
        chosen_BL = chosen_positions(batch.positions_BP, batch.weights_BP, batch.ids_BL.shape[1])
        value, sums = rtd_loss(logits_BL, corrupted_BL != batch.ids_BL, chosen_BL, normalizers["mlm"])
        return (
            generator_value + objective["disc_weight"] * value,
            (generator_sums | sums | {"tokens": token_count(batch.inputs)}, None),
        )

    return losses.objective((Phase("joint", (*embedding_modules(config), *ENCODERS), loss),))


def make_two_stage_objective(config: PretrainingConfig, objective: dict, special: SpecialTokens) -> Objective:
    """The second of two stages: the discriminator learns to tell the samples of a generator that stays as it
    is.

    The first is a run of plain masked language modelling, from which both start: config.checkpoint.init_from.
    Each therefore has embeddings of its own, and both have one shape. The generator samples with dropout, as
    in joint training.

    Raises:
      ValueError: config.model is not of that form.
    """
    if config.embedding_sharing != "none":
        raise ValueError(
            f"config.model.embedding_sharing: got {config.embedding_sharing!r}, expected 'none' with "
            "config.objective.name='two_stage': the generator stays as it is, and so do its embeddings."
        )
    if config.generator != config.discriminator:
        raise ValueError(
            "config.model.generator: got another shape than that of config.model.discriminator, expected the "
            "same with config.objective.name='two_stage': both start from one encoder."
        )
    losses = make_losses(config, objective, special)

    def loss(params, batch: MaskedBatch, normalizers, dropout_key, carry):
        _, (generator_sums, corrupted_BL) = losses.generator(params, batch, normalizers, dropout_key, carry)
        value, (sums, _) = losses.discriminator(params, batch, normalizers, dropout_key, corrupted_BL)
        return value, (generator_sums | sums, None)

    trained = ("discriminator_embeddings", "discriminator", "discriminator_predictions")
    return losses.objective((Phase("discriminator", trained, loss),))._replace(
        frozen=("generator_embeddings", "generator", "generator_predictions")
    )


def make_replace_mlm_objective(
    config: PretrainingConfig, objective: dict, special: SpecialTokens
) -> Objective:
    """Replace MLM: the encoder predicts the original tokens at the masked positions, which hold the
    generator's samples."""
    model = make_token_model(config, objective, has_gate=False)

    def token_loss(
        params, corrupted_BL, batch: MaskedBatch, normalizers, dropout_key
    ) -> tuple[jax.Array, Sums]:
        predictions, _ = predict_tokens(
            model, objective, params, corrupted_BL, batch, batch.positions_BP, dropout_key
        )
        nll = (batch.weights_BP * predictions.nll_BP).sum()
        sums = {
            "token_nll": nll,
            "token_weight": batch.weights_BP.sum(),
            "token_correct": (batch.weights_BP * predictions.is_correct_BP).sum(),
        }
        return nll / normalizers["mlm"], sums

    return make_token_objective(model, objective, special, token_loss)


def make_all_tokens_mlm_objective(
    config: PretrainingConfig, objective: dict, special: SpecialTokens
) -> Objective:
    """All-Tokens MLM: the same input, but every token is predicted, with a gate D_t for copying the one that
    is there: p(x) = D_t·1[x = input_t] + (1 − D_t)·softmax(x).

    The logits of all positions are computed in pieces of the vocabulary, never at once. Of the metrics, rtd_…
    are those of the gate as a detector, and token_accuracy is the softmax's alone, at the masked positions.

    Raises:
      ValueError: config.objective.vocab_chunk_size is not a piece of the vocabulary.
    """
    check_chunks(config, objective)
    model = make_token_model(config, objective, has_gate=True)

    def token_loss(
        params, corrupted_BL, batch: MaskedBatch, normalizers, dropout_key
    ) -> tuple[jax.Array, Sums]:
        predictions, gate_BL = predict_tokens(
            model, objective, params, corrupted_BL, batch, None, dropout_key
        )
        is_token_BL, is_replaced_BL = batch.inputs.is_token_BL, corrupted_BL != batch.ids_BL
        nll = (is_token_BL * copying_nll(predictions.nll_BP, gate_BL, ~is_replaced_BL)).sum()
        is_correct_BP = jnp.take_along_axis(predictions.is_correct_BP, batch.positions_BP, axis=1)
        sums = {
            "token_nll": nll,
            "token_weight": token_count(batch.inputs),
            "token_correct": (batch.weights_BP * is_correct_BP).sum(),
        }
        _, detection = rtd_loss(
            jax.lax.stop_gradient(-gate_BL), is_replaced_BL, is_token_BL, normalizers["tokens"]
        )
        return nll / normalizers["tokens"], sums | detection

    return make_token_objective(model, objective, special, token_loss)


def copying_nll(nll_BL: jax.Array, gate_BL: jax.Array, is_original_BL: jax.Array) -> jax.Array:
    """−log(D·1[the input is the original] + (1 − D)·exp(−nll)), D = σ(gate)."""
    log_predicted_BL = -jax.nn.softplus(gate_BL) - nll_BL
    return -jnp.where(
        is_original_BL, jnp.logaddexp(-jax.nn.softplus(-gate_BL), log_predicted_BL), log_predicted_BL
    )


def make_token_model(config: PretrainingConfig, objective: dict, *, has_gate: bool) -> TokenModel:
    """Raises ValueError for encoders that are not ELECTRA's: a masked language model of another kind ends in
    a decoder."""
    require_absolute_positions(config, objective)
    return TokenModel(config, has_gate)


def make_token_objective(model: TokenModel, objective: dict, special: SpecialTokens, token_loss) -> Objective:
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
            generator_value + objective["token_weight"] * value,
            (generator_sums | sums | {"tokens": token_count(batch.inputs)}, None),
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
        make_init(model, prepare),
        prepare,
        lambda batch: {"mlm": mlm_normalizer(batch), "tokens": token_count(batch.inputs) + EPSILON},
        (Phase("joint", modules + gate, loss),),
    )


def predict_tokens(
    model: TokenModel,
    objective: dict,
    params,
    corrupted_BL: jax.Array,
    batch: MaskedBatch,
    positions_BP: jax.Array | None,
    dropout_key: jax.Array | None,
) -> tuple[VocabularyPredictions, jax.Array | None]:
    """Loss terms of the original tokens [B, P], of all of them [B, L] without positions; and the gate's
    logits [B, L]."""
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


def check_chunks(config: PretrainingConfig, objective: dict) -> None:
    """Raises ValueError where logits of all positions would be formed over the whole vocabulary."""
    vocab_size, chunk_size = config.discriminator.vocab_size, objective["vocab_chunk_size"]
    if not 0 < chunk_size < vocab_size:
        raise ValueError(
            f"config.objective.vocab_chunk_size: got {chunk_size}, expected 1 … {vocab_size - 1}, less than "
            f"config.model.vocab_size, with config.objective.name={objective['name']!r}: it predicts every "
            "position, and logits of all over the whole vocabulary would be one array."
        )


def require_absolute_positions(config: PretrainingConfig, objective: dict) -> None:
    """Raises ValueError for encoders that are not ELECTRA's."""
    if config.discriminator.position != "absolute":
        raise ValueError(
            f"config.model.position: got {config.discriminator.position!r}, expected 'absolute' with "
            f"config.objective.name={objective['name']!r}. Start from configs/electra.py."
        )
