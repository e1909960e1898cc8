"""SQuAD's scores of predicted answers, the search for the best no-answer threshold, and the files that its
scripts take.

The rules are those of the official scripts evaluate-v1.1.py and evaluate-v2.0.py
(rajpurkar.github.io/SQuAD-explorer). They differ only where a gold text has no word left once normalised
("the", "!"): 1.1 compares with it like any other, and its F1 is 0; 2.0 leaves it out, and where no gold text
is left, only a prediction without words is right, with F1 = exact match = 1. 2.0 holds where some question is
unanswerable, 1.1 elsewhere.

All scores are fractions, higher is better; papers print them times 100.
"""

import math
import os
import re
import string
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from data_pipelines.json_files import write_json

ARTICLES = re.compile(r"\b(?:a|an|the)\b")
NO_PUNCTUATION = str.maketrans(
    "", "", string.punctuation
)  # ASCII's alone: a dash or a curved quotation mark stays


def normalize_answer(text: str) -> str:
    """The text in lower case, without ASCII punctuation, without the words a, an and the, and with single
    spaces.

    Punctuation goes first and leaves no space: "a.m." becomes "am", "well-known" "wellknown".
    """
    return " ".join(ARTICLES.sub(" ", text.lower().translate(NO_PUNCTUATION)).split())


def squad_score(
    questions_answers: Sequence[Sequence[str]],
    predictions: Sequence[str],
    null_scores: Sequence[float] | None = None,
    threshold: float = 0.0,
) -> dict[str, float]:
    """Scores of one prediction a question, under the names below.

    exact_match, f1: means over all questions of the best over a question's gold texts.

    With some unanswerable question also, as evaluate-v2.0.py has them: has_answer_exact_match, has_answer_f1:
      means over the answerable questions; absent where there are none. no_answer_accuracy: the share of
      unanswerable questions without an answer. best_exact_match, best_f1: the highest means that any
      threshold gives, with best_exact_match_threshold and
        best_f1_threshold, the lowest that does.

    The search is the script's `find_best_thresh`: any text, also one without words, is a wrong answer to an
    unanswerable question. It differs from the script in two things. Questions with the same null score go
    together, where the script's result depends on their order and may belong to no threshold. And where
    answering nothing is best, the threshold is one that answers nothing: the script's 0.0 if no null score is
    at or below 0, else the number just below the lowest.

    Args: questions_answers: the gold texts of each question; () where it is unanswerable. predictions: the
      best answer to each question that is not empty, if there is one: the threshold is applied here.
      null_scores: of each question, how much no answer is preferred. Not read where all questions are
      answerable. threshold: a question with a higher null score is left unanswered, which is right if it is
      unanswerable, else wrong.

    Raises: ValueError: no questions, sides of different lengths, null scores that are missing, NaN or −inf,
      or a NaN
        threshold.
    """
    if len(questions_answers) != len(predictions) or not len(predictions):
        raise ValueError(
            f"expected as many predictions as questions and at least one, got {len(predictions)} and "
            f"{len(questions_answers)}."
        )
    has_answer = np.array([len(golds) > 0 for golds in questions_answers])
    is_v2 = not has_answer.all()
    scores = np.array(
        [
            _question_score(golds, prediction, is_v2)
            for golds, prediction in zip(questions_answers, predictions, strict=True)
        ]
    )
    if not is_v2:
        return {"exact_match": _mean(scores[:, 0]), "f1": _mean(scores[:, 1])}
    if null_scores is None:
        raise ValueError(
            f"null_scores: expected one a question, for {np.sum(~has_answer)} of {len(has_answer)} "
            "questions are unanswerable, got None."
        )
    nulls = _checked(null_scores, len(predictions), threshold)
    exact, f1 = np.where(nulls > threshold, ~has_answer, scores.T)
    result = {"exact_match": _mean(exact), "f1": _mean(f1)}
    if has_answer.any():
        result |= {"has_answer_exact_match": _mean(exact[has_answer]), "has_answer_f1": _mean(f1[has_answer])}
    result["no_answer_accuracy"] = _mean(exact[~has_answer])
    is_empty = np.array([not prediction for prediction in predictions])
    for name, raw in zip(("best_exact_match", "best_f1"), scores.T, strict=True):
        best = _best_threshold(np.where(has_answer, raw, is_empty), has_answer, nulls)
        result |= {name: best.score, f"{name}_threshold": best.threshold}
    return result


def write_squad_predictions(
    path: str | os.PathLike,
    ids: Sequence[str],
    predictions: Sequence[str],
    null_scores: Sequence[float] | None = None,
    threshold: float = 0.0,
) -> None:
    """Writes what SQuAD's leaderboard and scripts take: JSON from a question's id to the text of its answer,
    "" for none.

    The arguments are those of `squad_score`. With `null_scores`, a question with one above `threshold` is
    left unanswered, and NAME_null_odds.json beside the NAME.json of `path` has the score of each id
    (evaluate-v2.0.py's --na-prob-file), an infinite one as the largest number there is, as JSON has no
    infinity. Each file is written whole or not at all.

    Raises: ValueError: sides of different lengths, an id that occurs twice, a null score that is NaN or −inf,
      or a NaN
        threshold.
    """
    if len(ids) != len(predictions):
        raise ValueError(f"expected a prediction for each of the {len(ids)} ids, got {len(predictions)}.")
    twice = [name for name, count in Counter(ids).items() if count > 1]
    if twice:
        raise ValueError(
            f"ids: expected each once, got {', '.join(twice[:5])} more than once ({len(twice)} such ids)."
        )
    path = Path(path)
    answers = list(predictions)
    if null_scores is not None:
        nulls = _checked(null_scores, len(ids), threshold)
        answers = ["" if null > threshold else answer for null, answer in zip(nulls, answers, strict=True)]
        odds = nulls.clip(max=sys.float_info.max).tolist()
        write_json(path.with_name(f"{path.stem}_null_odds.json"), dict(zip(ids, odds, strict=True)))
    write_json(path, dict(zip(ids, answers, strict=True)))


class _Best(NamedTuple):
    score: float
    threshold: float


def _question_score(golds: Sequence[str], prediction: str, is_v2: bool) -> tuple[float, float]:
    """Exact match and F1."""
    predicted = normalize_answer(prediction).split()
    wanted = [normalize_answer(gold).split() for gold in golds]
    if is_v2:
        wanted = [words for words in wanted if words]
        if not wanted:
            return float(not predicted), float(not predicted)
    return float(predicted in wanted), max(_f1(words, predicted) for words in wanted)


def _f1(wanted: list[str], predicted: list[str]) -> float:
    """F1 of the words, each as often as it occurs; 0 where a side has none, as in evaluate-v1.1.py."""
    common = (Counter(wanted) & Counter(predicted)).total()
    return 2 * common / (len(wanted) + len(predicted)) if common else 0.0


def _mean(scores: np.ndarray) -> float:
    return math.fsum(scores) / len(scores)  # exact, so that the order of the questions does not matter


def _checked(null_scores: Sequence[float], count: int, threshold: float) -> np.ndarray:
    """The null scores as float64 [count]."""
    nulls = np.asarray(null_scores, np.float64)
    if nulls.shape != (count,):
        raise ValueError(f"null_scores: expected one for each of {count} questions, got shape {nulls.shape}.")
    if not (nulls > -np.inf).all():  # −inf is above no threshold
        raise ValueError(
            f"null_scores: expected numbers above −inf, got {np.isnan(nulls).sum()} NaN and "
            f"{np.isneginf(nulls).sum()} −inf of {count}. The training has diverged."
        )
    if math.isnan(threshold):
        raise ValueError("threshold: expected a number, got NaN.")
    return nulls


def _best_threshold(answered: np.ndarray, has_answer: np.ndarray, nulls: np.ndarray) -> _Best:
    """The best mean over all thresholds, given each question's score when it is answered. All [n].

    From no question answered to all of them, in the order of their null scores.
    """
    gains = answered - ~has_answer
    # Of equal null scores, which no threshold parts, the losses come first: no sum amid them is higher than
    # before and after.
    order = np.lexsort((gains, nulls))
    sums = np.cumsum([np.sum(~has_answer), *gains[order]])
    best, lowest = int(np.argmax(sums)), nulls[order[0]]
    nothing = 0.0 if lowest > 0 else np.nextafter(lowest, -np.inf)
    return _Best(float(sums[best]) / len(nulls), float(nulls[order[best - 1]] if best else nothing))
