"""Predictive strength: whether the losses of several models on a document order them as their scores do.

This is predictive data selection (PreSelect; Shum et al. 2025, arXiv:2503.00808, section 2.2): the strength
is the share of the pairs of models of which the one with the better score downstream has the smaller loss.
Without ties it is (1 + Kendall's tau) / 2. As in the authors' code (data_processing/fasttext/
train_fasttext.py), a document that lacks a loss is passed over, equal losses count as the wrong order,
positive examples of the classifier are the documents whose losses order every pair correctly, and negative
ones as many of the others, those with the lowest strength.

Ours: pairs of models with equal scores do not count; `example_share`; of equal ones at the limit the first
are taken; the classifier is that of this folder where theirs is fastText; losses are means over some tokens
where theirs are of whole texts.

Shapes: M models.
"""

from array import array
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np

from data_pipelines.documents import Piece
from data_pipelines.scoring.examples import MIN_EXAMPLES, Examples, choose_examples
from data_pipelines.selection import NUM_WITHOUT, Best, Limit, limit_of, number_of


class Models(NamedTuple):
    """Models whose losses documents have."""

    fields: tuple[str, ...]  # of a document, with its loss under each model
    scores_M: np.ndarray  # float64, of each model downstream; larger is better

    @classmethod
    def of(cls, losses: tuple[tuple[str, float], ...]) -> "Models":
        """The models of pairs (field, score). Raises ValueError, which names the flag."""
        fields, scores = zip(*losses, strict=True)
        shown = " ".join(f"{field}={score:g}" for field, score in losses)
        if len(set(fields)) < len(fields):
            raise ValueError(f"--losses: got {shown}, expected each field once.")
        if len(set(scores)) < 2 or not np.isfinite(scores).all():
            raise ValueError(
                f"--losses: got {shown}, expected two models or more with different scores downstream; the "
                "paper has six."
            )
        return cls(fields, np.array(scores))

    def strength(self, piece: Piece, where: str) -> float | None:
        """The share of pairs of models that a document's losses order as the scores do, 0 to 1; None without
        a number in each field. Raises ValueError for a value of another kind."""
        losses = [number_of(piece, field, where, "name other fields with --losses") for field in self.fields]
        return None if None in losses else strength(np.array(losses), self.scores_M)


def strength(losses_M: np.ndarray, scores_M: np.ndarray) -> float:
    """The share of pairs of models with different scores of which the better one has the smaller loss."""
    is_better_MxM = scores_M[:, None] > scores_M
    is_smaller_MxM = losses_M[:, None] < losses_M
    return float((is_better_MxM & is_smaller_MxM).sum() / is_better_MxM.sum())


class Found(NamedTuple):
    """Examples, and the strengths of the documents that they were chosen from."""

    positive: Examples
    negative: Examples
    strengths: np.ndarray  # float64, of those that have all losses
    num_without: int  # documents that lack one


def find_examples(read: Callable[[], Iterator[Piece]], models: Models, share: float, max_chars: int) -> Found:
    """Choose examples. Memory: at most 32 bytes for each document beside them.

    Args:
      read: the documents, which are read three times.
      share: of the documents that become examples of each side; 0: the paper's choice.
      max_chars: of the examples of each side.

    Raises:
      ValueError: no document has all losses, or too few can be chosen.
    """
    strengths, num_without = _strengths(read(), models)
    limits = _paper_limits(strengths) if not share else _share_limits(strengths, share)
    sides = []
    for name, sign, limit in zip(("positive", "negative"), (1, -1), limits, strict=True):
        best = Best(limit, sign)
        texts = (piece.text for piece, value in _with_strength(read(), models) if best.take(value))
        try:
            sides.append(choose_examples(texts, max_chars))
        except ValueError as error:
            larger = " A larger --example_share chooses more." if share else ""
            raise ValueError(f"--examples, {name} ones: {error}{larger}") from error
    return Found(*sides, strengths, num_without)


def _strengths(pieces: Iterator[Piece], models: Models) -> tuple[np.ndarray, int]:
    """The strengths of the documents that have all losses, and the number of the others."""
    found, number, source = array("d"), 0, None
    for number, (piece, value) in enumerate(_with_all(pieces, models), 1):
        source = source or piece.source
        if value is not None:
            found.append(value)
        if number == NUM_WITHOUT and not found:
            break
    if not number:
        raise ValueError("--examples: got no documents; check the files and --text_field.")
    if not found:
        raise ValueError(
            f"--examples: none of the first {number:,} documents, from {source} on, has a "
            f"number in each of {', '.join(models.fields)}; name the fields that hold the losses with "
            "--losses, or add them with `python -m electra_jax.predict --loss_field=NAME`."
        )
    return np.array(found), number - len(found)


def _with_all(pieces: Iterator[Piece], models: Models) -> Iterator[tuple[Piece, float | None]]:
    for number, piece in enumerate(pieces, 1):
        yield piece, models.strength(piece, f"{piece.source}: example {number}")


def _with_strength(pieces: Iterator[Piece], models: Models) -> Iterator[tuple[Piece, float]]:
    return ((piece, value) for piece, value in _with_all(pieces, models) if value is not None)


def _paper_limits(strengths: np.ndarray) -> tuple[Limit, Limit]:
    """Where positive and negative examples end."""
    count = int((strengths == 1).sum())
    others = strengths[strengths < 1]
    if min(count, len(others)) < MIN_EXAMPLES:
        raise ValueError(
            f"--examples: got {count:,} documents whose losses order all models as their scores do, and "
            f"{len(others):,} others, expected at least {MIN_EXAMPLES} of each; give more documents or fewer "
            "models, or take the best and the worst fifth with --example_share 0.2."
        )
    return Limit(1.0, count), limit_of(-others, min(count, len(others)), -1)


def _share_limits(strengths: np.ndarray, share: float) -> tuple[Limit, Limit]:
    """As `_paper_limits`, for a share of the documents on each side."""
    count = max(1, round(share * len(strengths)))
    high, low = limit_of(strengths.copy(), count, 1), limit_of(-strengths, count, -1)
    if high.score <= low.score:
        raise ValueError(
            f"--example_share: got {share:g}, but the best and the worst documents of that share meet at a "
            f"strength of {low.score:.3g}; give a smaller share, more models or more documents."
        )
    return high, low
