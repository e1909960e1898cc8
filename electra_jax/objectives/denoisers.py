"""A mixture of denoisers: each row is masked by one of several, drawn with configured weights.

After UL2 (Tay et al. 2022, §3.1), which trains encoder-decoders on spans that a sentinel replaces: short
spans, long ones, and many of either. From there are the mixture, drawn per example, and its parameters (share
of the tokens, mean length of a span). The choice of spans is T5's (Raffel et al. 2020; its code,
random_spans_noise_mask): a rounded number of tokens, divided at random into a rounded number of spans.
Different here, since an encoder predicts each masked token in its place:

* Every token of a span becomes a [MASK] of its own, so that the length of the span is visible. There are no
  sentinels, no tokens that name the denoiser, and no denoiser for the rest of a text (UL2's S).
* Spans may touch. With spans of one token this is the uniform choice of the other maskings. T5's choice keeps
  a token between two spans.
* A row is a circle, as with T5's option random_roll: without it the first token is never masked and the last
  always; here every token is masked equally often.
* The units of spans may be whole words, as in whole word masking (google-research/bert, README of 2019).
  A word with more tokens than its denoiser may mask in a row is cut into several units. In a script without
  spaces, a "word" of SentencePiece is a sentence, and no such word would ever be masked.
* In place of spans, all occurrences of a name of source code (identifiers.py).

Documents are cut out of a row at their special tokens, which are never masked. A span that reaches one ends
there; what remains of it begins behind.

Shapes: B batch, L length, P masked positions, V vocabulary, K denoisers. Tokens, words ("units"), spans, and
places in a line of units are counted along axes of length L.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from electra_jax.models.inputs import EncoderInputs, SpecialTokens
from electra_jax.objectives.corruption import is_ordinary, max_predictions_per_seq
from electra_jax.objectives.identifiers import IdentifierTables, choose_identifiers
from electra_jax.objectives.masking import first_true

# A share of the words has a random number of tokens: so many times the mean are room for nearly all rows.
ROOM_FOR_WORDS = 1.25
TOKENS, WORDS, IDENTIFIERS = UNITS = ("tokens", "words", "identifiers")
OLD_UNITS = {False: TOKENS, True: WORDS}  # as earlier versions wrote them, and still taken


class PieceTables(NamedTuple):
    """What masking knows of the tokenizer's pieces. None: not needed, or the program masks no text."""

    word_starts: np.ndarray | None = None  # bool [V], whether a piece begins a word
    identifiers: IdentifierTables | None = None


NO_TABLES = PieceTables()


class Denoiser(NamedTuple):
    """An entry of config.objective.denoisers."""

    weight: float  # of the rows, relative to the other weights
    mask_prob: float  # share of the tokens that are masked; with "words" of the words
    mean_span: float  # mean length of a span, in tokens or in words; 1: each is chosen by itself
    units: str  # what is masked as a whole, one of UNITS; "identifiers": all occurrences of a name

    @property
    def highest_share(self) -> float:
        """Share of a row's tokens for which there are slots."""
        return min(1.0, self.mask_prob * ROOM_FOR_WORDS) if self.units == WORDS else self.mask_prob


def denoisers_of(objective: Mapping[str, Any]) -> tuple[Denoiser, ...]:
    """The entries of a section config.objective; () if it masks all rows alike."""
    return tuple(
        Denoiser(*numbers, OLD_UNITS.get(units, units)) for *numbers, units in objective["denoisers"]
    )


def has_units(objective: Mapping[str, Any], units: str) -> bool:
    """Whether some denoiser has these units."""
    return any(denoiser.units == units for denoiser in denoisers_of(objective))


def mean_mask_prob(objective: Mapping[str, Any]) -> float:
    """Share of the tokens that are masked, on average over the rows."""
    denoisers = denoisers_of(objective)
    if not denoisers:
        return objective["mask_prob"]
    total = sum(denoiser.weight for denoiser in denoisers)
    return sum(denoiser.weight * denoiser.mask_prob for denoiser in denoisers) / total


def computed_mask_prob(objective: Mapping[str, Any]) -> float:
    """Share of the tokens for which the generator's head computes logits. All rows have as many slots as the
    denoiser with the most needs."""
    return max(
        (denoiser.highest_share for denoiser in denoisers_of(objective)), default=objective["mask_prob"]
    )


def num_denoiser_slots(denoiser: Denoiser, sequence_length: int) -> int:
    """Largest number of positions that one denoiser masks in a row."""
    return min(sequence_length, max_predictions_per_seq(denoiser.highest_share, sequence_length))


def choose_denoised_positions(
    key: jax.Array,
    ids_BL: jax.Array,
    inputs: EncoderInputs,
    special: SpecialTokens,
    mask_prob: float,
    *,
    denoisers: Sequence[Denoiser],
    pieces: PieceTables,
) -> tuple[jax.Array, jax.Array]:
    """Positions [B, P] and weights [B, P] (1 used, 0 not), by the denoiser drawn for each row.

    A row with n units has round(n·mask_prob) of them masked, at least one and at most P, in
    round(that / mean_span) spans, at least one. [CLS], [SEP], [MASK] and padding are never chosen. Used slots
    come first and their positions ascend; unused slots hold position 0. P is the largest number of any
    denoiser. Where slots do not suffice, the last units are left out whole, counted from a random place in
    the row; the first one always fits (`number_units`). A denoiser of identifiers masks spans of tokens in
    the rows where no identifier fits.

    Args:
      mask_prob: not read; all ways of masking have one signature.
      pieces: without their tables words and identifiers are tokens, which gives the same shapes, for programs
        that train on no text.
    """
    del mask_prob
    length = ids_BL.shape[1]
    num_slots = max(num_denoiser_slots(denoiser, length) for denoiser in denoisers)
    row_key, span_key = jax.random.split(key)
    drawn_B = draw_denoisers(row_key, ids_BL.shape[0], denoisers)
    unit_BL, is_unit_BL = number_units(ids_BL, special, denoisers, drawn_B, pieces.word_starts)
    num_units_B1 = is_unit_BL.sum(axis=1, keepdims=True, dtype=jnp.int32)
    masked_KN, spans_KN = (jnp.asarray(table) for table in span_tables(denoisers, length, num_slots))
    num_masked_B1 = masked_KN[drawn_B[:, None], num_units_B1]
    chosen_BL, is_chosen_BL = choose_spans(
        span_key, num_units_B1, num_masked_B1, spans_KN[drawn_B[:, None], num_units_B1], length
    )
    # Whole words as long as there are slots.
    is_candidate_BL = is_ordinary(ids_BL, special)
    rows_B1 = jnp.arange(ids_BL.shape[0])[:, None]
    outside = length  # dropped when it is written
    size_BL = (
        jnp.zeros_like(unit_BL).at[rows_B1, jnp.where(is_candidate_BL, unit_BL, outside)].add(1, mode="drop")
    )
    chosen_size_BL = jnp.where(is_chosen_BL, jnp.take_along_axis(size_BL, chosen_BL, axis=1), 0)
    fits_BL = chosen_size_BL <= num_slots
    is_chosen_BL &= fits_BL & (jnp.cumsum(jnp.where(fits_BL, chosen_size_BL, 0), axis=1) <= num_slots)
    is_masked_unit_BL = (
        jnp.zeros_like(is_unit_BL)
        .at[rows_B1, jnp.where(is_chosen_BL, chosen_BL, outside)]
        .set(True, mode="drop")
    )
    is_masked_BL = is_candidate_BL & jnp.take_along_axis(is_masked_unit_BL, jnp.maximum(unit_BL, 0), axis=1)
    if pieces.identifiers is not None:
        names_BL = choose_identifiers(
            jax.random.fold_in(key, 2), ids_BL, inputs.segments_BL, special, pieces.identifiers, num_masked_B1
        )
        of_names_B = jnp.asarray([denoiser.units == IDENTIFIERS for denoiser in denoisers])[drawn_B]
        has_names_B1 = (of_names_B & names_BL.any(axis=1))[:, None]
        is_masked_BL = jnp.where(has_names_B1, names_BL, is_masked_BL)
    is_used_BP = jnp.arange(num_slots)[None, :] < is_masked_BL.sum(axis=1, keepdims=True)
    positions_BP = jnp.where(is_used_BP, first_true(is_masked_BL, num_slots), 0)
    return positions_BP, is_used_BP.astype(jnp.float32)


def draw_denoisers(key: jax.Array, num_rows: int, denoisers: Sequence[Denoiser]) -> jax.Array:
    """The number of the denoiser of each row, int32 [B], independent of each other."""
    weights = np.array([denoiser.weight for denoiser in denoisers], np.float64)
    ends = (np.cumsum(weights) / weights.sum())[:-1].astype(np.float32)
    uniforms_B = jax.random.uniform(key, (num_rows,))
    return (uniforms_B[:, None] >= jnp.asarray(ends)[None, :]).sum(axis=1, dtype=jnp.int32)


def number_units(
    ids_BL: jax.Array,
    special: SpecialTokens,
    denoisers: Sequence[Denoiser],
    drawn_B: jax.Array,
    word_starts: np.ndarray | None,
) -> tuple[jax.Array, jax.Array]:
    """The number of each token's unit in its row, int32 [B, L] from 0 (special tokens: any number), and
    whether a unit begins there, bool [B, L]. A unit is a token, or a word. A word also begins behind a
    special token, so that none reaches over the end of a document. A unit also begins wherever the word has
    had as many tokens as its denoiser has slots in a row."""
    is_candidate_BL = is_ordinary(ids_BL, special)
    is_unit_BL = is_candidate_BL
    if word_starts is not None:
        length = ids_BL.shape[1]
        of_words_B = jnp.asarray([denoiser.units == WORDS for denoiser in denoisers])[drawn_B]
        is_first_BL = jnp.pad(~is_candidate_BL[:, :-1], ((0, 0), (1, 0)), constant_values=True)
        begins_BL = jnp.asarray(word_starts)[ids_BL] | is_first_BL | ~of_words_B[:, None]
        # Units are cut to the slots of their own denoiser. Those of a mixture may be most of the row.
        index_1L = jnp.arange(length, dtype=jnp.int32)[None, :]
        since_BL = index_1L - jax.lax.cummax(jnp.where(begins_BL, index_1L, 0), axis=1)
        limits_K = jnp.asarray([max(1, num_denoiser_slots(denoiser, length)) for denoiser in denoisers])
        is_unit_BL = is_candidate_BL & (since_BL % limits_K[drawn_B][:, None] == 0)
    return jnp.cumsum(is_unit_BL, axis=1, dtype=jnp.int32) - 1, is_unit_BL


def span_tables(denoisers: Sequence[Denoiser], length: int, num_slots: int) -> tuple[np.ndarray, np.ndarray]:
    """Units to mask, and spans that they are divided into, int32 [K, L + 1], for every number of units in a
    row. Made while tracing, in float64, as `masking.num_to_predict`."""
    num_units_N = np.arange(length + 1)
    masked, spans = [], []
    for denoiser in denoisers:
        masked_N = np.clip(np.round(num_units_N * denoiser.mask_prob), 1, num_slots)
        masked_N = np.minimum(masked_N, num_units_N)
        masked.append(masked_N)
        spans.append(np.minimum(np.maximum(np.round(masked_N / denoiser.mean_span), 1), masked_N))
    return np.stack(masked).astype(np.int32), np.stack(spans).astype(np.int32)


def choose_spans(
    key: jax.Array, num_units_B1: jax.Array, num_masked_B1: jax.Array, num_spans_B1: jax.Array, length: int
) -> tuple[jax.Array, jax.Array]:
    """The numbers of the masked units [B, L], span by span, and which of these slots are in use [B, L].

    All ways to divide the masked units into spans are equally likely, and all orders of spans and unmasked
    units. The line of units is then turned by a random number of places.
    """
    length_key, order_key, turn_key = jax.random.split(key, 3)
    shape, index_1L = (num_units_B1.shape[0], length), jnp.arange(length, dtype=jnp.int32)[None, :]
    is_masked_BL = index_1L < num_masked_B1
    # The first masked unit begins a span, and so do num_spans - 1 of the others.
    noise_BL = jnp.where(is_masked_BL, jax.random.uniform(length_key, shape), 2.0)
    begins_BL = _smallest(jnp.where(index_1L == 0, -1.0, noise_BL), num_spans_B1)
    span_BL = jnp.maximum(jnp.cumsum(begins_BL, axis=1, dtype=jnp.int32) - 1, 0)
    # Which of the spans and unmasked units, in a line, are the spans.
    num_objects_B1 = num_units_B1 - num_masked_B1 + num_spans_B1
    noise_BL = jnp.where(index_1L < num_objects_B1, jax.random.uniform(order_key, shape), 2.0)
    object_BL = first_true(_smallest(noise_BL, num_spans_B1), length)
    # Before a masked unit lie the masked ones before it, and as many others as objects that are no spans.
    place_BL = index_1L + jnp.take_along_axis(object_BL, span_BL, axis=1) - span_BL
    some_B1 = jnp.maximum(num_units_B1, 1)
    turn_B1 = jax.random.randint(turn_key, num_units_B1.shape, 0, some_B1)
    return (place_BL + turn_B1) % some_B1, is_masked_BL


def _smallest(values_BL: jax.Array, num_B1: jax.Array) -> jax.Array:
    """Bool [B, L]: True at each row's `num` smallest values."""
    return values_BL.argsort(axis=1).argsort(axis=1) < num_B1
