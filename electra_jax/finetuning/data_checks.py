"""What must hold of a task's examples before anything is trained on them."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from data_pipelines.command_errors import shorten
from data_pipelines.tasks.embedding_examples import EmbeddingExample
from data_pipelines.tasks.examples import MANY_LABELS, TaggedExample, TextExample
from data_pipelines.tasks.labels import UNKNOWN
from data_pipelines.tasks.load import TaskData
from electra_jax.finetuning.retrieval import Found
from electra_jax.finetuning.span_decoding import Answer
from electra_jax.finetuning.task_types import TaskType

WITH_CLASSES = ("classification", "tagging")  # task types


def check_can_be_learned(task_type: TaskType, data: TaskData) -> None:
    """Raises ValueError if the training examples are all of one class, number, text or kind of question."""
    examples = data.splits["train"]
    # Listed classes, and those of examples that are held out or left out, may lack training examples.
    if task_type.name in WITH_CLASSES and len(found := _trained_classes(data)) < 2:
        raise ValueError(
            f"config.task: got one class in train, {', '.join(map(repr, found))}, expected two or more. "
            "Correct the data or config.task.label, or change config.task.validation_fraction if it has "
            "left no other class."
        )
    if task_type.name == "regression" and len({example.label for example in examples}) < 2:
        raise ValueError(
            f"config.task: got the number {examples[0].label:g} for each of {len(examples)} examples of "
            "train, expected different ones. Correct config.task.label or the data."
        )
    if task_type.name == "embedding" and len({example.pair or example.text for example in examples}) < 2:
        raise ValueError(
            f"config.task: got the same text for each of {len(examples)} examples of train, expected "
            "different ones: the other texts are its negatives. Correct config.task.pair or the data."
        )
    if task_type.name == "question_answering" and all(question.is_impossible for question in examples):
        raise ValueError(
            f"config.task: got {len(examples)} questions in train that have no answer, expected some that "
            "have one. Correct the data."
        )


def absent_class_notes(task_type: TaskType, data: TaskData) -> list[str]:
    """A sentence about the classes or tags that no training example has, if there are some."""
    if task_type.name not in WITH_CLASSES:
        return []
    found = set(_trained_classes(data))
    absent = [repr(label) for label in data.labels if label not in found]
    classes = "class" if len(absent) == 1 else "classes"
    return [f"train: no example has the {classes} {shorten(absent, MANY_LABELS)}"] if absent else []


def _trained_classes(data: TaskData) -> list[str]:
    """The classes or tags that training examples have."""
    found = {
        label
        for example in data.splits["train"]
        for label in (example.tags if isinstance(example, TaggedExample) else [example.label])
    }
    return [data.labels[label] for label in sorted(found - {UNKNOWN})]


def first_labelled_split(task_type: TaskType, splits: Mapping[str, Sequence[Any]]) -> str | None:
    """The first split besides "train" that has labels; None if there is none."""
    return next(
        (name for name, some in splits.items() if name != "train" and task_type.is_labelled(some[0])), None
    )


def no_evaluation(task_type: TaskType, splits: Sequence[str]) -> str:
    """What to say if no split but "train" has labels."""
    if task_type.name == "embedding":
        return (
            f"config.task: got no pairs to evaluate on in the splits {', '.join(splits)}, expected a split "
            "with some. Set config.task.validation to a file with a column of pairs, and config.task.pair to "
            "its name. Only texts that have pairs can be held out of the training examples."
        )
    return (
        f"config.task: only train has labels, of the splits {', '.join(splits)}, expected one more to "
        "evaluate on. Set config.task.validation to a file, or hold out a part of the training examples with "
        "--config.task.validation_fraction=0.1."
    )


def check_contrastive(config: dict[str, Any], examples: Sequence[EmbeddingExample]) -> None:
    """Raises ValueError for settings of embeddings that the training examples do not allow.

    Args:
      config: a whole configuration.
    """
    batch_size = config["train"]["batch_size"]
    if batch_size < 2 and not all(any(example.negatives) for example in examples):
        raise ValueError(
            f"config.train.batch_size: got {batch_size}, expected 2 or more: the other texts of the "
            "batch are the negatives. Pass, for example, --config.train.batch_size=64."
        )
    if all(example.pair is not None for example in examples):
        return
    model = config["model"]
    if not model["hidden_dropout"] and not model["attention_dropout"]:
        raise ValueError(
            "config.model.hidden_dropout: got 0.0, and no dropout of the attention, with training texts "
            "without a pair, expected some: a text and itself would have the same vector. "
            "Pass --config.model.hidden_dropout=0.1, or name the column of the pairs in config.task.pair."
        )


def check_swaps(task: dict[str, Any], examples: Sequence[Any]) -> None:
    """Raises ValueError for config.task.swaps_pairs if the training examples are not all pairs."""
    if task["swaps_pairs"] and any(getattr(example, "pair", None) is None for example in examples):
        raise ValueError(
            "config.task.swaps_pairs: got True with training texts without a pair, expected False. "
            "Pass --config.task.swaps_pairs=False."
        )


def check_metrics(task_type: TaskType, examples: Sequence[Any]) -> None:
    """Raises ValueError if config.task.metrics cannot be computed for a labelled split, whatever a model
    predicts."""
    # A class that this split lacks, or a fraction where its numbers are whole, may be predicted.
    possible = {
        "classification": [TextExample("", None, label) for label in range(task_type.num_outputs)],
        "regression": [TextExample("", None, 0.5)],
    }
    examples = [*examples, *possible.get(task_type.name, [])]
    truth = {
        "classification": lambda example: example.label,
        "regression": lambda example: example.label,
        "tagging": lambda example: np.array(example.tags),
        "question_answering": lambda question: Answer("", 0.0, 0.0, []),
        "embedding": lambda example: Found(example.label or 0.0, (1,)),
    }[task_type.name]
    try:
        task_type.score(examples, [truth(example) for example in examples])
    except ValueError as error:
        raise ValueError(f"config.task.metrics cannot be computed for this task: {error}") from error


def commonest_class_notes(task_type: TaskType, data: TaskData) -> list[str]:
    """A sentence for each split to score: the accuracy of a model that always answers the same."""
    if task_type.name != "classification":
        return []
    notes = []
    for split, examples in data.splits.items():
        if split == "train" or not task_type.is_labelled(examples[0]):
            continue
        [(label, count)] = Counter(example.label for example in examples).most_common(1)
        notes.append(
            f"{split}: a model that always answers {data.labels[label]!r}, the commonest class, has an "
            f"accuracy of {count / len(examples):.3f}"
        )
    return notes
