"""How often a training document is packed, by its score: a curve of copies.

Olmo 3 packs good text up to seven times and leaves the worst out, with a curve that rises with quality; the
same number of tokens from a filter alone gave a worse model (Olmo Team 2025, arXiv:2512.13961, section
3.4.4). Their curve is over the share of the text that is of lower quality. Ours is over the score itself,
straight between the points that are given and level beyond them: it needs no other document's score, so
nothing is read before, and the workers of a cluster can use it.

The value of the curve becomes a whole number by chance, so that the mean number of copies is the value:
of 2.3, three documents in ten have 3 copies and the others 2. The chance is a hash of seed and text. It
depends on no other document, on no path and on no process.
"""

import hashlib
import itertools
import math
from collections.abc import Sequence

import numpy as np

from data_pipelines.documents import Piece

MAX_COPIES = 100  # of a document; they are packed into one file
Curve = tuple[tuple[float, float], ...]  # points: score, copies


def check_curve(curve: Curve) -> None:
    """Raises ValueError, which names the flag, unless the scores of the points rise and their copies are from
    0 to MAX_COPIES."""
    scores, copies = ([point[axis] for point in curve] for axis in (0, 1))
    rises = all(low < high for low, high in itertools.pairwise(scores))
    if len(curve) < 2 or not rises or not all(math.isfinite(score) for score in scores):
        raise ValueError(
            f"--copies: got {shown(curve)}, expected two points or more, each with a larger score than the "
            "one before, as 0.2:0,0.9:4."
        )
    if not all(0 <= number <= MAX_COPIES for number in copies) or not any(copies):
        raise ValueError(
            f"--copies: got {shown(curve)}, expected 0 to {MAX_COPIES} copies at each point, and more than 0 "
            "at one of them."
        )


def shown(curve: Curve) -> str:
    """The curve as its flag has it."""
    return ",".join(f"{score:g}:{copies:g}" for score, copies in curve)


def copies_of(score: float, text: str, curve: Curve, seed: int) -> int:
    """How often the document with this score is packed.

    Args:
      text: of the document, or the first piece of it; equal texts with equal scores have equally many copies.
    """
    wanted = float(np.interp(score, *zip(*curve, strict=True)))
    # Beginning with the seed, it differs from the hash that chooses held-out documents.
    digest = hashlib.sha256(f"{seed}\n".encode() + text.encode("utf-8", "surrogatepass")).digest()
    chance = int.from_bytes(digest[:8], "big") / 2**64
    return int(wanted) + (chance < wanted - int(wanted))


def spread(pieces: Sequence[Piece]) -> list[Piece]:
    """Each piece as often as it has copies. Copies of one stand as far from each other as they can: in one
    row, the second could be read off the first. Pieces without further copies keep their order."""
    places = []
    for at, piece in enumerate(pieces):
        one, distance = piece._replace(copies=1), len(pieces) / max(1, piece.copies)
        places += [((at + number * distance) % len(pieces), one) for number in range(piece.copies)]
    return [piece for _, piece in sorted(places, key=lambda place: place[0])]
