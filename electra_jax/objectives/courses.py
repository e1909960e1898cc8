"""Noise of MCL's courses beside masking: swapped tokens, inserted tokens, and corrections.

The batch of a course is a `MaskedBatch`, whatever its noise: ids, what the generator sees, and the slots for
which it draws a token. The README of this folder lists the details that no source states and that are decided
here; configs/mcl.py gives the source of every value.

Shapes: B batch, L length, P slots, C courses.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from electra_jax.models.inputs import SpecialTokens, derive_inputs
from electra_jax.objectives.corruption import (
    MaskedBatch,
    choose_positions,
    chosen_positions,
    is_ordinary,
    write_tokens,
)

PERMUTATIONS = ("uniform", "cyclic")


def swap_tokens(
    key: jax.Array,
    ids_BL: jax.Array,
    special: SpecialTokens,
    *,
    swap_prob: float,
    permutation: str,
    type_vocab_size: int,
) -> MaskedBatch:
    """Choose positions as for masking, and permute their tokens within each document.

    "uniform" draws any permutation, so a token may stay in its place; "cyclic" draws a single cycle, in which
    every token moves unless it is the only one chosen in its document. All chosen positions are predicted.
    """
    ids_BL = ids_BL.astype(jnp.int32)
    inputs = derive_inputs(ids_BL, special, type_vocab_size)
    choice_key, order_key, sample_key = jax.random.split(key, 3)
    positions_BP, weights_BP = choose_positions(choice_key, ids_BL, inputs, special, swap_prob)
    targets_BP = jnp.take_along_axis(ids_BL, positions_BP, axis=1)
    documents_BP = jnp.where(
        weights_BP > 0, jnp.take_along_axis(inputs.segments_BL, positions_BP, axis=1), ids_BL.shape[1] + 1
    )
    shuffled_BP = jnp.lexsort((jax.random.uniform(order_key, documents_BP.shape), documents_BP), axis=1)
    if permutation == "uniform":
        # Both orders have the documents in the same places, so each document receives its own tokens.
        sources_BP, places_BP = shuffled_BP, jnp.argsort(documents_BP, axis=1, stable=True)
    else:
        sources_BP, places_BP = _next_in_group(shuffled_BP, documents_BP), shuffled_BP
    moved_BP = jnp.take_along_axis(
        jnp.take_along_axis(targets_BP, sources_BP, axis=1), jnp.argsort(places_BP, axis=1), axis=1
    )
    swapped_BL = write_tokens(ids_BL, positions_BP, moved_BP, weights_BP)
    return MaskedBatch(
        ids_BL,
        inputs,
        swapped_BL,
        positions_BP,
        targets_BP,
        weights_BP,
        jax.random.uniform(sample_key, positions_BP.shape),
    )


def _next_in_group(order_BP: jax.Array, groups_BP: jax.Array) -> jax.Array:
    """For each element of an order that keeps groups together: the next one; for the last of a group: the
    first of that group."""
    sorted_BP = jnp.take_along_axis(groups_BP, order_BP, axis=1)
    index_1P = jnp.arange(order_BP.shape[1])[None]
    is_first_BP = jnp.pad(sorted_BP[:, 1:] != sorted_BP[:, :-1], ((0, 0), (1, 0)), constant_values=True)
    first_BP = jax.lax.cummax(jnp.where(is_first_BP, index_1P, 0), axis=1)
    is_last_BP = jnp.pad(is_first_BP[:, 1:], ((0, 0), (0, 1)), constant_values=True)
    return jnp.take_along_axis(order_BP, jnp.where(is_last_BP, first_BP, index_1P + 1), axis=1)


def insert_tokens(
    key: jax.Array, ids_BL: jax.Array, special: SpecialTokens, *, insert_prob: float, type_vocab_size: int
) -> MaskedBatch:
    """Insert [MASK] before as many tokens as would be masked; never before a special token, so never between
    documents.

    Rows keep their length: padding is dropped first, then the end of the row, with the insertions there.
    Documents, positions and token types are those of the row with the inserted tokens. No position is
    predicted, since an inserted token has no original; `weights_BP` marks the slots for which a token is
    drawn.
    """
    ids_BL = ids_BL.astype(jnp.int32)
    length = ids_BL.shape[1]
    choice_key, sample_key = jax.random.split(key)
    followers_BP, is_used_BP = choose_positions(
        choice_key, ids_BL, derive_inputs(ids_BL, special, type_vocab_size), special, insert_prob
    )
    # The n-th insertion, counted from 0, is moved by the n insertions before it.
    followers_BP = jnp.sort(jnp.where(is_used_BP > 0, followers_BP, length), axis=1)
    positions_BP = followers_BP + jnp.arange(followers_BP.shape[1])[None]
    weights_BP = (positions_BP < length).astype(jnp.float32)
    positions_BP = jnp.where(weights_BP > 0, positions_BP, 0)
    is_inserted_BL = chosen_positions(positions_BP, weights_BP, length)
    source_BL = jnp.arange(length)[None] - jnp.cumsum(is_inserted_BL, axis=1)
    longer_BL = jnp.where(
        is_inserted_BL, special.mask, jnp.take_along_axis(ids_BL, jnp.maximum(source_BL, 0), axis=1)
    )
    targets_BP = jnp.full(positions_BP.shape, special.mask)
    return MaskedBatch(
        longer_BL,
        derive_inputs(longer_BL, special, type_vocab_size),
        longer_BL,
        positions_BP,
        targets_BP,
        weights_BP,
        jax.random.uniform(sample_key, positions_BP.shape),
    )


class Confusion(NamedTuple):
    """The discriminator's decisions on a course where they are not "original and judged original", all bool
    [B, L] and False on special tokens."""

    missed: jax.Array  # replaced, judged original
    accused: jax.Array  # original, judged replaced
    found: jax.Array  # replaced, judged replaced

    @property
    def is_mistaken(self) -> jax.Array:
        return self.missed | self.accused


def confusion_table(
    logits_BL: jax.Array, is_replaced_BL: jax.Array, ids_BL: jax.Array, special: SpecialTokens
) -> Confusion:
    """The decisions of this step at logit 0, without a gradient; `ids_BL` are the original ids."""
    is_judged_BL, is_accused_BL = is_ordinary(ids_BL, special), logits_BL > 0
    return Confusion(
        is_judged_BL & ~is_accused_BL & is_replaced_BL,
        is_judged_BL & is_accused_BL & ~is_replaced_BL,
        is_judged_BL & is_accused_BL & is_replaced_BL,
    )


def correct_generator(batch: MaskedBatch, confusion: Confusion, noise_BL: jax.Array) -> MaskedBatch:
    """The batch for the generator's correction: the noise, [MASK] or the swapped tokens, remains only where
    the discriminator found the generator's tokens. Other positions hold the originals. The generator predicts
    the originals of the remaining noise."""
    noisy_BL = jnp.where(confusion.found, noise_BL, batch.ids_BL)
    found_BP = jnp.take_along_axis(confusion.found, batch.positions_BP, axis=1)
    return batch._replace(masked_ids_BL=noisy_BL, weights_BP=batch.weights_BP * found_BP)


def stack(batches: list[MaskedBatch]) -> MaskedBatch:
    """The courses as one batch [B·C, …] in which the courses of a row are adjacent, so no row leaves its
    device. The inverse is `unstack` of models/course_model.py.

    Every course gets as many slots as the one with the most; the added ones have weight 0. Row numbers are
    those of the stacked batch, so each course of a row has its own dropout.
    """
    if len(batches) == 1:
        return batches[0]
    num_slots = max(batch.positions_BP.shape[1] for batch in batches)
    fill = lambda x_BP: jnp.pad(x_BP, ((0, 0), (0, num_slots - x_BP.shape[1])))
    filled = [
        batch._replace(
            inputs=batch.inputs._replace(rows_B=batch.inputs.rows_B * len(batches) + index),
            positions_BP=fill(batch.positions_BP),
            targets_BP=fill(batch.targets_BP),
            weights_BP=fill(batch.weights_BP),
            uniforms_BP=fill(batch.uniforms_BP),
        )
        for index, batch in enumerate(batches)
    ]
    return jax.tree.map(lambda *leaves: jnp.stack(leaves, axis=1).reshape(-1, *leaves[0].shape[1:]), *filled)


class CourseBatch(NamedTuple):
    """The courses over the same rows; None for a course that is not computed."""

    masked: MaskedBatch
    swapped: MaskedBatch | None
    inserted: MaskedBatch | None

    @property
    def courses(self) -> dict[str, MaskedBatch]:
        """Course → its batch, of the courses that are computed, in their order."""
        named = {"rtd": self.masked, "std": self.swapped, "itd": self.inserted}
        return {name: batch for name, batch in named.items() if batch is not None}
