"""From a model's outputs over the windows of questions to one answer a question: the best span of the
context.

Two kinds of heads: one scores starts and ends apart (BERT's, DeBERTa's; google-research/bert, run_squad.py),
the other the ends given a start, with a logit for no answer (ELECTRA's, XLNet's; google-research/electra,
finetune/qa/qa_metrics.py).

Shapes: L positions of a window with padding, m tokens of context in it, K starts of a beam, E ends for each.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from data_pipelines.tasks.windows import Window


class IndependentOutputs(NamedTuple):
    """Of one window, or with an axis before for a batch.

    A span's score is the sum of its logits, that of no answer the sum of those at position 0.
    """

    start_logits: np.ndarray  # [L]
    end_logits: np.ndarray  # [L]


class JointOutputs(NamedTuple):
    """A beam of one window, or with an axis before for a batch. A span's score is its log probability."""

    start_log_probs: np.ndarray  # [K]
    start_indices: np.ndarray  # int [K], positions in the window
    end_log_probs: np.ndarray  # [K, E], given the start
    end_indices: np.ndarray  # int [K, E]
    answerable_logit: float  # of there being NO answer, as in ELECTRA's code


class Answer(NamedTuple):
    """text: the best span's; "", with score −inf, where no span is possible.

    null_score: how much no answer is preferred to it. For independent outputs the lowest score of no answer
    in the question's windows minus `score`, for joint ones the lowest logit.
    n_best: the best texts with the scores of their best spans, descending.
    """

    text: str
    score: float
    null_score: float
    n_best: list[tuple[str, float]]


class _Spans(NamedTuple):
    """Candidates of one window, as indices of context tokens, and their scores. All [n]."""

    starts: np.ndarray
    ends: np.ndarray
    scores: np.ndarray


def decode(
    contexts: Sequence[str],
    windows: Sequence[Window],
    outputs: Sequence[IndependentOutputs] | Sequence[JointOutputs],
    *,
    n_best: int = 20,
    max_answer_length: int = 30,
) -> list[Answer]:
    """The answer to each question, in the order of `contexts`.

    A span starts at a context token that is_max_context, ends at the same or a later context token, has at
    most `max_answer_length` tokens, and a text that is not blank. Of independent outputs those spans are
    looked at whose start and end are among the `n_best` best of their window that may be one; BERT's script
    takes the `n_best` best of all positions, so that those in question and padding leave it fewer. Of joint
    outputs the beam's are looked at. Of spans with equal scores that of the earlier window comes first.

    Args:
      contexts: of each question.
      windows: of all questions, in any order.
      outputs: one a window, all of one kind.
      n_best: also how many texts `Answer.n_best` has at most.

    Raises: ValueError: not one output a window, a window that belongs to no question or reaches beyond its
      outputs, a question
        without a window, or outputs that are NaN or +inf.
    """
    if len(windows) != len(outputs):
        raise ValueError(f"expected outputs for each of {len(windows)} windows, got {len(outputs)}.")
    of_question: list[list[int]] = [[] for _ in contexts]
    for index, window in enumerate(windows):
        if not 0 <= window.example < len(contexts):
            raise ValueError(
                f"window {index}: expected a question from 0 to {len(contexts) - 1}, got {window.example}."
            )
        of_question[window.example].append(index)
    answers = []
    for question, (context, indices) in enumerate(zip(contexts, of_question, strict=True)):
        if not indices:
            raise ValueError(f"question {question}: expected at least one window, got none.")
        parts = [(windows[index], outputs[index]) for index in indices]
        answers.append(_answer(context, parts, n_best, max_answer_length))
    return answers


def _answer(
    context: str,
    parts: list[tuple[Window, IndependentOutputs | JointOutputs]],
    n_best: int,
    max_answer_length: int,
) -> Answer:
    """The answer to one question from its windows and their outputs."""
    found = [(window, _spans(window, output, n_best, max_answer_length)) for window, output in parts]
    begins = np.concatenate([window.offsets[spans.starts, 0] for window, spans in found])
    stops = np.concatenate([window.offsets[spans.ends, 1] for window, spans in found])
    scores = np.concatenate([spans.scores for _, spans in found])
    texts: dict[str, float] = {}
    for place in np.argsort(-scores, kind="stable"):
        text = context[begins[place] : stops[place]]
        if text.strip():
            texts.setdefault(text, float(scores[place]))
        if len(texts) == n_best:
            break
    text, score = next(iter(texts.items()), ("", -np.inf))
    null = min(float(_null_score(output)) for _, output in parts)
    if isinstance(parts[0][1], IndependentOutputs):
        null -= score
    return Answer(text, score, null, list(texts.items()))


def _spans(
    window: Window, output: IndependentOutputs | JointOutputs, n_best: int, max_answer_length: int
) -> _Spans:
    """The valid spans of one window that are looked at, better starts first, of each its better ends
    first."""
    starts, ends, scores = (_best_pairs if isinstance(output, IndependentOutputs) else _beam)(
        window, output, n_best
    )
    count = len(window.offsets)
    inside = (
        (starts >= 0)
        & (starts < count)
        & (ends >= starts)
        & (ends < np.minimum(starts + max_answer_length, count))
    )
    starts, ends, scores = starts[inside], ends[inside], scores[inside]
    valid = window.is_max_context[starts] & (scores > -np.inf)
    return _Spans(starts[valid], ends[valid], scores[valid])


def _best_pairs(window: Window, output: IndependentOutputs, n_best: int) -> _Spans:
    """Every best start with every best end."""
    context = slice(window.first, window.first + len(window.offsets))
    if len(output.start_logits) < context.stop or len(output.end_logits) < context.stop:
        raise ValueError(
            f"expected logits for at least {context.stop} positions, which the window has, got "
            f"{len(output.start_logits)} of starts and {len(output.end_logits)} of ends."
        )
    start_logits, end_logits = _numbers(output.start_logits)[context], _numbers(output.end_logits)[context]
    starts = np.flatnonzero(window.is_max_context)
    starts = starts[np.argsort(-start_logits[starts], kind="stable")[:n_best]]
    ends = np.argsort(-end_logits, kind="stable")[:n_best]
    scores = start_logits[starts, None] + end_logits[ends]
    return _Spans(np.repeat(starts, len(ends)), np.tile(ends, len(starts)), scores.ravel())


def _beam(window: Window, output: JointOutputs, n_best: int) -> _Spans:
    """Every pair in the beam, whose size says how many they are."""
    scores = _numbers(output.start_log_probs)[:, None] + _numbers(output.end_log_probs)
    starts = np.broadcast_to(np.asarray(output.start_indices)[:, None], scores.shape)
    return _Spans(
        starts.ravel() - window.first, np.asarray(output.end_indices).ravel() - window.first, scores.ravel()
    )


def _null_score(output: IndependentOutputs | JointOutputs) -> np.ndarray:
    if isinstance(output, IndependentOutputs):
        return _numbers(output.start_logits[0]) + _numbers(output.end_logits[0])
    return _numbers(output.answerable_logit)


def _numbers(values: np.ndarray | float) -> np.ndarray:
    """As float64, in which the sum of two float32 is exact enough to rank by."""
    numbers = np.asarray(values, np.float64)
    if not (numbers < np.inf).all():
        raise ValueError(
            f"outputs: expected numbers below infinity, got {np.isnan(numbers).sum()} NaN and "
            f"{np.isposinf(numbers).sum()} +inf of {numbers.size}. The training has diverged."
        )
    return numbers
