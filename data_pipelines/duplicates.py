"""Leave out documents whose whole text was read before, in bounded memory."""

from collections.abc import Iterator

import numpy as np

from data_pipelines.documents import Piece, ReadReport

NUM_SETS, NUM_WAYS = 1 << 21, 16  # hashes of 64 bits: 256 MiB, which are only taken as they fill


class SeenTexts:
    """The texts that were read, as hashes.

    Of 15 million different texts it forgets fewer than one in a thousand, of more the oldest. Memory is
    bounded: a hash belongs to one of NUM_SETS sets, and a full set forgets its oldest hash.
    """

    def __init__(self):
        self._hashes = np.zeros((NUM_SETS, NUM_WAYS), np.uint64)
        self._oldest = np.zeros(NUM_SETS, np.uint8)  # of each set, the place that the next hash takes

    def add(self, digest: bytes) -> bool:
        """Remember the text with this digest; returns whether it is new."""
        number = np.uint64(int.from_bytes(digest[:8], "big") or 1)  # 0 is an empty place
        at = int.from_bytes(digest[8:16], "big") % NUM_SETS
        if number in self._hashes[at]:
            return False
        place = self._oldest[at]
        self._hashes[at, place] = number
        self._oldest[at] = (place + 1) % NUM_WAYS
        return True


def without_duplicates(pieces: Iterator[Piece], seen: SeenTexts, report: ReadReport) -> Iterator[Piece]:
    """The documents that are new; `report` counts the others apart."""
    is_new = True
    for piece in pieces:
        if piece.is_first:
            is_new = seen.add(piece.digest)
            report.duplicates += not is_new
        if is_new:
            yield piece
        else:
            report.documents -= 1
            report.characters -= len(piece.text)
