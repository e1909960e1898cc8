"""A fixed distribution in the generator's place (ELECTRA §3.2): config.objective.generator is "unigram" or
"uniform".

Only the discriminator is trained: there are no losses and no FLOPs of a generator.

Shapes: B batch, L length, P replaced positions, N = B·L tokens.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from electra_jax.models.ablations import DiscriminatorModel
from electra_jax.models.config import PretrainingConfig
from electra_jax.models.flops import discriminator_flops
from electra_jax.models.inputs import SpecialTokens
from electra_jax.objectives.base import EPSILON, TOKENS, Objective, Phase
from electra_jax.objectives.corruption import MaskedBatch, chosen_positions, masked_targets, write_tokens
from electra_jax.objectives.mlm import make_init, make_prepare, mlm_normalizer
from electra_jax.objectives.rtd import detection_logits, rtd_loss, token_count


def draw_unigrams(uniforms_BP: jax.Array, ids_BL: jax.Array, special: SpecialTokens) -> jax.Array:
    """Ids [B, P], distributed as in the batch: for each uniform number the token at a random position whose
    token is not special. Over many batches this is the unigram distribution of the text, without a table."""
    is_word_N = ~jnp.isin(ids_BL, jnp.asarray(special)).reshape(-1)
    rank_N = jnp.cumsum(is_word_N, dtype=jnp.int32)
    # The largest float32 below 1 keeps the product below any count that float32 holds exactly.
    wanted_BP = (uniforms_BP * rank_N[-1]).astype(jnp.int32)
    return ids_BL.reshape(-1)[jnp.searchsorted(rank_N, wanted_BP + 1)]


def draw_uniformly(uniforms_BP: jax.Array, vocab_size: int) -> jax.Array:
    """Ids [B, P], uniform over the vocabulary with its special tokens, as in google-research/electra
    (uniform_generator)."""
    return (uniforms_BP * vocab_size).astype(jnp.int32)


FIXED_GENERATORS = {
    "unigram": lambda uniforms_BP, ids_BL, special, vocab_size: draw_unigrams(uniforms_BP, ids_BL, special),
    "uniform": lambda uniforms_BP, ids_BL, special, vocab_size: draw_uniformly(uniforms_BP, vocab_size),
}


# Keys of config.objective that only a model in the generator's place reads.
NOT_READ = ("gen_weight", "temperature", "vocab_chunk_size")


class CorruptedBatch(NamedTuple):
    """A masked batch whose samples are already drawn."""

    masked: MaskedBatch
    corrupted_BL: jax.Array  # int32, what the discriminator sees


def make_fixed_generator_objective(
    config: PretrainingConfig,
    objective: Mapping[str, Any],
    special: SpecialTokens,
    *,
    counts_all_tokens: bool = True,
) -> Objective:
    """disc_weight·RTD of tokens drawn from a fixed distribution.

    Args:
      counts_all_tokens: whether the loss is the mean over all tokens; else over the replaced positions.
    """
    model = DiscriminatorModel(config)
    mask = make_prepare(objective, special, config.discriminator.type_vocab_size)
    draw = FIXED_GENERATORS[objective["generator"]]

    def prepare(key: jax.Array, ids_BL: jax.Array) -> CorruptedBatch:
        batch = mask(key, ids_BL)
        samples_BP = draw(batch.uniforms_BP, batch.ids_BL, special, config.discriminator.vocab_size)
        return CorruptedBatch(
            batch, write_tokens(batch.ids_BL, batch.positions_BP, samples_BP, batch.weights_BP)
        )

    def normalizers(batch: CorruptedBatch):
        num_tokens = token_count(batch.masked.inputs) + EPSILON
        return {"rtd": num_tokens if counts_all_tokens else mlm_normalizer(batch.masked)}

    def loss(params, batch: CorruptedBatch, normalizers, dropout_key, carry):
        del carry
        masked, corrupted_BL = batch
        logits_BL = detection_logits(model, params, corrupted_BL, masked.inputs, dropout_key)
        chosen_BL = chosen_positions(masked.positions_BP, masked.weights_BP, masked.ids_BL.shape[1])
        counted_BL = masked.inputs.is_token_BL if counts_all_tokens else chosen_BL
        value, sums = rtd_loss(logits_BL, corrupted_BL != masked.ids_BL, counted_BL, normalizers["rtd"])
        return objective["disc_weight"] * value, (sums | {TOKENS: token_count(masked.inputs)}, None)

    return Objective(
        init=make_init(model, mask),
        prepare=prepare,
        normalizers=normalizers,
        phases=(Phase("joint", ("embeddings", "discriminator", "discriminator_predictions"), loss),),
        targets=lambda batch: masked_targets(batch.masked),
    )


def fixed_generator_flops(
    config: PretrainingConfig, sequence_length: int, objective: Mapping[str, Any]
) -> float:
    """The discriminator alone."""
    del objective  # FLOPs functions have one signature
    return discriminator_flops(config, sequence_length)
