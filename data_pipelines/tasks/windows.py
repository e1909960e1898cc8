"""Encode questions as token ids: a context that does not fit beside its question becomes overlapping windows.

As in google-research/electra, finetune/qa/qa_tasks.py, and google-research/bert, run_squad.py, except that
the answer's tokens are found by the characters that they cover.

Shapes: n ids of a window, m context tokens in it.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from data_pipelines.tasks.questions import Question
from data_pipelines.tokenizers.load import Tokenizer

ENCODE_TEXTS = 1024
LENGTH_WEIGHT = 0.01  # 100 more tokens in a window make up for one less around a token


class Window(NamedTuple):
    """A question and a part of its context."""

    ids: np.ndarray  # int32 [n], [CLS] question [SEP] part of the context [SEP]
    label: np.ndarray | None  # see data_pipelines/tasks/labels.py
    example: int  # index of its question
    first: int  # position in `ids` of the first context token
    offsets: np.ndarray  # int32 [m, 2], start and end in the question's context of each context token
    is_max_context: np.ndarray  # bool [m], whether this window has the most context around a token


class Windows(NamedTuple):
    """The windows of questions, and how many questions do not fit."""

    windows: list[Window]
    num_cut: int  # questions that lost their end
    num_outside: int  # questions whose answer is not completely inside any window


class _Context(NamedTuple):
    ids: list[int]
    offsets: np.ndarray  # int32, one span per token


def encode_questions(
    tokenizer: Tokenizer,
    questions: Sequence[Question],
    *,
    max_length: int,
    max_query_length: int,
    doc_stride: int,
) -> Windows:
    """The windows of all questions in order, at least one each, of at most `max_length` ids.

    A question keeps its first `max_query_length` tokens. A window takes as much of the context as fits; the
    next one starts `doc_stride` tokens later, or directly after it if that comes first.

    Raises:
      ValueError: a length below 1, or `max_length` leaves no room for context beside the longest question.
    """
    for name, value in (("max_query_length", max_query_length), ("doc_stride", doc_stride)):
        if value < 1:
            raise ValueError(f"{name}: got {value}, expected at least 1")
    if max_length < max_query_length + 4:
        raise ValueError(
            f"max_length: got {max_length}, expected at least {max_query_length + 4}, for a question of up "
            f"to {max_query_length} tokens, three special ones and one of the context; ask for longer "
            "examples, or lower max_query_length"
        )
    contexts = _encode(tokenizer.encode_with_offsets, [question.context for question in questions])
    queries = _encode(tokenizer.encode_batch, [question.question for question in questions])
    cls, sep = tokenizer.special.cls, tokenizer.special.sep
    windows, num_cut, num_outside = [], 0, 0
    for example, question in enumerate(questions):
        context, query = _Context(*contexts[question.context]), queries[question.question]
        start = [cls, *query[:max_query_length], sep]
        answer = _answer_tokens(question, context.offsets)
        has_label = answer is not None or question.is_impossible
        parts = list(_parts(len(context.ids), max_length - len(start) - 1, doc_stride))
        best = _max_context(len(context.ids), parts)
        num_cut += len(query) > max_query_length
        num_outside += question.start is not None and not any(_holds(part, answer) for part in parts)
        for number, part in enumerate(parts):
            windows.append(
                Window(
                    np.array([*start, *context.ids[part], sep], np.int32),
                    _label(answer, part, len(start), question.is_impossible) if has_label else None,
                    example,
                    len(start),
                    context.offsets[part],
                    best[part] == number,
                )
            )
    return Windows(windows, num_cut, num_outside)


def _encode(encode: Callable[[list[str]], list], texts: Sequence[str]) -> dict[str, Any]:
    """Text → its encoding; a context that many questions share is encoded once."""
    different = list(dict.fromkeys(texts))
    encoded = (
        row
        for at in range(0, len(different), ENCODE_TEXTS)
        for row in encode(different[at : at + ENCODE_TEXTS])
    )
    return dict(zip(different, encoded, strict=True))


def _parts(count: int, room: int, doc_stride: int) -> Iterator[slice]:
    """Slices of `count` tokens for the windows; a single empty one if there are no tokens."""
    start = 0
    while True:
        stop = min(start + room, count)
        yield slice(start, stop)
        if stop == count:
            return
        start += min(room, doc_stride)


def _answer_tokens(question: Question, offsets: np.ndarray) -> tuple[int, int] | None:
    """The first and last token that cover a character of the answer, or None if no token does."""
    if question.start is None:
        return None
    stop = question.start + len(question.answer)
    is_inside = (offsets[:, 0] < stop) & (offsets[:, 1] > question.start) & (offsets[:, 0] < offsets[:, 1])
    tokens = np.flatnonzero(is_inside)
    return (int(tokens[0]), int(tokens[-1])) if len(tokens) else None


def _holds(part: slice, answer: tuple[int, int] | None) -> bool:
    """Whether the tokens of an answer are all in a window; False if it has none."""
    return answer is not None and part.start <= answer[0] and answer[1] < part.stop


def _label(answer: tuple[int, int] | None, part: slice, first: int, is_impossible: bool) -> np.ndarray:
    start = end = 0
    if _holds(part, answer):
        start, end = (token - part.start + first for token in answer)
    return np.array([start, end, is_impossible], np.int32)


def _max_context(count: int, parts: Sequence[slice]) -> np.ndarray:
    """int [count]: the part with the most context around each token, the first of equally good ones.

    As BERT's `_check_is_max_context`.
    """
    best, best_scores = np.zeros(count, np.int32), np.full(count, -1.0)
    for number, part in enumerate(parts):
        tokens = np.arange(part.start, part.stop)
        scores = np.minimum(tokens - part.start, part.stop - 1 - tokens) + LENGTH_WEIGHT * len(tokens)
        is_better = scores > best_scores[part]
        best[part][is_better] = number
        best_scores[part][is_better] = scores[is_better]
    return best
