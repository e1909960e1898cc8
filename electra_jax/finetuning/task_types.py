"""Task types: how examples become rows, labels become arrays, and outputs become a loss and predictions.

Shapes: B batch, L length, C outputs of the task.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from data_pipelines.tasks.encoding import encode_examples
from data_pipelines.tasks.examples import TaggedExample
from data_pipelines.tasks.labels import NO_TAG, UNKNOWN
from data_pipelines.tasks.windows import encode_questions
from data_pipelines.tokenizers.load import Tokenizer
from electra_jax.finetuning.contrastive import (
    ABSENT,
    contrastive_losses,
    encode_groups,
    encode_texts,
    make_other_texts,
)
from electra_jax.finetuning.metrics import check_embedding_metrics, check_metric_names, default_metrics, score
from electra_jax.finetuning.retrieval import Found, retrieval_score, search, similarities
from electra_jax.finetuning.span_decoding import decode
from electra_jax.finetuning.span_heads import can_answer, span_loss
from electra_jax.finetuning.squad_metrics import squad_score
from electra_jax.huggingface.embedding_files import unit_vectors
from electra_jax.models.inputs import SpecialTokens

Rows = Sequence[Any]  # EncodedExample, Window or TextRow
Encode = Callable[[Tokenizer, Sequence[Any], int], tuple[Rows, list[str]]]


class TaskType(NamedTuple):
    """The functions of one task, made by `make_task_type`."""

    name: str
    metrics: tuple[str, ...]  # config.task.metrics or their defaults; the first decides which model is best
    num_outputs: int
    # (tokenizer, examples, maximum row length) → rows, and phrases about what did not fit
    encode: Encode
    # (rows, B, L, id of [PAD]) → labels and is_scored; rows that only fill the batch are not scored
    make_labels: Callable[[Rows, int, int, int], tuple[Any, np.ndarray]]
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
    encode_held_out: Encode | None = None  # `encode` for what is not trained on; None: the same


def make_task_type(task: dict[str, Any], labels: tuple[str, ...]) -> TaskType:
    """The functions of a task.

    Args:
      task: config.task.
      labels: names of the classes or tags; () in other tasks.

    Raises:
      ValueError: an unknown config.task.kind, or a metric that such tasks do not have.
    """
    kind = task["kind"]
    if kind not in TASK_TYPES:
        raise ValueError(f"config.task.kind: got {kind!r}, expected one of {', '.join(TASK_TYPES)}.")
    check_metric_names(kind, task["metrics"])
    is_graded = kind == "embedding" and bool(task["label"])
    task = task | {"metrics": tuple(task["metrics"]) or default_metrics(kind, labels, is_graded=is_graded)}
    return TASK_TYPES[task["kind"]](task, labels)


def _classification(task: dict[str, Any], labels: tuple[str, ...]) -> TaskType:
    def make_labels(rows, batch_size, length, pad):
        return _labels_of_rows(rows, (batch_size,), np.int32)

    def loss(outputs_BC, labels_B, is_scored_B, ids_BL, special):
        return _mean(_cross_entropy(outputs_BC, labels_B), is_scored_B)

    return TaskType(
        "classification",
        task["metrics"],
        len(labels),
        _encode,
        make_labels,
        loss,
        collect=lambda examples, rows, outputs: [int(output.argmax()) for output in outputs],
        is_labelled=lambda example: example.label is not None,
        score=lambda examples, guesses: score(
            task["metrics"], [example.label for example in examples], guesses, labels
        ),
        format_prediction=lambda prediction: " ".join(labels[prediction].split()),
    )


def _regression(task: dict[str, Any], labels: tuple[str, ...]) -> TaskType:
    scale = task["label_scale"]

    def make_labels(rows, batch_size, length, pad):
        return _labels_of_rows(rows, (batch_size,), np.float32)

    def loss(outputs_B1, labels_B, is_scored_B, ids_BL, special):
        return _mean(jnp.square(outputs_B1[:, 0] - labels_B / scale), is_scored_B)

    return TaskType(
        "regression",
        task["metrics"],
        1,
        _encode,
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
    def make_labels(rows, batch_size, length, pad):
        labels_BL = np.full((batch_size, length), NO_TAG, np.int32)
        for row_L, row in zip(labels_BL, rows, strict=False):
            row_L[: len(row.ids)] = row.label
        return labels_BL, labels_BL >= 0

    def loss(outputs_BLC, labels_BL, is_scored_BL, ids_BL, special):
        return _mean(_cross_entropy(outputs_BLC, labels_BL), is_scored_BL)

    def score_tags(examples, predictions):
        tags = [np.array(example.tags, np.int32) for example in examples]
        known = [sentence >= 0 for sentence in tags]
        scored = [
            [sentence[is_known] for sentence, is_known in zip(side, known, strict=True)]
            for side in (tags, predictions)
        ]
        return score(task["metrics"], *scored, labels)

    return TaskType(
        "tagging",
        task["metrics"],
        len(labels),
        _encode,
        make_labels,
        loss,
        collect=lambda examples, rows, outputs: [
            output_nC.argmax(axis=-1) for output_nC in word_outputs(len(examples), rows, outputs)
        ],
        is_labelled=lambda example: any(tag != UNKNOWN for tag in example.tags),
        score=score_tags,
        format_prediction=lambda prediction: " ".join(labels[tag] for tag in prediction),
    )


def word_outputs(num_examples: int, rows: Rows, outputs: Sequence[np.ndarray]) -> list[np.ndarray]:
    """The outputs [n, C] for the words of each sentence, from those of its rows; a word's are those of its
    first token."""
    parts = [[] for _ in range(num_examples)]
    for row, output_LC in zip(rows, outputs, strict=True):
        parts[row.example].append(output_LC[: len(row.ids)][row.label != NO_TAG])
    return [np.concatenate(part) for part in parts]


def _question_answering(task: dict[str, Any], labels: tuple[str, ...]) -> TaskType:
    def encode(tokenizer, examples, max_length):
        kept, count = task["max_query_length"], f"{len(examples):,}"
        encoded = encode_questions(
            tokenizer,
            examples,
            max_length=max_length,
            max_query_length=kept,
            doc_stride=task["doc_stride"],
        )
        phrases = []
        if encoded.num_cut:
            phrases.append(
                f"{encoded.num_cut:,} of {count} questions cut to {kept} tokens (max_query_length)"
            )
        if encoded.num_outside:
            phrases.append(
                f"the answers of {encoded.num_outside:,} of {count} questions are not completely inside any "
                f"window of {max_length} tokens, and count there as no answer"
            )
        return encoded.windows, phrases

    def make_labels(rows, batch_size, length, pad):
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
        task["metrics"],
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


def _embedding(task: dict[str, Any], labels: tuple[str, ...]) -> TaskType:
    is_graded = bool(task["label"])
    check_embedding_metrics(task["metrics"], is_graded=is_graded)
    widths = tuple(map(int, task["matryoshka"]))  # the command line has words

    def make_labels(rows, batch_size, length, pad):
        texts = make_other_texts(rows, batch_size, pad)
        return texts, texts.numbers_BS[:, 0] != ABSENT

    def loss(vectors, texts, is_scored_B, ids_BL, special):
        losses_B = contrastive_losses(vectors, texts.numbers_BS, task["temperature"], widths)
        return _mean(losses_B, is_scored_B)

    def collect(examples, rows, outputs):
        vectors_ND = unit_vectors(np.array(outputs))
        if not is_graded:
            return search(examples, vectors_ND)
        return [Found(similarity, ()) for similarity in similarities(examples, vectors_ND)]

    def score_found(examples, found):
        if not is_graded:
            return retrieval_score(task["metrics"], examples, found)
        labels, guesses = [one.label for one in examples], [one.similarity for one in found]
        return score(task["metrics"], labels, guesses, ())

    return TaskType(
        "embedding",
        task["metrics"],
        0,
        encode_groups,
        make_labels,
        loss,
        collect,
        is_labelled=lambda example: (example.label if is_graded else example.pair) is not None,
        score=score_found,
        format_prediction=lambda found: " ".join([f"{found.similarity:.6g}", *map(str, found.ranks)]),
        encode_held_out=encode_texts,
    )


TASK_TYPES = {
    "classification": _classification,
    "regression": _regression,
    "tagging": _tagging,
    "question_answering": _question_answering,
    "embedding": _embedding,
}


def _encode(tokenizer: Tokenizer, examples: Sequence[Any], max_length: int) -> tuple[Rows, list[str]]:
    rows, num_cut = encode_examples(tokenizer, examples, max_length)
    if not num_cut:
        return rows, []
    # Tagged sentences are divided, so that every word keeps its tag.
    verb = "divided into rows of" if isinstance(examples[0], TaggedExample) else "cut to"
    return rows, [f"{num_cut:,} of {len(examples):,} examples {verb} {max_length} tokens"]


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
