"""Masking identifiers of source code as wholes: all occurrences of a name in a document, or none.

After CodeT5 (Wang et al. 2021), which recovers masked identifiers. A name that is masked in one place and
visible in another is copied and not predicted. As recalled, since the abstract alone was read here, CodeT5
masks all names of a program, each by a sentinel. An encoder predicts each masked token in its place, so here:

* Every token of a name becomes a [MASK] of its own, so that its number of tokens is visible.
* Names are drawn in a random order as long as all their tokens fit into the row's share of masked tokens.
* Names are found by their spelling and not by a parser: runs of ASCII letters, digits and underscores that do
  not begin with a digit and are no reserved word. So words of comments and strings are names, too. A name may
  end within a piece, as in "2)", but does not begin within one.

A name is known by a hash of its text, which does not depend on how it is cut into pieces: a name has other
pieces behind a space than behind a bracket.

Shapes: B batch, L length, V vocabulary, K reserved words.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from electra_jax.models.dropout import mix
from electra_jax.models.inputs import SpecialTokens
from electra_jax.objectives.corruption import is_ordinary
from electra_jax.objectives.reserved_words import RESERVED_WORDS

NONE = np.uint32(0xFFFFFFFF)  # the order of tokens that belong to no name
FACTOR = 16777619  # of the polynomial in the places of characters: odd, so that no bit is lost


class IdentifierTables(NamedTuple):
    """What must be known of each piece of a vocabulary, and the hashes of the reserved words."""

    is_part_V: np.ndarray  # bool, whether it begins with letters, digits or underscores
    begins_V: np.ndarray  # bool, whether white space lies before it
    ends_V: np.ndarray  # bool, whether other characters follow
    may_be_first_V: np.ndarray  # bool, whether it does not begin with a digit
    length_V: np.ndarray  # int32, number of these letters, digits and underscores
    hash_V: np.ndarray  # uint32, their hash as that of a whole name
    reserved_K: np.ndarray  # uint32, sorted, so that every process compiles the same program


def identifier_tables(parts: Sequence[tuple[str, bool, bool]]) -> IdentifierTables:
    """The tables of a vocabulary.

    Args:
      parts: for each id the letters, digits and underscores that it adds to a name, "" if it is part of none;
        whether white space lies before it; and whether other characters follow them.
    """
    texts, begins, ends = zip(*parts, strict=True)
    numbers = np.asarray(mix(jnp.arange(128, dtype=jnp.uint32))).tolist()  # of the characters of ASCII

    def hashes(texts: Iterable[str]) -> np.ndarray:
        """For each text the sum of number(character) · FACTOR^place, modulo 2^32."""
        sums = [
            sum(numbers[ord(letter)] * FACTOR**place for place, letter in enumerate(text)) for text in texts
        ]
        return np.array([number % 2**32 for number in sums], np.uint32)

    return IdentifierTables(
        np.array([bool(text) for text in texts]),
        np.array(begins),
        np.array(ends),
        np.array([bool(text) and not text[0].isdigit() for text in texts]),
        np.array([len(text) for text in texts], np.int32),
        hashes(texts),
        np.sort(hashes(RESERVED_WORDS)),
    )


def choose_identifiers(
    key: jax.Array,
    ids_BL: jax.Array,
    segments_BL: jax.Array,
    special: SpecialTokens,
    tables: IdentifierTables,
    most_B1: jax.Array,
) -> jax.Array:
    """Bool [B, L]: the tokens of the drawn names, at most `most` in each row. In a row without a name that
    fits there are none."""
    name_BL, is_name_BL = names_of(ids_BL, special, tables)
    # Names of two documents are different ones.
    document_BL = mix(segments_BL.astype(jnp.uint32) + jax.random.bits(key, (ids_BL.shape[0], 1)))
    order_BL = jnp.where(is_name_BL, jnp.minimum(mix(name_BL ^ document_BL), NONE - 1), NONE)
    # In a row that is sorted by this order all tokens of a name are neighbours.
    place_BL = order_BL.argsort(axis=1)
    sorted_BL = jnp.take_along_axis(order_BL, place_BL, axis=1)
    is_last_BL = jnp.pad(sorted_BL[:, :-1] != sorted_BL[:, 1:], ((0, 0), (0, 1)), constant_values=True)
    last_BL = _next_true(is_last_BL)
    first_BL = _last_true(jnp.pad(is_last_BL[:, :-1], ((0, 0), (1, 0)), constant_values=True))
    fits_BL = (sorted_BL != NONE) & (last_BL - first_BL < most_B1)
    so_far_BL = jnp.cumsum(fits_BL, axis=1, dtype=jnp.int32)
    is_drawn_BL = fits_BL & (jnp.take_along_axis(so_far_BL, last_BL, axis=1) <= most_B1)
    return jnp.take_along_axis(is_drawn_BL, place_BL.argsort(axis=1), axis=1)


def names_of(
    ids_BL: jax.Array, special: SpecialTokens, tables: IdentifierTables
) -> tuple[jax.Array, jax.Array]:
    """The hash of the word that each token belongs to, uint32 [B, L], and whether that is a name."""
    is_part_BL = jnp.asarray(tables.is_part_V)[ids_BL] & is_ordinary(ids_BL, special)
    is_open_BL = is_part_BL & ~jnp.asarray(tables.ends_V)[ids_BL]  # the next token may belong to its name
    is_behind_open_BL = jnp.pad(is_open_BL[:, :-1], ((0, 0), (1, 0)))
    is_first_BL = ~is_part_BL | ~is_behind_open_BL | jnp.asarray(tables.begins_V)[ids_BL]
    first_BL = _last_true(is_first_BL)
    last_BL = _next_true(jnp.pad(is_first_BL[:, 1:], ((0, 0), (0, 1)), constant_values=True))
    length_BL = jnp.where(is_part_BL, jnp.asarray(tables.length_V)[ids_BL], 0)
    before_BL = jnp.cumsum(length_BL, axis=1) - length_BL
    offset_BL = before_BL - jnp.take_along_axis(before_BL, first_BL, axis=1)
    powers = _powers(1 + ids_BL.shape[1] * int(tables.length_V.max(initial=0)))
    term_BL = jnp.where(is_part_BL, jnp.asarray(tables.hash_V)[ids_BL] * powers[offset_BL], jnp.uint32(0))
    total_BL = jnp.cumsum(term_BL, axis=1, dtype=jnp.uint32)
    hash_BL = jnp.take_along_axis(total_BL, last_BL, axis=1) - jnp.take_along_axis(
        total_BL - term_BL, first_BL, axis=1
    )
    may_be_first_BL = jnp.take_along_axis(jnp.asarray(tables.may_be_first_V)[ids_BL], first_BL, axis=1)
    is_name_BL = is_part_BL & may_be_first_BL & ~jnp.isin(hash_BL, jnp.asarray(tables.reserved_K))
    return hash_BL, is_name_BL


def _powers(number: int) -> jax.Array:
    """FACTOR^0 … FACTOR^(number - 1), modulo 2^32."""
    with np.errstate(over="ignore"):
        factors = np.full(number, FACTOR, np.uint32)
        factors[0] = 1
        return jnp.asarray(np.cumprod(factors, dtype=np.uint32))


def _last_true(is_true_BL: jax.Array) -> jax.Array:
    """For each place that of the last True up to it; the first place of a row is True."""
    return jax.lax.cummax(jnp.where(is_true_BL, _places(is_true_BL), 0), axis=1)


def _next_true(is_true_BL: jax.Array) -> jax.Array:
    """For each place that of the next True from it on; the last place of a row is True."""
    length = is_true_BL.shape[1]
    return jax.lax.cummin(jnp.where(is_true_BL, _places(is_true_BL), length), axis=1, reverse=True)


def _places(array_BL: jax.Array) -> jax.Array:
    return jnp.arange(array_BL.shape[1], dtype=jnp.int32)[None, :]
