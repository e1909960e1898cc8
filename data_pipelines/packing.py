"""Documents as token ids → rows of exactly L ids. Pure functions; rows hold ids alone.

Segments, positions and token types are derived later from [CLS] and [SEP] (electra_jax/models/inputs.py).
"""

from collections.abc import Sequence

import numpy as np

from data_pipelines.tokenizer import CLS_ID, PAD_ID, SEP_ID

OPEN_ROWS = 64  # rows that first-fit still fills; bounds memory and time


def pack(documents: Sequence[Sequence[int]], *, sequence_length: int, mode: str) -> np.ndarray:
    """Rows [n, L] int32 of `documents`, each the ids of one document without special tokens; no token is lost.

    contiguous: documents joined by [SEP] are cut into [CLS] + L−2 ids + [SEP].
    documents: each document is cut into chunks [CLS] ≤ L−2 ids [SEP]; several chunks share a row, first-fit.

    Raises:
      ValueError: unknown mode, or rows too short to hold a token.
    """
    if sequence_length < 3:
        raise ValueError(f"sequence_length: got {sequence_length}, expected at least 3 ([CLS], a token, [SEP]).")
    if mode not in PACKERS:
        raise ValueError(f"packing: got {mode!r}, expected one of {sorted(PACKERS)}.")
    rows = PACKERS[mode](documents, sequence_length)
    packed = np.full((len(rows), sequence_length), PAD_ID, np.int32)
    for target, row in zip(packed, rows, strict=True):
        target[: len(row)] = row
    return packed


def _contiguous(documents: Sequence[Sequence[int]], length: int) -> list[list[int]]:
    stream: list[int] = []
    for document in filter(len, documents):
        stream += [*([SEP_ID] if stream else []), *document]
    return [_chunk(stream[start : start + length - 2]) for start in range(0, len(stream), length - 2)]


def _documents(documents: Sequence[Sequence[int]], length: int) -> list[list[int]]:
    closed: list[list[int]] = []
    open_rows: list[list[int]] = []
    for document in documents:
        for start in range(0, len(document), length - 2):
            chunk = _chunk(document[start : start + length - 2])
            row = next((row for row in open_rows if len(row) + len(chunk) <= length), None)
            if row is None:
                row = []
                open_rows.append(row)
                if len(open_rows) > OPEN_ROWS:
                    closed.append(open_rows.pop(0))
            row += chunk
    return closed + open_rows


def _chunk(ids: Sequence[int]) -> list[int]:
    return [CLS_ID, *ids, SEP_ID]


PACKERS = {"contiguous": _contiguous, "documents": _documents}
