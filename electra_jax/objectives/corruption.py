"""Noise on token ids: which positions are predicted, what the generator sees, what the discriminator sees.

Everything random is drawn here, for the whole global batch at once, before the batch is cut into microbatches
or shards; all later computation is a deterministic function of it. So neither gradient accumulation nor the
mesh changes the training data.

Shapes: B batch, L length, P masked positions.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from electra_jax.models.inputs import EncoderInputs, SpecialTokens, derive_inputs
from electra_jax.objectives.masking import choose_windowed_positions


class MaskedBatch(NamedTuple):
    """A batch with its noise; every leaf has the batch axis first, so it can be cut into microbatches."""

    ids_BL: jax.Array  # int32, the original tokens
    inputs: EncoderInputs
    masked_ids_BL: jax.Array  # what the generator sees
    positions_BP: jax.Array  # int32; slots of weight zero hold position 0
    targets_BP: jax.Array  # int32, the original ids at the positions
    weights_BP: jax.Array  # float32, 1 for a slot that is predicted and 0 for an unused one
    uniforms_BP: jax.Array  # float32 in [0, 1), one per slot, turned into a sample by inverse CDF


# (key, ids [B, L], inputs, special ids, mask_prob) → positions [B, P], weights [B, P] (1 used, 0 not).
Choose = Callable[[jax.Array, jax.Array, EncoderInputs, SpecialTokens, float], tuple[jax.Array, jax.Array]]


class RandomTokens(NamedTuple):
    """Chosen tokens that become any token."""

    prob: float  # share of the chosen tokens
    vocab_size: int  # ids are drawn below it


def masked_targets(batch: MaskedBatch) -> tuple[jax.Array, jax.Array]:
    """`Objective.targets` of a masked batch: the original ids [B, P] at the masked positions, and weights."""
    return batch.targets_BP, batch.weights_BP


def max_predictions_per_seq(mask_prob: float, sequence_length: int) -> int:
    """int((mask_prob + 0.005) · L): 19 for 15 % of 128, 79 of 512 (electra configure_pretraining.py)."""
    return int((mask_prob + 0.005) * sequence_length)


def mask_tokens(
    key: jax.Array,
    ids_BL: jax.Array,
    special: SpecialTokens,
    *,
    masking: str | Choose,
    mask_prob: float,
    mask_token_prob: float,
    type_vocab_size: int,
    random_tokens: RandomTokens | None = None,
) -> MaskedBatch:
    """Choose positions by `masking`, a key of MASKING or a function like those there, and write [MASK] on
    them.

    A chosen token becomes [MASK] with probability `mask_token_prob` (ELECTRA's code 0.85, its paper's text
    and DeBERTaV3 1.0), any token of the vocabulary with `random_tokens.prob` (BERT: 0.8 and 0.1;
    create_pretraining_data.py), and otherwise stays unchanged.
    """
    ids_BL = ids_BL.astype(jnp.int32)
    inputs = derive_inputs(ids_BL, special, type_vocab_size)
    choice_key, mask_key, sample_key = jax.random.split(key, 3)
    choose = MASKING[masking] if isinstance(masking, str) else masking
    positions_BP, weights_BP = choose(choice_key, ids_BL, inputs, special, mask_prob)
    shape = positions_BP.shape
    targets_BP = jnp.take_along_axis(ids_BL, positions_BP, axis=1)
    share_BP = jax.random.uniform(mask_key, shape)
    written_BP = jnp.where(share_BP < mask_token_prob, special.mask, targets_BP)
    if random_tokens is not None:
        random_BP = jax.random.randint(
            jax.random.fold_in(mask_key, 1), shape, 0, random_tokens.vocab_size, jnp.int32
        )
        is_random_BP = (share_BP >= mask_token_prob) & (share_BP < mask_token_prob + random_tokens.prob)
        written_BP = jnp.where(is_random_BP, random_BP, written_BP)
    masked_ids_BL = write_tokens(ids_BL, positions_BP, written_BP, weights_BP)
    return MaskedBatch(
        ids_BL,
        inputs,
        masked_ids_BL,
        positions_BP,
        targets_BP,
        weights_BP,
        jax.random.uniform(sample_key, shape),
    )


def choose_positions(
    key: jax.Array, ids_BL: jax.Array, inputs: EncoderInputs, special: SpecialTokens, mask_prob: float
) -> tuple[jax.Array, jax.Array]:
    """Positions [B, P] uniform over the candidates, without replacement, and weights [B, P] (1 used, 0 not).

    A row with n tokens has max(1, min(P, round(n·mask_prob))) predicted positions, as in ELECTRA's code
    (pretrain_helpers.mask); [CLS], [SEP], [MASK] and padding are never chosen. That code draws with
    replacement and averages the ids of collisions, an artefact.
    """
    num_slots = max_predictions_per_seq(mask_prob, ids_BL.shape[1])
    noise_BL = jnp.where(is_ordinary(ids_BL, special), jax.random.uniform(key, ids_BL.shape), -1.0)
    noise_BP, positions_BP = jax.lax.top_k(noise_BL, num_slots)
    num_tokens_B1 = inputs.is_token_BL.sum(axis=1, keepdims=True, dtype=jnp.int32)
    # jnp.round rounds half to even, as tf.round does.
    num_to_predict_B1 = jnp.clip(jnp.round(num_tokens_B1 * mask_prob), 1, num_slots)
    is_used_BP = (noise_BP >= 0.0) & (jnp.arange(num_slots)[None, :] < num_to_predict_B1)
    return jnp.where(is_used_BP, positions_BP, 0), is_used_BP.astype(jnp.float32)


def is_ordinary(ids_BL: jax.Array, special: SpecialTokens) -> jax.Array:
    """Bool [B, L]: False on [CLS], [SEP], [MASK] and padding, which are never chosen."""
    return ~jnp.isin(ids_BL, jnp.asarray([special.pad, special.cls, special.sep, special.mask]))


# "windows" and "windows_released": one token of every 1/mask_prob, as in DeBERTa's code; the second never
# masks the tail of a long row (masking.py).
MASKING = {
    "uniform": choose_positions,
    "windows": functools.partial(choose_windowed_positions, keeps_first_windows=False),
    "windows_released": functools.partial(choose_windowed_positions, keeps_first_windows=True),
}


def never_masked(masking: str, special: SpecialTokens) -> list[int]:
    """The ids that a way of masking, a key of MASKING, never chooses."""
    ids = [special.pad, special.cls, special.sep, special.mask]
    return ids if masking == "uniform" else [*ids, special.unk]


def write_tokens(
    ids_BL: jax.Array, positions_BP: jax.Array, tokens_BP: jax.Array, weights_BP: jax.Array
) -> jax.Array:
    """Ids [B, L] with `tokens_BP` written at the positions whose weight is not zero."""
    length = ids_BL.shape[1]
    rows_B1 = jnp.arange(ids_BL.shape[0])[:, None]
    columns_BP = jnp.where(weights_BP > 0, positions_BP, length)  # out of range: dropped
    return ids_BL.at[rows_B1, columns_BP].set(tokens_BP.astype(ids_BL.dtype), mode="drop")


def chosen_positions(positions_BP: jax.Array, weights_BP: jax.Array, length: int) -> jax.Array:
    """Bool [B, L]: True at the positions of the slots in use, whose tokens are predicted, replaced or
    inserted."""
    nothing_BL = jnp.zeros((positions_BP.shape[0], length), jnp.int32)
    return write_tokens(nothing_BL, positions_BP, jnp.ones_like(positions_BP), weights_BP) > 0
