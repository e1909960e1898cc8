"""SQuAD's scores of predicted answers, the search for the best no-answer threshold, and the prediction files
that its scripts read.

The rules are those of the official scripts evaluate-v1.1.py and evaluate-v2.0.py
(rajpurkar.github.io/SQuAD-explorer). The two differ only where a gold text has no words after normalisation
("the", "!"). Version 1.1 treats it like any other, and its F1 is 0. Version 2.0 ignores it; where no gold
text remains, only a prediction without words is right, with F1 = exact match = 1. If some question is
unanswerable, 2.0 applies, else 1.1.

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
NO_PUNCTUATION = str.maketrans("", "", string.punctuation)  # ASCII only: dashes and curved quotes stay


def normalize_answer(text: str) -> str:
    """The text in lower case, without ASCII punctuation, without a, an and the, and with single spaces.

    Punctuation is removed first and leaves no space: "a.m." becomes "am", "well-known" becomes "wellknown".
    """
    return " ".join(ARTICLES.sub(" ", text.lower().translate(NO_PUNCTUATION)).split())


def squad_score(
    questions_answers: Sequence[Sequence[str]],
    predictions: Sequence[str],
    null_scores: Sequence[float] | None = None,
    threshold: float = 0.0,
) -> dict[str, float]:
    """Scores of one prediction per question.

    The threshold search is the script's `find_best_thresh`: any text, even one without words, is a wrong
    answer to an unanswerable question. It differs from the script in two points. Questions with the same null
    score are kept together; the script's result depends on their order and may belong to no threshold. And
    where it is best to answer nothing, the threshold answers nothing: the script's 0.0 if no null score is at
    or below 0, else the number just below the lowest.

    Args:
      questions_answers: the gold texts of each question; () where it is unanswerable.
      predictions: the best non-empty answer to each question, if there is one; the threshold is applied here.
      null_scores: how much no answer is preferred, of each question. Ignored if all are answerable.
      threshold: a question with a higher null score is left unanswered.

    Returns:
      exact_match, f1: means over all questions of the best score over a question's gold texts. If some
      question is unanswerable also the names of evaluate-v2.0.py:
      has_answer_exact_match, has_answer_f1: means over the answerable questions, if there are any.
      no_answer_accuracy: the share of unanswerable questions that are left unanswered.
      best_exact_match, best_f1: the highest means of any threshold.
      best_exact_match_threshold, best_f1_threshold: the lowest threshold that gives them.

    Raises:
      ValueError: no questions, sides of different lengths, null scores that are missing, NaN or −inf, or a
        NaN threshold.
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
            f"null_scores: expected one per question, for {np.sum(~has_answer)} of {len(has_answer)} "
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
    """Write the file that SQuAD's leaderboard and scripts read: JSON from a question's id to its answer.

    No answer is "". The arguments are those of `squad_score`. With `null_scores`, questions with one above
    `threshold` are left unanswered, and NAME_null_odds.json beside NAME.json has the score of each id
    (evaluate-v2.0.py's --na-prob-file); JSON has no infinity, so the largest float replaces it. Each file is
    written whole or not at all.

    Raises:
      ValueError: sides of different lengths, an id that occurs twice, a null score that is NaN or −inf, or a
        NaN threshold.
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
    """F1 of the words, counted as often as they occur; 0 where a side has none, as in evaluate-v1.1.py."""
    common = (Counter(wanted) & Counter(predicted)).total()
    return 2 * common / (len(wanted) + len(predicted)) if common else 0.0


def _mean(scores: np.ndarray) -> float:
    return math.fsum(scores) / len(scores)  # exact: the order of the questions does not matter


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
    """The best mean over all thresholds, given each question's score when it is answered. Arrays are [n].

    The search goes from no question answered to all of them, in the order of their null scores.
    """
    gains = answered - ~has_answer
    # No threshold separates equal null scores. Their losses come first, so that no sum between them is higher
    # than the sums before and after.
    order = np.lexsort((gains, nulls))
    sums = np.cumsum([np.sum(~has_answer), *gains[order]])
    best, lowest = int(np.argmax(sums)), nulls[order[0]]
    nothing = 0.0 if lowest > 0 else np.nextafter(lowest, -np.inf)
    return _Best(float(sums[best]) / len(nulls), float(nulls[order[best - 1]] if best else nothing))
