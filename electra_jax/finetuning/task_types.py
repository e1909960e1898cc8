"""Task types: how examples become rows, labels become arrays, and outputs become a loss and predictions.

Shapes: B batch, L length, C outputs of the task.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from data_pipelines.tasks.encoding import encode_examples
from data_pipelines.tasks.labels import NO_TAG, UNKNOWN
from data_pipelines.tasks.windows import encode_questions
from data_pipelines.tokenizers.load import Tokenizer
from electra_jax.finetuning.metrics import score
from electra_jax.finetuning.span_decoding import decode
from electra_jax.finetuning.span_heads import can_answer, span_loss
from electra_jax.finetuning.squad_metrics import squad_score
from electra_jax.models.inputs import SpecialTokens

Rows = Sequence[Any]  # EncodedExample or Window


class TaskType(NamedTuple):
    """The functions of one task, made by `make_task_type`."""

    name: str
    num_outputs: int
    # (tokenizer, examples, maximum row length) → rows, number of examples that were cut
    encode: Callable[[Tokenizer, Sequence[Any], int], tuple[Rows, int]]
    # (rows, B, L) → labels and is_scored; rows that only fill the batch are not scored
    make_labels: Callable[[Rows, int, int], tuple[np.ndarray, np.ndarray]]
    # (outputs, labels, is_scored, ids [B, L], special tokens) → mean over the scored elements
    loss: Callable[[Any, jax.Array, jax.Array, jax.Array, SpecialTokens], jax.Array]
    # (examples, rows, outputs of each row) → one prediction per example
    collect: Callable[[Sequence[Any], Rows, Sequence[Any]], list[Any]]
    # example → whether its label is known; the same for all examples of a split
    is_labelled: Callable[[Any], bool]
    # (examples, predictions) → metric → value
    score: Callable[[Sequence[Any], Sequence[Any]], dict[str, float]]
    # prediction → its text in a file of predictions
    format_prediction: Callable[[Any], str]


def make_task_type(task: dict[str, Any], labels: tuple[str, ...]) -> TaskType:
    """The functions of a task.

    Args:
      task: config.task.
      labels: names of the classes or tags; () in other tasks.

    Raises:
      ValueError: an unknown config.task.kind.
    """
    if task["kind"] not in TASK_TYPES:
        raise ValueError(f"config.task.kind: got {task['kind']!r}, expected one of {', '.join(TASK_TYPES)}.")
    return TASK_TYPES[task["kind"]](task, labels)


def _classification(task: dict[str, Any], labels: tuple[str, ...]) -> TaskType:
    def make_labels(rows, batch_size, length):
        return _labels_of_rows(rows, (batch_size,), np.int32)

    def loss(outputs_BC, labels_B, is_scored_B, ids_BL, special):
        return _mean(_cross_entropy(outputs_BC, labels_B), is_scored_B)

    return TaskType(
        "classification",
        len(labels),
        encode_examples,
        make_labels,
        loss,
        collect=lambda examples, rows, outputs: [int(output.argmax()) for output in outputs],
        is_labelled=lambda example: example.label is not None,
        score=lambda examples, guesses: score(
            task["metrics"], [example.label for example in examples], guesses, labels
        ),
        format_prediction=lambda prediction: labels[prediction],
    )


def _regression(task: dict[str, Any], labels: tuple[str, ...]) -> TaskType:
    scale = task["label_scale"]

    def make_labels(rows, batch_size, length):
        return _labels_of_rows(rows, (batch_size,), np.float32)

    def loss(outputs_B1, labels_B, is_scored_B, ids_BL, special):
        return _mean(jnp.square(outputs_B1[:, 0] - labels_B / scale), is_scored_B)

    return TaskType(
        "regression",
        1,
        encode_examples,
        make_labels,
        loss,
        collect=lambda examples, rows, outputs: [float(output[0]) * scale for output in outputs],
        is_labelled=lambda example: example.label is not None,
        score=lambda examples, predictions: score(
            task["metrics"], [example.label for example in examples], predictions, ()
        ),
        format_prediction=lambda prediction: f"{prediction:.6g}",
    )


def _tagging(task: dict[str, Any], labels: tuple[str, ...]) -> TaskType:
    def make_labels(rows, batch_size, length):
        labels_BL = np.full((batch_size, length), NO_TAG, np.int32)
        for row_L, row in zip(labels_BL, rows, strict=False):
            row_L[: len(row.ids)] = row.label
        return labels_BL, labels_BL >= 0

    def loss(outputs_BLC, labels_BL, is_scored_BL, ids_BL, special):
        return _mean(_cross_entropy(outputs_BLC, labels_BL), is_scored_BL)

    def collect(examples, rows, outputs):
        parts = [[] for _ in examples]
        for row, output_LC in zip(rows, outputs, strict=True):
            parts[row.example].append(output_LC[: len(row.ids)][row.label != NO_TAG].argmax(axis=-1))
        return [np.concatenate(tags) for tags in parts]

    return TaskType(
        "tagging",
        len(labels),
        encode_examples,
        make_labels,
        loss,
        collect,
        is_labelled=lambda example: UNKNOWN not in example.tags,
        score=lambda examples, predictions: score(
            task["metrics"], [np.array(example.tags) for example in examples], predictions, labels
        ),
        format_prediction=lambda prediction: " ".join(labels[tag] for tag in prediction),
    )


def _question_answering(task: dict[str, Any], labels: tuple[str, ...]) -> TaskType:
    def encode(tokenizer, examples, max_length):
        return encode_questions(
            tokenizer,
            examples,
            max_length=max_length,
            max_query_length=task["max_query_length"],
            doc_stride=task["doc_stride"],
        ), 0

    def make_labels(rows, batch_size, length):
        return _labels_of_rows(rows, (batch_size, 3), np.int32)

    def loss(outputs, labels_B3, is_scored_B, ids_BL, special):
        return span_loss(outputs, labels_B3, is_scored_B, can_answer(ids_BL, special))

    def score_answers(questions, answers):
        values = squad_score(
            [question.answers for question in questions],
            [answer.text for answer in answers],
            [answer.null_score for answer in answers],
            task["null_threshold"],
        )
        missing = [name for name in task["metrics"] if name not in values]
        if missing:
            raise ValueError(
                f"config.task.metrics: got {', '.join(missing)}, expected some of {', '.join(values)} for "
                "these questions."
            )
        return {name: values[name] for name in (*task["metrics"], *values)}

    return TaskType(
        "question_answering",
        2,
        encode,
        make_labels,
        loss,
        collect=lambda examples, rows, outputs: decode(
            [question.context for question in examples], rows, outputs
        ),
        is_labelled=lambda question: question.is_labelled,
        score=score_answers,
        format_prediction=lambda answer: " ".join(answer.text.split()),
    )


TASK_TYPES = {
    "classification": _classification,
    "regression": _regression,
    "tagging": _tagging,
    "question_answering": _question_answering,
}


def _labels_of_rows(rows: Rows, shape: tuple[int, ...], dtype: type) -> tuple[np.ndarray, np.ndarray]:
    """Labels of `shape`, [B] or [B, …], one per row, and is_scored [B]."""
    labels, is_scored_B = np.zeros(shape, dtype), np.zeros(shape[0], bool)
    for index, row in enumerate(rows):
        if row.label is not None:
            labels[index], is_scored_B[index] = row.label, True
    return labels, is_scored_B


def _cross_entropy(outputs: jax.Array, labels: jax.Array) -> jax.Array:
    """−log p of the label over the last axis."""
    indices = jnp.maximum(labels, 0)[..., None]
    return -jnp.take_along_axis(jax.nn.log_softmax(outputs), indices, axis=-1)[..., 0]


def _mean(losses: jax.Array, is_scored: jax.Array) -> jax.Array:
    weights = is_scored.astype(jnp.float32)
    return (weights * losses).sum() / jnp.maximum(weights.sum(), 1.0)
