"""Which documents are trained on, by a number that each has: its quality, or the loss of a small model.

Bounds keep the documents whose score lies between them, as CCNet does with perplexity (Wenzek et al. 2020,
arXiv:1911.00359, section 4.3). A share keeps the best of them, as DCLM keeps a tenth (Li et al. 2024,
arXiv:2406.11794, section 4.4): for that all scores are read before the first document is packed. Of what is
kept, a curve of copies packs good documents several times (data_pipelines/copies.py).

Held-out documents are never chosen by their scores, so that the losses of differently chosen training text
are measured on the same documents.
"""

import dataclasses
import math
import numbers
from array import array
from collections.abc import Iterable, Iterator
from decimal import Decimal
from typing import NamedTuple

import numpy as np

from data_pipelines.copies import Curve, check_curve, copies_of, shown
from data_pipelines.documents import Piece, ReadReport

TRAIN = "train"  # the split that is chosen from
HIGHEST, LOWEST = "highest", "lowest"
NUM_WITHOUT = 1000  # documents at the start of a source; if none of them has a score, its name is wrong


class Limit(NamedTuple):
    """Where the best documents end."""

    score: float  # of the worst of them
    num_at_limit: int  # documents with this score that are among them: the first ones


@dataclasses.dataclass(frozen=True)
class Choice:
    """Which scores are wanted; checks itself. Raises ValueError, which names the flags."""

    field: str = ""  # "": every document is kept
    min_score: float | None = None
    max_score: float | None = None
    keep_fraction: float = 1.0
    best: str = HIGHEST  # or LOWEST; of keep_fraction
    copies: Curve = ()  # of what is kept; (): one of each
    seed: int = 0  # of the chances of copies

    def __post_init__(self):
        has_bounds = self.min_score is not None or self.max_score is not None
        has_share = self.keep_fraction != 1
        is_used = has_bounds or has_share or bool(self.copies)
        if bool(self.field) != is_used or (has_bounds and has_share):
            raise ValueError(
                f"--score_field: got {self.field!r} with --min_score {self.min_score}, --max_score "
                f"{self.max_score}, --keep_fraction {self.keep_fraction} and --copies "
                f"{shown(self.copies) or None}, expected a field with bounds, with a fraction below 1 or "
                "with copies; give the field, and one of the two, or copies, or both."
            )
        if has_bounds and not _or(self.min_score, -math.inf) <= _or(self.max_score, math.inf):
            raise ValueError(
                f"--min_score: got {self.min_score}, expected at most --max_score {self.max_score}."
            )
        if not 0 < self.keep_fraction <= 1:
            raise ValueError(f"--keep_fraction: got {self.keep_fraction}, expected above 0, at most 1.")
        if self.best not in (HIGHEST, LOWEST):
            raise ValueError(f"--best: got {self.best!r}, expected {HIGHEST} or {LOWEST}.")
        if self.best != HIGHEST and not has_share:
            raise ValueError(
                f"--best: got {self.best} without --keep_fraction, expected it with a fraction below 1; "
                "leave it out, or give the fraction. Of bounds, --max_score keeps the low numbers."
            )
        if self.copies:
            check_curve(self.copies)

    @property
    def needs_limit(self) -> bool:
        """Whether all scores must be known first."""
        return self.keep_fraction < 1

    @property
    def sign(self) -> int:
        """What makes large numbers of the best scores."""
        return 1 if self.best == HIGHEST else -1


class Best:
    """Finds the best of numbers that come one after another.

    Args:
      sign: 1 if large numbers are the best, -1 if small ones are.
    """

    def __init__(self, limit: Limit, sign: int):
        self._limit, self._sign, self._left = limit, sign, limit.num_at_limit

    def take(self, score: float) -> bool:
        """Whether the next number is among the best."""
        distance = self._sign * (score - self._limit.score)
        self._left -= distance == 0
        return distance > 0 or (distance == 0 and self._left >= 0)


class Selector:
    """Keeps the documents that are wanted; one for all of a build, in order.

    Args:
      limit: if the choice needs one, see `find_limit`.
    """

    def __init__(self, choice: Choice, limit: Limit | None = None):
        self._choice = choice
        self._best = Best(limit, choice.sign) if limit else None

    def keep(
        self, divided: Iterable[tuple[str, Piece]], report: ReadReport, max_bytes: float = math.inf
    ) -> Iterator[tuple[str, Piece]]:
        """(split, piece) of the documents of some sources that are wanted, without their fields, with their
        numbers of copies; `report` counts the others apart, and copies. A document without a score is not
        wanted. Other splits are kept whole.

        Args:
          max_bytes: where `divided` is cut off, by `report`.

        Raises:
          ValueError: no document of a source has a score, or not its first NUM_WITHOUT; or a score is no
            number.
        """
        copies = 1
        for split, piece, score in _with_scores(divided, self._choice.field, report, max_bytes):
            if split != TRAIN:
                yield split, piece._replace(fields={})
                continue
            if piece.is_first:
                copies = self._copies(piece, score)
                report.low_scores += not copies
            added, length = copies - 1, len(piece.text)
            report.documents += added
            report.characters += added * length
            if copies:
                report.copies += added
                report.copied_characters += added * length
                yield split, piece._replace(fields={}, copies=copies)
            else:
                report.low_score_characters += length

    def _copies(self, first: Piece, score: float | None) -> int:
        """How often a document is packed, by its first piece."""
        if score is None or not self._is_wanted(score):
            return 0
        choice = self._choice
        return copies_of(score, first.text, choice.copies, choice.seed) if choice.copies else 1

    def _is_wanted(self, score: float) -> bool:
        choice = self._choice
        if self._best is None:
            return _or(choice.min_score, -math.inf) <= score <= _or(choice.max_score, math.inf)
        return self._best.take(score)


def find_limit(
    divided: Iterable[tuple[str, Piece]], choice: Choice, report: ReadReport, max_bytes: float = math.inf
) -> Limit:
    """The limit of the share `choice.keep_fraction` of the training documents that have a score, rounded, at
    least one. Memory: 8 bytes for each document. `report` and `max_bytes`: as for `Selector.keep`.

    Raises:
      ValueError: as `Selector.keep`.
    """
    scores = array("d")
    for _, piece, score in _with_scores(divided, choice.field, report, max_bytes):
        if piece.is_first and score is not None:
            scores.append(choice.sign * score)
    if not scores:
        return Limit(0.0, 0)  # there are no documents, which the build reports
    count = max(1, round(choice.keep_fraction * len(scores)))
    return limit_of(np.frombuffer(scores), count, choice.sign)


def limit_of(values: np.ndarray, count: int, sign: int) -> Limit:
    """The limit of the `count` best of `values`, which are the numbers times `sign`: the best ones are large.
    Their order changes."""
    values.partition(len(values) - count)
    limit = values[len(values) - count]
    return Limit(float(sign * limit), count - int((values > limit).sum()))


def _with_scores(
    divided: Iterable[tuple[str, Piece]], field: str, report: ReadReport, max_bytes: float
) -> Iterator[tuple[str, Piece, float | None]]:
    """Each piece with the score of its document. None, which is counted, for a training document without one,
    and for all others. Of records that follow each other with pieces of one document only the first is
    first."""
    source, number, num_with, document = None, 0, 0, ""
    for split, piece in divided:
        if piece.piece_of and piece.piece_of == document:
            piece = piece._replace(is_first=False)
        document = piece.piece_of
        if split != TRAIN:
            yield split, piece, None
            continue
        if piece.source != source:
            _check(source, field, number, num_with)
            source, number, num_with = piece.source, 0, 0
        where = f"{piece.source}: training document {number + 1}"
        score = number_of(piece, field, where, "name the field that holds the score with --score_field")
        if piece.is_first:
            number += 1
            num_with += score is not None
            if score is None:
                report.note_without_score(f"{source}: training document {number}")
            if number == NUM_WITHOUT:
                _check(source, field, number, num_with)
        yield split, piece, score
    if report.amount_read <= max_bytes:  # else later documents of this source may have scores
        _check(source, field, number, num_with)


def _check(source: str | None, field: str, number: int, num_with: int) -> None:
    if number and not num_with:
        raise ValueError(
            f"{source}: none of the first {number:,} training documents has a number in {field!r}; name the "
            "field that holds the score with --score_field, or add one with `python -m data_pipelines.score`"
        )


def number_of(piece: Piece, field: str, where: str, advice: str) -> float | None:
    """The number in a field of a piece's document; None without one: no such field, null, NaN, infinite, or
    a whole number that no float can hold. Raises ValueError for anything else."""
    value = piece.fields.get(field)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, numbers.Real | Decimal):
        raise ValueError(f"{where} has {value!r:.100} in {field!r}, expected a number; {advice}")
    try:
        score = float(value)
    except OverflowError:  # a whole number beyond the largest float
        return None
    return score if math.isfinite(score) else None


def _or(value: float | None, default: float) -> float:
    return default if value is None else value
