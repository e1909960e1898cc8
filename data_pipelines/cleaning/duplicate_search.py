"""Duplicates among the documents that all pieces kept, from the arrays that each piece has left on the disk.

In memory at once are about 100 bytes a document: its digest, its group, its place and one band. Signatures
are read for the pairs that agree in a band, some thousand at a time.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from data_pipelines.cleaning.matching import first_equal, first_similar
from data_pipelines.cleaning.pieces import BANDS, DIGESTS, PLACES, SIGNATURES, place_of
from data_pipelines.cleaning.settings import CleaningSettings
from data_pipelines.cleaning.signatures import NUM_PERMUTATIONS, bands_and_rows

EXACT, NEAR = "exact_duplicate", "near_duplicate"


class Duplicate(NamedTuple):
    """Why a document is dropped, and which one stays in its place."""

    reason: str
    similarity: float  # estimated, to the one that stays; others of their group may be between the two
    source: str
    document: int


def find_duplicates(paths: Sequence[str], settings: CleaningSettings) -> Iterator[dict[int, Duplicate]]:
    """For each piece, its duplicates by their place among its kept documents.

    Args:
      paths: of the pieces in order, without endings.
    """
    digests = [np.load(path + DIGESTS) for path in paths]
    ends = np.cumsum([len(part) for part in digests])
    firsts = first_equal(np.concatenate(digests))
    del digests
    is_exact = firsts != np.arange(len(firsts))
    signatures = None
    if settings.duplicates == "near":
        signatures = _Signatures(paths, ends)
        unique = np.flatnonzero(~is_exact)
        num_bands, _ = bands_and_rows(settings.similarity)
        bands = (
            np.concatenate([np.load(path + BANDS, mmap_mode="r")[band] for path in paths])[unique]
            for band in range(num_bands)
        )
        groups = first_similar(bands, unique, len(firsts), signatures.similarities, settings.similarity)
        firsts = groups[firsts]  # an exact duplicate of a near one has the same place taken
    places = np.concatenate([np.load(path + PLACES) for path in paths])
    for begin, end in zip([0, *ends[:-1]], ends, strict=True):
        found = {}
        for number in (np.flatnonzero(firsts[begin:end] != np.arange(begin, end)) + begin).tolist():
            first = int(firsts[number])
            similarity = 1.0
            if not is_exact[number]:
                similarity = float(signatures.similarities(np.array([number]), np.array([first]))[0])
            reason = EXACT if is_exact[number] else NEAR
            found[number - int(begin)] = Duplicate(
                reason, similarity, *place_of(int(places[first]), settings)
            )
        yield found


class _Signatures:
    """The signatures of all documents, in the files of the pieces."""

    def __init__(self, paths: Sequence[str], ends: np.ndarray):
        self._paths, self._ends = paths, ends

    def similarities(self, left: np.ndarray, right: np.ndarray) -> np.ndarray:
        """The share of equal values in the signatures of pairs of documents, float64 [pairs]."""
        equal = self._rows(left) == self._rows(right)
        return equal.sum(1) / NUM_PERMUTATIONS

    def _rows(self, numbers: np.ndarray) -> np.ndarray:
        rows = np.empty((len(numbers), NUM_PERMUTATIONS), np.uint32)
        pieces = np.searchsorted(self._ends, numbers, side="right")
        for piece in np.unique(pieces):
            here = pieces == piece
            begin = self._ends[piece - 1] if piece else 0
            # Mapped each time, so that what was read before does not stay in memory.
            stored = np.load(Path(self._paths[piece] + SIGNATURES), mmap_mode="r")
            rows[here] = stored[numbers[here] - begin]
        return rows
