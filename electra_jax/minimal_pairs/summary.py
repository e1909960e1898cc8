"""From the scores of pairs to accuracies: of phenomena, linguistic terms, fields, and the total."""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from data_pipelines.tasks.minimal_pairs import MinimalPair

PHENOMENA, TERMS, FIELDS = "phenomena", "linguistics_terms", "fields"


class Share(NamedTuple):
    """How many pairs are right; a tie counts one half."""

    accuracy: float
    standard_error: float | None  # over pairs; None if a phenomenon has only one
    num_pairs: int
    num_ties: int


class Summary(NamedTuple):
    """The accuracies of one model by one rule."""

    total: Share
    groups: dict[str, dict[str, Share]]  # PHENOMENA, TERMS and FIELDS → name → share


def summarize(pairs: Sequence[MinimalPair], good: np.ndarray, bad: np.ndarray) -> Summary:
    """A pair is right if its acceptable sentence has the higher score.

    Terms, fields and the total are means over their phenomena, as BLiMP reports them, however many pairs each
    has.
    """
    credits = np.where(good == bad, 0.5, good > bad)
    by_phenomenon: dict[str, list[int]] = {}
    for number, pair in enumerate(pairs):
        by_phenomenon.setdefault(pair.phenomenon, []).append(number)
    shares = {name: _share(credits[numbers]) for name, numbers in by_phenomenon.items()}
    firsts = {name: pairs[numbers[0]] for name, numbers in by_phenomenon.items()}
    groups = {PHENOMENA: shares}
    for kind, label_of in ((TERMS, lambda pair: pair.term), (FIELDS, lambda pair: pair.field)):
        groups[kind] = _grouped(shares, firsts, label_of)
    return Summary(_mean(list(shares.values())), groups)


def to_json(summary: Summary) -> dict[str, Any]:
    """The values of a summary for JSON."""
    groups = {
        kind: {name: share._asdict() for name, share in shares.items()}
        for kind, shares in summary.groups.items()
    }
    return summary.total._asdict() | groups


def _share(credits_n: np.ndarray) -> Share:
    count = len(credits_n)
    error = float(credits_n.std(ddof=1) / math.sqrt(count)) if count > 1 else None
    return Share(float(credits_n.mean()), error, count, int((credits_n == 0.5).sum()))


def _mean(shares: Sequence[Share]) -> Share:
    """The mean of phenomena, whose errors are independent."""
    errors = [share.standard_error for share in shares]
    return Share(
        float(np.mean([share.accuracy for share in shares])),
        None if None in errors else math.hypot(*errors) / len(shares),
        sum(share.num_pairs for share in shares),
        sum(share.num_ties for share in shares),
    )


def _grouped(
    shares: dict[str, Share], firsts: dict[str, MinimalPair], label_of: Callable[[MinimalPair], str]
) -> dict[str, Share]:
    members: dict[str, list[Share]] = {}
    for name, share in shares.items():
        if label := label_of(firsts[name]):
            members.setdefault(label, []).append(share)
    return {label: _mean(members[label]) for label in sorted(members)}
