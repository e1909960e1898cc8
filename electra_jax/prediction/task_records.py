"""Records of each type of task: from inputs to examples, and from outputs to labels, numbers, tags, answers.

Shapes: n words, C outputs of the task.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from data_pipelines.tasks.examples import TaggedExample, TextExample
from data_pipelines.tasks.labels import UNKNOWN
from data_pipelines.tasks.questions import Question
from data_pipelines.tasks.unlabelled import Unlabelled
from electra_jax.finetuning.metrics import marks_spans
from electra_jax.finetuning.task_types import Rows, TaskType, word_outputs
from electra_jax.prediction.records import Record, Table, number, one_line, texts_of
from electra_jax.prediction.spans import Word, find_spans, place_words, split_words

Inputs = Sequence[Unlabelled]


class Form(NamedTuple):
    """How one type of task is predicted."""

    examples: Callable[[Inputs], list[Any]]
    # (inputs, examples, rows, outputs of each row) → records
    records: Callable[[Inputs, Sequence[Any], Rows, Sequence[Any]], list[Record]]
    table: Table


def make_form(
    task_type: TaskType, task: dict[str, Any], labels: tuple[str, ...], *, may_abstain: bool
) -> Form:
    """The form of a task.

    Args:
      task: config.task.
      may_abstain: whether a question with a null score above task.null_threshold gets no answer.
    """
    threshold = task.get("null_threshold", 0.0) if may_abstain else np.inf
    return {
        "classification": lambda: _classification(labels),
        "regression": lambda: _regression(task_type),
        "tagging": lambda: _tagging(labels),
        "question_answering": lambda: _question_answering(task_type, threshold),
    }[task_type.name]()


def _text_examples(inputs: Inputs) -> list[TextExample]:
    return [TextExample(one.text, one.pair, None) for one in inputs]


def _classification(labels: tuple[str, ...]) -> Form:
    from scipy.special import softmax  # slow to import

    def record(one: Unlabelled, output_C: np.ndarray) -> Record:
        shares_C = softmax(np.float64(output_C))
        best = int(output_C.argmax())
        return texts_of(one) | {
            "label": labels[best],
            "probability": number(shares_C[best]),
            "probabilities": dict(zip(labels, map(number, shares_C), strict=True)),
        }

    def records(inputs, examples, rows, outputs):
        return [record(inputs[row.example], output_C) for row, output_C in zip(rows, outputs, strict=True)]

    return Form(_text_examples, records, one_line("text", "pair", "label", "probability"))


def _regression(task_type: TaskType) -> Form:
    def records(inputs, examples, rows, outputs):
        numbers = task_type.collect(examples, rows, outputs)
        return [texts_of(one) | {"score": number(value)} for one, value in zip(inputs, numbers, strict=True)]

    return Form(_text_examples, records, one_line("text", "pair", "score"))


def _words_of(one: Unlabelled) -> list[Word]:
    return split_words(one.text) if one.words is None else place_words(one.words)


def _tagging(labels: tuple[str, ...]) -> Form:
    has_spans = marks_spans(labels)

    def examples(inputs):
        words = [tuple(word.text for word in _words_of(one)) for one in inputs]
        return [TaggedExample(of_one, (UNKNOWN,) * len(of_one)) for of_one in words]

    from scipy.special import softmax

    def record(one: Unlabelled, output_nC: np.ndarray) -> Record:
        words = _words_of(one)
        best_n = output_nC.argmax(axis=-1)
        tags = [labels[index] for index in best_n]
        shares_nC = softmax(np.float64(output_nC), axis=-1)
        shares = [number(share) for share in shares_nC[np.arange(len(words)), best_n]]
        found = texts_of(one) | {
            "words": [word.text for word in words],
            "starts": [word.start for word in words],
            "tags": tags,
            "probabilities": shares,
        }
        return found | ({"spans": _spans(one.text, words, tags)} if has_spans else {})

    def records(inputs, examples, rows, outputs):
        return [
            record(one, output_nC)
            for one, output_nC in zip(inputs, word_outputs(len(inputs), rows, outputs), strict=True)
        ]

    return Form(examples, records, Table((), _tagged_lines))


def _spans(text: str, words: list[Word], tags: list[str]) -> list[Record]:
    spans = []
    for span in find_spans(tags):
        start, end = words[span.first].start, words[span.last].end
        spans.append({"label": span.label, "start": start, "end": end, "text": text[start:end]})
    return spans


def _tagged_lines(record: Record) -> list[list[Any]]:
    """A line for each word, and a blank one, as fine-tuning reads them."""
    return [*map(list, zip(record["words"], record["tags"], record["probabilities"], strict=True)), []]


def _question_answering(task_type: TaskType, threshold: float) -> Form:
    def examples(inputs):
        return [
            Question(one.id or one.where, one.text, one.pair or "", (), None, "", False, False)
            for one in inputs
        ]

    def records(inputs, examples, rows, outputs):
        found = []
        for one, answer in zip(inputs, task_type.collect(examples, rows, outputs), strict=True):
            is_answered = answer.start >= 0 and answer.null_score <= threshold
            found.append(
                ({} if one.id is None else {"id": one.id})
                | {
                    "question": one.text,
                    "answer": answer.text if is_answered else "",
                    "start": answer.start if is_answered else None,
                    "end": answer.start + len(answer.text) if is_answered else None,
                    "score": number(answer.score) if answer.start >= 0 else None,
                    "null_score": number(answer.null_score) if answer.start >= 0 else None,
                }
            )
        return found

    columns = one_line("id", "question", "answer", "start", "end", "score", "null_score")
    return Form(examples, records, columns)
