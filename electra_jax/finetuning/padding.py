"""Lengths that rows are padded to: a few, so that few shapes are compiled.

Shapes: B batch, L length.
"""

from collections.abc import Sequence

import numpy as np

LENGTHS = (32, 64, 128, 256, 512)  # longer rows are padded to a multiple of the last


def padded_length(length: int) -> int:
    """The smallest of LENGTHS that holds `length` tokens."""
    return next((bound for bound in LENGTHS if length <= bound), -(-length // LENGTHS[-1]) * LENGTHS[-1])


def pad_rows(rows: Sequence[np.ndarray], batch_size: int, pad: int) -> np.ndarray:
    """Token ids as int32 [B, L] with B = `batch_size` and L the `padded_length` of the longest; rows that are
    missing are padding."""
    ids_BL = np.full((batch_size, padded_length(max(map(len, rows)))), pad, np.int32)
    for ids_L, row in zip(ids_BL, rows, strict=False):
        ids_L[: len(row)] = row
    return ids_BL
