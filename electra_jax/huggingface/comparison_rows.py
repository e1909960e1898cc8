"""Rows of token ids on which an export is compared with our own model: of text, and of random ids."""

from collections.abc import Sequence

import numpy as np

from electra_jax.models.inputs import SpecialTokens

NUM_ROWS = 8
MAX_LENGTH = 1024  # of the longest rows: attention in float32 takes memory in proportion to the square


def comparison_rows(
    documents: Sequence[Sequence[int]], special: SpecialTokens, vocab_size: int, length: int
) -> np.ndarray:
    """Rows [NUM_ROWS, length] of one document each: in turn two full rows and two half-full ones.

    Every other row joins `documents`, starting with another one each time. The others, and without documents
    all, are random ids: few texts have pieces of the whole vocabulary.

    Args:
      documents: token ids without special tokens.
      vocab_size: random ids are drawn below it.
    """
    source = np.random.default_rng(0)
    ordinary = np.setdiff1d(np.arange(vocab_size), special)
    rows_BL = np.full((NUM_ROWS, length), special.pad, np.int32)
    for number, row in enumerate(rows_BL):
        room = length - 2 if number % 4 < 2 else max(1, length // 2 - 2)
        ids = source.choice(ordinary, room)
        if documents and number % 2 == 0:
            first = number // 2 % len(documents)
            ids = np.concatenate([*documents[first:], *documents[:first]])[:room]
        row[: len(ids) + 2] = [special.cls, *ids, special.sep]
    return rows_BL
