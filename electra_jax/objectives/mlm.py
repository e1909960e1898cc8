"""Masked language modelling: the generator's loss, and a baseline objective of its own.

Shapes: B batch, L length, P masked positions.
"""

import jax
import jax.numpy as jnp
from flax import linen as nn

from electra_jax.models.config import PretrainingConfig
from electra_jax.models.inputs import SpecialTokens
from electra_jax.models.pretraining import MaskedLanguageModel
from electra_jax.objectives.base import EPSILON, Objective, Phase, Sums
from electra_jax.objectives.corruption import MASKING, MaskedBatch, mask_tokens
from electra_jax.objectives.vocabulary import VocabularyPredictions, predict_vocabulary

PASSES = ("generate", "discriminate", "regenerate", "rediscriminate")


def mlm_loss(
    predictions: VocabularyPredictions, batch: MaskedBatch, normalizer: jax.Array, name: str = "mlm"
) -> tuple[jax.Array, Sums]:
    """Cross-entropy of the original ids at the chosen positions, summed and divided by `normalizer`; its
    sums, by `name`."""
    nll = (batch.weights_BP * predictions.nll_BP).sum()
    sums = {
        f"{name}_nll": nll,
        f"{name}_correct": (batch.weights_BP * predictions.is_correct_BP).sum(),
        # Of the softmax: tells whether the generator is still close to uniform.
        f"{name}_entropy": (batch.weights_BP * predictions.entropy_BP).sum(),
        f"{name}_weight": batch.weights_BP.sum(),
    }
    return nll / normalizer, sums


def mlm_normalizer(batch: MaskedBatch) -> jax.Array:
    """Number of predicted positions in the global batch."""
    return batch.weights_BP.sum() + EPSILON


def apply_rngs(dropout_key: jax.Array | None, name: str) -> dict[str, jax.Array]:
    """Random streams of one forward pass, one of PASSES; all draw independent dropout masks."""
    return {} if dropout_key is None else {"dropout": jax.random.fold_in(dropout_key, PASSES.index(name))}


def predict_masked(
    model: nn.Module,
    objective: dict,
    params,
    batch: MaskedBatch,
    dropout_key: jax.Array | None,
    uniforms_BP: jax.Array | None,
    name: str = "generate",
) -> VocabularyPredictions:
    """The generator's forward pass: loss terms at the masked positions, and samples when uniforms are
    given."""
    logits = model.apply(
        {"params": params},
        batch.masked_ids_BL,
        batch.inputs,
        batch.positions_BP,
        is_training=dropout_key is not None,
        method="generate",
        rngs=apply_rngs(dropout_key, name),
    )
    return predict_vocabulary(
        *logits,
        batch.targets_BP,
        uniforms_BP,
        temperature=objective["temperature"],
        chunk_size=objective["vocab_chunk_size"],
        dtype=logits.x_BPE.dtype.name,
    )


def make_prepare(
    objective: dict, special: SpecialTokens, type_vocab_size: int, vocab_size: int | None = None
):
    """Masking as configured: (key, ids [B, L]) → MaskedBatch. An objective that takes random tokens gives a
    vocab_size.

    Raises: ValueError: an unknown way of masking, or random tokens where there are none, or with more than
      what [MASK] leaves.
    """
    if objective["masking"] not in MASKING:
        raise ValueError(
            f"config.objective.masking: got {objective['masking']!r}, expected one of {sorted(MASKING)}."
        )
    random_token_prob = objective["random_token_prob"]
    most = 0.0 if vocab_size is None else 1.0 - objective["mask_token_prob"]
    if not 0.0 <= random_token_prob <= most + EPSILON:
        raise ValueError(
            f"config.objective.random_token_prob: got {random_token_prob}, expected "
            + (
                f"0.0 with config.objective.name={objective['name']!r}: only 'mlm' has random tokens."
                if vocab_size is None
                else f"0 … {most:g}, what config.objective.mask_token_prob leaves."
            )
        )

    def prepare(key: jax.Array, ids_BL: jax.Array) -> MaskedBatch:
        return mask_tokens(
            key,
            ids_BL,
            special,
            mask_prob=objective["mask_prob"],
            masking=objective["masking"],
            mask_token_prob=objective["mask_token_prob"],
            type_vocab_size=type_vocab_size,
            random_token_prob=random_token_prob,
            vocab_size=vocab_size or 0,
        )

    return prepare


def make_init(model: nn.Module, prepare):
    """Initialiser of a pre-training model: (key, sequence_length) → parameters with logical axes."""

    def init(key: jax.Array, sequence_length: int):
        batch = prepare(key, jnp.ones((1, sequence_length), jnp.int32))
        return model.init(key, batch.ids_BL, batch.inputs, batch.positions_BP)["params"]

    return init


def make_mlm_objective(config: PretrainingConfig, objective: dict, special: SpecialTokens) -> Objective:
    """The papers' baseline: an encoder of the discriminator's size, dynamic masking, no next-sentence
    prediction."""
    model, encoder = MaskedLanguageModel(config), config.discriminator
    prepare = make_prepare(objective, special, encoder.type_vocab_size, encoder.vocab_size)

    def loss(params, batch, normalizers, dropout_key, carry):
        value, sums = mlm_loss(
            predict_masked(model, objective, params, batch, dropout_key, None), batch, normalizers["mlm"]
        )
        return value, (sums | {"tokens": batch.inputs.is_token_BL.sum(dtype=jnp.float32)}, carry)

    return Objective(
        make_init(model, prepare),
        prepare,
        lambda batch: {"mlm": mlm_normalizer(batch)},
        (Phase("mlm", ("embeddings", "generator", "generator_predictions"), loss),),
    )
