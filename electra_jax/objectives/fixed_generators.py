"""ELECTRA with a fixed distribution in the generator's place (ELECTRA §3.2): config.objective.generator
"unigram" or "uniform".

Nothing but the discriminator is trained then: there are no losses and no FLOPs of a generator.

Shapes: B batch, L length, P replaced positions, N = B·L tokens.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from electra_jax.models.ablations import DiscriminatorModel
from electra_jax.models.config import PretrainingConfig
from electra_jax.models.inputs import EncoderInputs, SpecialTokens
from electra_jax.objectives.base import EPSILON, Objective, Phase
from electra_jax.objectives.corruption import chosen_positions, write_tokens
from electra_jax.objectives.mlm import make_init, make_prepare, mlm_normalizer
from electra_jax.objectives.rtd import detection_logits, rtd_loss, token_count


def draw_unigrams(uniforms_BP: jax.Array, ids_BL: jax.Array, special: SpecialTokens) -> jax.Array:
    """Ids [B, P] as often as they are in the batch: for every uniform number the token at a random place of
    it that holds no special one. Over batches that is the unigram distribution of the text, and needs no
    table of it."""
    is_word_N = ~jnp.isin(ids_BL, jnp.asarray(special)).reshape(-1)
    rank_N = jnp.cumsum(is_word_N, dtype=jnp.int32)
    # The largest float32 below 1 keeps the product below any count that float32 holds exactly.
    wanted_BP = (uniforms_BP * rank_N[-1]).astype(jnp.int32)
    return ids_BL.reshape(-1)[jnp.searchsorted(rank_N, wanted_BP + 1)]


def draw_uniformly(uniforms_BP: jax.Array, vocab_size: int) -> jax.Array:
    """Ids [B, P], all of the vocabulary alike, special ones included, as in google-research/electra
    (uniform_generator)."""
    return (uniforms_BP * vocab_size).astype(jnp.int32)


FIXED_GENERATORS = {
    "unigram": lambda uniforms_BP, ids_BL, special, vocab_size: draw_unigrams(uniforms_BP, ids_BL, special),
    "uniform": lambda uniforms_BP, ids_BL, special, vocab_size: draw_uniformly(uniforms_BP, vocab_size),
}


class CorruptedBatch(NamedTuple):
    """A `MaskedBatch` whose noise is already drawn: what the discriminator sees is in it. All leaves [B,
    …]."""

    ids_BL: jax.Array
    inputs: EncoderInputs
    corrupted_BL: jax.Array
    positions_BP: jax.Array
    targets_BP: jax.Array
    weights_BP: jax.Array


def make_fixed_generator_objective(
    config: PretrainingConfig, objective: dict, special: SpecialTokens
) -> Objective:
    """disc_weight·RTD of tokens drawn from a fixed distribution; with the name "electra_15" at the replaced
    positions alone."""
    model, counts_all = DiscriminatorModel(config), objective["name"] != "electra_15"
    mask = make_prepare(objective, special, config.discriminator.type_vocab_size)
    draw = FIXED_GENERATORS[objective["generator"]]

    def prepare(key: jax.Array, ids_BL: jax.Array) -> CorruptedBatch:
        batch = mask(key, ids_BL)
        samples_BP = draw(batch.uniforms_BP, batch.ids_BL, special, config.discriminator.vocab_size)
        corrupted_BL = write_tokens(batch.ids_BL, batch.positions_BP, samples_BP, batch.weights_BP)
        return CorruptedBatch(
            batch.ids_BL, batch.inputs, corrupted_BL, batch.positions_BP, batch.targets_BP, batch.weights_BP
        )

    def normalizers(batch: CorruptedBatch):
        return {"rtd": token_count(batch.inputs) + EPSILON if counts_all else mlm_normalizer(batch)}

    def loss(params, batch: CorruptedBatch, normalizers, dropout_key, carry):
        del carry
        logits_BL = detection_logits(model, params, batch.corrupted_BL, batch.inputs, dropout_key)
        chosen_BL = chosen_positions(batch.positions_BP, batch.weights_BP, batch.ids_BL.shape[1])
        counted_BL = batch.inputs.is_token_BL if counts_all else chosen_BL
        value, sums = rtd_loss(logits_BL, batch.corrupted_BL != batch.ids_BL, counted_BL, normalizers["rtd"])
        return objective["disc_weight"] * value, (sums | {"tokens": token_count(batch.inputs)}, None)

    return Objective(
        make_init(model, prepare),
        prepare,
        normalizers,
        (Phase("joint", ("embeddings", "discriminator", "discriminator_predictions"), loss),),
    )
