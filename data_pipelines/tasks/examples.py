"""Labelled rows and sentences as examples, with indices of classes or numbers for labels."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from data_pipelines.command_errors import shorten
from data_pipelines.tasks.label_values import Classes, identity, is_placeholder, spelling
from data_pipelines.tasks.labels import UNKNOWN
from data_pipelines.tasks.records import Row, Sentence, Skipped, as_number

NO_NUMBER = -1.0  # what published test sets of regression have for an unknown label
MANY_NUMBERS = 3  # with more different ones, none of them negative but -1, that one looks like a code
NUMBER_ADVICE = "correct the data, name its column in config.task.label, or change config.task.kind"
LONE_NUMBER = "the only one below 0; if it means that there is none, take these rows out of the data"
MANY_LABELS = 12  # the most that a list shows
TAKEN_FOR_A_CLASS = (
    "taken for a class; if it means that there is none, list the classes in config.task.labels"
)


class TextExample(NamedTuple):
    """A sentence or a pair of sentences."""

    text: str
    pair: str | None
    label: int | float | None  # see data_pipelines/tasks/labels.py


class TaggedExample(NamedTuple):
    """A sentence with one tag per word."""

    words: tuple[str, ...]
    tags: tuple[int, ...]  # see data_pipelines/tasks/labels.py


def labels_of(row: Row | Sentence) -> list[Any]:
    """The label of a row, or the tags of a sentence."""
    return row.tags if isinstance(row, Sentence) else [row.label]


def with_spelled_labels(row: Row | Sentence) -> Row | Sentence:
    """`row` with its labels as text, None for a missing one."""
    if isinstance(row, Sentence):
        return row._replace(tags=[spelling(tag, row.place(at)) for at, tag in enumerate(row.tags)])
    return row._replace(label=spelling(row.label, row.where))


def _check_is_labelled(split: str, records: Sequence[Row | Sentence], is_labelled: bool) -> None:
    if split == "train" and records and not is_labelled:
        raise ValueError(
            f"{records[0].where}: no label, and none in the rest of the training split; expected them in "
            "config.task.label"
        )


def class_examples(
    split: str, records: list, classes: Classes, skipped: Skipped, *, is_listed: bool
) -> Iterator[TextExample | TaggedExample]:
    """The examples of a split with labels as indices; incomplete ones are counted and skipped.

    Args:
      is_listed: whether config.task.labels lists the classes.
    """
    found = {label for row in records for label in labels_of(row) if label is not None}
    is_labelled = any(classes.has(label) or not is_placeholder(label) for label in found)
    _check_is_labelled(split, records, is_labelled)
    advice = "" if is_listed else "; if it is a class, list all classes in config.task.labels"
    for row in records:
        labels = labels_of(row)
        missing = next((label for label in labels if label and classes.means_no_label(label)), None)
        doubtful = next((label for label in labels if label in classes.doubtful), None)
        if not is_labelled:
            # Predictions for a split without labels are identified by position, so nothing is skipped there.
            placeholder = next((label for label in labels if label), None)
            if placeholder:
                skipped.keep(split, f"only the label {placeholder!r}, so that they are not scored", row.where)
            yield _without_labels(row)
        elif reason := _defect(row):
            skipped.add(split, reason, row.where)
        elif missing and all(classes.means_no_label(label) for label in labels):
            skipped.add(split, f"a missing label ({missing!r}{advice})", row.where)
        else:
            if missing:
                skipped.keep(split, f"a missing label of a word ({missing!r}{advice})", row.where)
            if doubtful:
                skipped.keep(split, f"the label {doubtful!r}, {TAKEN_FOR_A_CLASS}", row.where)
            yield _with_labels(row, classes)


def _defect(row: Row | Sentence) -> str | None:
    """Why a row of a split with labels cannot be used."""
    if isinstance(row, Sentence):
        texts, empty = row.words, "an empty word" if row.words else "an empty text"
    else:
        texts, empty = [text.strip() for text in (row.text, row.pair) if text is not None], "an empty text"
    if not texts or not all(texts):
        return empty
    return "a missing label" if None in labels_of(row) else None


def _without_labels(row: Row | Sentence) -> TextExample | TaggedExample:
    if isinstance(row, Sentence):
        return TaggedExample(tuple(row.words), (UNKNOWN,) * len(row.words))
    return TextExample(row.text, row.pair, None)


def _with_labels(row: Row | Sentence, classes: Classes) -> TextExample | TaggedExample:
    if not isinstance(row, Sentence):
        return TextExample(row.text, row.pair, _index(row.label, classes, row.where))
    tags = (
        UNKNOWN if classes.means_no_label(tag) else _index(tag, classes, row.place(at))
        for at, tag in enumerate(row.tags)
    )
    return TaggedExample(tuple(row.words), tuple(tags))


def _index(label: str, classes: Classes, where: str) -> int:
    if not classes.has(label):
        raise ValueError(
            f"{where}: label {label!r}, expected one of {shorten([*map(repr, classes.names)], MANY_LABELS)}; "
            "correct the data, name its column in config.task.label, or list every label in "
            "config.task.labels"
        )
    return classes.numbers[identity(label)]


def number_examples(split: str, records: Sequence[Row], skipped: Skipped) -> Iterator[TextExample]:
    """The examples of a split with numbers to predict; incomplete ones are counted and skipped.

    A split to evaluate on in which every number is -1 has no labels, as in published test sets.

    Raises:
      ValueError: a label is not a finite number, or a training split has none.
    """
    numbers = [as_number(row.label, row.where, "for regression", NUMBER_ADVICE) for row in records]
    values = {number for number in numbers if number is not None}
    is_unknown = split != "train" and values == {NO_NUMBER}
    is_labelled = bool(values) and not is_unknown
    _check_is_labelled(split, records, is_labelled)
    is_lone = (
        len(values) > MANY_NUMBERS
        and min(values) == NO_NUMBER
        and not any(NO_NUMBER < number < 0 for number in values)
    )
    for row, number in zip(records, numbers, strict=True):
        if not is_labelled:
            if number is not None:
                skipped.keep(split, f"only the label {row.label!r}, so that they are not scored", row.where)
            yield _without_labels(row)
        elif reason := _defect(row._replace(label=number)):
            skipped.add(split, reason, row.where)
        else:
            if is_lone and number == NO_NUMBER:
                skipped.keep(split, f"the number {row.label}, {LONE_NUMBER}", row.where)
            yield TextExample(row.text, row.pair, number)
