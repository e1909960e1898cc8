"""From a model's outputs for the windows of each question to one answer: the best span of the context.

There are two types of heads. One scores starts and ends independently (BERT, DeBERTa; google-research/bert,
run_squad.py). The other scores ends given a start and has a logit for no answer (ELECTRA, XLNet;
google-research/electra, finetune/qa/qa_metrics.py).

Shapes: L positions of a window with padding, m tokens of context in it, K starts of a beam, E ends for each.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from data_pipelines.tasks.windows import Window


class IndependentOutputs(NamedTuple):
    """Outputs for one window; a batch has one more axis in front.

    A span's score is the sum of its two logits. The score of no answer is the sum of those at position 0.
    """

    start_logits: np.ndarray  # [L]
    end_logits: np.ndarray  # [L]


class JointOutputs(NamedTuple):
    """A beam for one window; a batch has one more axis in front. A span's score is its log probability."""

    start_log_probs: np.ndarray  # [K]
    start_indices: np.ndarray  # int [K], positions in the window
    end_log_probs: np.ndarray  # [K, E], given the start
    end_indices: np.ndarray  # int [K, E]
    answerable_logit: float  # high where there is NO answer; the name is that of ELECTRA's code


class Answer(NamedTuple):
    """The answer to one question.

    `null_score` states how much no answer is preferred. With independent outputs it is the lowest score of no
    answer among the question's windows minus `score`, with joint outputs the lowest logit.
    """

    text: str  # of the best span; "" where no span is possible
    score: float  # of the best span; −inf where no span is possible
    null_score: float
    n_best: list[tuple[str, float]]  # the best texts with the scores of their best spans, descending
    start: int = -1  # where the best span begins in the context, in characters; −1 where no span is possible


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

    A span starts at a context token with is_max_context and ends at the same or a later context token. It has
    at most `max_answer_length` tokens, and its text is not blank. With joint outputs the candidates are the
    spans of the beam. With independent outputs they combine the `n_best` best starts and the `n_best` best
    ends of the window's context; BERT's script takes the `n_best` best of all positions, and positions in the
    question or padding leave it fewer candidates. Among spans with equal scores the earlier window's comes
    first.

    Args:
      contexts: of each question.
      windows: of all questions, in any order.
      outputs: one per window, all of one type.
      n_best: also the largest number of texts in `Answer.n_best`.

    Raises:
      ValueError: not one output per window, a window that belongs to no question or reaches beyond its
        outputs, a question without a window, or outputs that are NaN or +inf.
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
    start = -1
    for place in np.argsort(-scores, kind="stable"):
        text = context[begins[place] : stops[place]]
        if text.strip():
            start = start if texts else int(begins[place])
            texts.setdefault(text, float(scores[place]))
        if len(texts) == n_best:
            break
    text, score = next(iter(texts.items()), ("", -np.inf))
    null = min(float(_null_score(output)) for _, output in parts)
    if isinstance(parts[0][1], IndependentOutputs):
        null -= score
    return Answer(text, score, null, list(texts.items()), start)


def _spans(
    window: Window, output: IndependentOutputs | JointOutputs, n_best: int, max_answer_length: int
) -> _Spans:
    """The valid candidates of one window, better starts first, for each start better ends first."""
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
    """Every pair in the beam."""
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
    """The values as float64, in which the sum of two float32 is exact enough for ranking."""
    numbers = np.asarray(values, np.float64)
    if not (numbers < np.inf).all():
        raise ValueError(
            f"outputs: expected numbers below infinity, got {np.isnan(numbers).sum()} NaN and "
            f"{np.isposinf(numbers).sum()} +inf of {numbers.size}. The training has diverged."
        )
    return numbers
