"""Documents as token ids → rows of exactly L ids. Pure functions.

Rows hold only ids. Segments, positions and token types are derived later from [CLS] and [SEP]
(electra_jax/models/inputs.py).
"""

import itertools
from collections.abc import Iterator, Sequence

import numpy as np

from data_pipelines.tokenizers.directory import SpecialIds

OPEN_ROWS = 64  # rows that first-fit may still fill; bounds memory and time
SINGLE_SEGMENT_PROBABILITY = 0.1  # electra: an example without segment B
SHORT_TARGET_PROBABILITY = 0.05  # electra: the next example has a shorter target length
MIN_SHORT_TARGET = 5

Lines = Sequence[Sequence[int]]


def pack(
    documents: Sequence[Lines],
    *,
    sequence_length: int,
    mode: str,
    special: SpecialIds,
    seed: int | Sequence[int] = 0,
) -> np.ndarray:
    """Rows [n, L] int32 of `documents`.

    electra: the original recipe, [CLS] A [SEP] B [SEP], A and B consecutive lines of one document. One
      example in ten has no B, one target length in twenty is short. Text that does not fit in a row is
      dropped, as in the original.
    contiguous: documents joined by [SEP] are cut into [CLS] + L−2 ids + [SEP]; only the last row is padded.
    documents: each document is cut into chunks [CLS] ≤ L−2 ids [SEP]. Several chunks share a row, first-fit;
      the i-th [CLS] starts the row's segment i.

    The last two modes lose no token and draw nothing from `seed`.

    Args:
      documents: each a list of lines, each line a list of ids without special tokens.
      mode: one of PACKERS.
      special: the tokenizer's special ids.
      seed: for `np.random.default_rng`.

    Raises:
      ValueError: unknown mode, or rows too short to hold a token.
    """
    check_packing(mode, sequence_length)
    rows = PACKERS[mode](documents, sequence_length, special, np.random.default_rng(seed))
    packed = np.full((len(rows), sequence_length), special.pad, np.int32)
    for target, row in zip(packed, rows, strict=True):
        target[: len(row)] = row
    return packed


def check_packing(mode: str, sequence_length: int) -> None:
    """Raises ValueError for an unknown mode, or for rows too short to hold a token."""
    if mode not in PACKERS:
        raise ValueError(f"packing: got {mode!r}, expected one of {', '.join(PACKERS)}; choose one of them.")
    shortest = MIN_SHORT_TARGET if mode == "electra" else 3
    if sequence_length < shortest:
        raise ValueError(
            f"sequence_length: got {sequence_length}, expected at least {shortest} for packing {mode!r} "
            "(room for [CLS], [SEP] and tokens); ask for longer rows."
        )


def _electra(
    documents: Sequence[Lines], length: int, special: SpecialIds, rng: np.random.Generator
) -> list[list[int]]:
    rows: list[list[int]] = []
    target_length = length
    for document in documents:
        buffer: list[Sequence[int]] = []
        buffered = 0
        for number, line in enumerate(document, 1):
            if len(line):
                buffer.append(line)
                buffered += len(line)
            if buffer and (buffered >= target_length or number == len(document)):
                rows.append(_two_segments(buffer, target_length, length, special, rng))
                short = rng.random() < SHORT_TARGET_PROBABILITY
                target_length = (
                    int(rng.integers(MIN_SHORT_TARGET, length, endpoint=True)) if short else length
                )
                buffer, buffered = [], 0
    return rows


def _two_segments(
    lines: Lines, target_length: int, length: int, special: SpecialIds, rng: np.random.Generator
) -> list[int]:
    """One example of the original recipe: lines go to A in order until it is about half full, then to B."""
    single = rng.random() < SINGLE_SEGMENT_PROBABILITY
    first_target = 100_000 if single else (target_length - 3) // 2
    first: list[int] = []
    second: list[int] = []
    for line in lines:
        # A random number is drawn only if it decides, as in the original.
        if (
            not first
            or len(first) + len(line) < first_target
            or (not second and len(first) < first_target and rng.random() < 0.5)
        ):
            first += line
        else:
            second += line
    first = first[: length - 2]
    second = second[: max(0, length - len(first) - 3)]
    return [*_chunk(first, special), *second, special.sep] if second else _chunk(first, special)


def _contiguous(
    documents: Sequence[Lines], length: int, special: SpecialIds, _: np.random.Generator
) -> list[list[int]]:
    stream: list[int] = []
    for document in _flat(documents):
        stream += [*([special.sep] if stream else []), *document]
    return [
        _chunk(stream[start : start + length - 2], special) for start in range(0, len(stream), length - 2)
    ]


def _documents(
    documents: Sequence[Lines], length: int, special: SpecialIds, _: np.random.Generator
) -> list[list[int]]:
    closed: list[list[int]] = []
    open_rows: list[list[int]] = []
    for document in _flat(documents):
        for start in range(0, len(document), length - 2):
            chunk = _chunk(document[start : start + length - 2], special)
            row = next((row for row in open_rows if len(row) + len(chunk) <= length), None)
            if row is None:
                row = []
                open_rows.append(row)
                if len(open_rows) > OPEN_ROWS:
                    closed.append(open_rows.pop(0))
            row += chunk
    return closed + open_rows


def _flat(documents: Sequence[Lines]) -> Iterator[list[int]]:
    """The ids of every document that has any."""
    return filter(None, (list(itertools.chain.from_iterable(document)) for document in documents))


def _chunk(ids: Sequence[int], special: SpecialIds) -> list[int]:
    return [special.cls, *ids, special.sep]


PACKERS = {"electra": _electra, "contiguous": _contiguous, "documents": _documents}
