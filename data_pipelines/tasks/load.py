"""Load a task's labelled data (classification, regression, tagging or question answering) from TensorFlow
Datasets or files.

A row that cannot be used is skipped and counted in `TaskData.notes`; an unknown label is an error.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from data_pipelines.tasks.datasets import TaskDataset, split_place
from data_pipelines.tasks.files import read_rows, read_sentences
from data_pipelines.tasks.labels import TASK_TYPES, UNKNOWN
from data_pipelines.tasks.questions import QUESTION_COLUMNS, Question, questions_of_dataset, read_squad_file
from data_pipelines.tasks.records import Columns, Row, Sentence, Skipped

SPLITS = ("train", "validation", "test")
TFDS_PREFIX = "tfds:"
ALL_LANGUAGES = "all"


class TextExample(NamedTuple):
    """A sentence or a pair of sentences."""

    text: str
    pair: str | None
    label: int | float | None  # see data_pipelines/tasks/labels.py


class TaggedExample(NamedTuple):
    """A sentence with one tag per word."""

    words: tuple[str, ...]
    tags: tuple[int, ...]  # see data_pipelines/tasks/labels.py


class TaskData(NamedTuple):
    """A task's examples by split."""

    labels: tuple[str, ...]  # () for regression
    splits: dict[str, list]  # training first, then validation, then test
    notes: list[str]  # skipped examples, one sentence per split and reason


def load_task(task: dict[str, Any]) -> TaskData:
    """The examples of a task: TextExamples, TaggedExamples or Questions.

    Args:
      task: config.task. `source` names a TensorFlow Dataset, all of whose splits are read. `train`,
        `validation` and `test` are files or "tfds:NAME_OR_DIRECTORY[@SPLIT]", separated by commas; together
        with a source they replace its splits or add one: XNLI has no training split, so it takes
        train="tfds:glue/mnli". Labels are those of `labels`, else the dataset's, else those of the training
        split, sorted (numbers by value). A dataset in several languages is trained on in `train_language`
        ("all" for every language) and evaluated in `language`.

    Raises:
      ValueError: a wrong setting, damaged data, or an unknown label. FileNotFoundError: no such file.
    """
    _check(task)
    skipped = Skipped()
    if task["kind"] == "question_answering":
        labels, splits = (), _read_questions(task, skipped)
    else:
        labels, splits = _read_labelled(task, skipped)
    for split, examples in splits.items():
        if not examples:
            raise ValueError(
                f"config.task: no example is left in {split}, expected some; "
                f"{'; '.join(skipped.sentences()) or 'it has no rows'}; check its text and label columns"
            )
    return TaskData(labels, splits, skipped.sentences())


def _places(task: dict[str, Any], open_dataset: Callable[[str], Any]) -> dict[str, list[tuple[Any, str]]]:
    """Split → its sources: files as (path, split), open datasets as (dataset, its split)."""
    places: dict[str, list[tuple[Any, str]]] = {}
    if task["source"]:
        dataset = open_dataset(task["source"])
        places = {split: [(dataset, split)] for split in dataset.splits}
    for split in SPLITS:
        given: list[tuple[Any, str]] = []
        for place in paths_of(task[split]):
            if place.startswith(TFDS_PREFIX):
                name, _, other = place.removeprefix(TFDS_PREFIX).partition("@")
                given.append((open_dataset(name), other or split))
            else:
                given.append((place, split))
        if given:
            places[split] = given
    return {split: places[split] for split in sorted(places, key=split_place)}


def paths_of(setting: str) -> list[str]:
    """The files and datasets that config.task.train, validation or test lists."""
    return [path.strip() for path in setting.split(",") if path.strip()]


def _read_questions(task: dict[str, Any], skipped: Skipped) -> dict[str, list[Question]]:
    places = _places(task, lambda name: TaskDataset(name, QUESTION_COLUMNS))
    questions: dict[str, list[Question]] = {split: [] for split in places}
    for split, parts in places.items():
        for place, name in parts:
            if isinstance(place, TaskDataset):
                questions[split] += questions_of_dataset(place, name, split, skipped)
            else:
                questions[split] += read_squad_file(place, split, skipped)
    return questions


def _read_labelled(task: dict[str, Any], skipped: Skipped) -> tuple[tuple[str, ...], dict[str, list]]:
    """(labels, examples by split) of every task type except question answering."""
    tagging, columns = task["kind"] == "tagging", Columns(task["text"], task["pair"], task["label"])
    places = _places(task, lambda name: TaskDataset(name, columns))
    datasets = [place for parts in places.values() for place, _ in parts if isinstance(place, TaskDataset)]
    if task["language"] and not any(dataset.languages for dataset in datasets):
        raise ValueError(
            f"config.task.language: got {task['language']!r}, expected '', since this data has one language"
        )
    file_columns = datasets[0].columns if task["source"] else columns
    records: dict[str, list] = {}
    for split, parts in places.items():
        records[split] = []
        for place, name in parts:
            if isinstance(place, TaskDataset):
                for language in _languages(task, split, place):
                    records[split] += place.read(name, language=language, tagging=tagging)
            else:
                read = read_sentences if tagging else read_rows
                records[split] += read(place, file_columns, split, skipped)
    labels = _labels(task, datasets, records)
    return labels, {
        split: list(_examples(split, rows, task["kind"], labels, skipped)) for split, rows in records.items()
    }


def _languages(task: dict[str, Any], split: str, dataset: TaskDataset) -> Sequence[str]:
    """The languages in which a split is read; one that is ignored if the dataset has no translations."""
    if split != "train":
        return (task["language"],)
    return (
        dataset.languages
        if dataset.languages and task["train_language"] == ALL_LANGUAGES
        else (task["train_language"],)
    )


def _check(task: dict[str, Any]) -> None:
    """Raises ValueError for settings that are wrong or do not fit together."""
    if task["kind"] not in TASK_TYPES:
        raise ValueError(f"config.task.kind: got {task['kind']!r}, expected one of {', '.join(TASK_TYPES)}")
    if not task["source"] and not task["train"]:
        raise ValueError(
            "config.task.train: got '' and no config.task.source, expected a file or a dataset; set one of "
            "them"
        )
    if task["kind"] == "regression" and task["labels"]:
        raise ValueError(
            f"config.task.labels: got {tuple(task['labels'])!r}, expected () for regression (numbers)"
        )
    if len(set(task["labels"])) != len(task["labels"]):
        raise ValueError(f"config.task.labels: got {tuple(task['labels'])!r}, expected each label once")
    if task["kind"] == "tagging" and task["pair"]:
        raise ValueError(
            f"config.task.pair: got {task['pair']!r}, expected '' for tagging, which takes single sentences"
        )
    files = [path for split in SPLITS for path in paths_of(task[split]) if not path.startswith(TFDS_PREFIX)]
    have_names = (
        task["source"]
        or task["train"].startswith(TFDS_PREFIX)
        or task["kind"] == "question_answering"
        or all(".conllu" in path.lower() for path in files)
    )
    for key in ("text", "label"):
        if files and not task[key] and not have_names:
            raise ValueError(
                f"config.task.{key}: got '', expected the column or field of {files[0]} that holds it"
            )


def _labels(
    task: dict[str, Any], datasets: Sequence[TaskDataset], records: dict[str, list]
) -> tuple[str, ...]:
    """The labels of the task in the order of their indices."""
    if task["kind"] == "regression":
        return ()
    if task["labels"]:
        return tuple(task["labels"])
    of_dataset = next((dataset.labels for dataset in datasets if dataset.labels), ())
    if of_dataset:
        return of_dataset
    if "train" not in records:
        raise ValueError(
            "config.task.labels: got () without a training split to collect them from, expected the labels"
        )
    values = {
        _spelling(label, row.where)
        for row in records["train"]
        for label in (row.tags if isinstance(row, Sentence) else [row.label])
        if label is not None
    }
    are_numbers = all(value.isdecimal() for value in values)
    return tuple(sorted(values, key=lambda value: (int(value), value) if are_numbers else value))


def _examples(
    split: str, records: list, task_type: str, labels: tuple[str, ...], skipped: Skipped
) -> Iterator:
    """The examples of a split with labels as numbers; incomplete ones are counted and skipped."""
    numbers = {label: number for number, label in enumerate(labels)}
    all_labels = (
        label for row in records for label in (row.tags if isinstance(row, Sentence) else [row.label])
    )
    is_labelled = any(label is not None for label in all_labels)
    if split == "train" and records and not is_labelled:
        raise ValueError(
            f"{records[0].where}: no label, and none in the rest of the training split; expected them in "
            "config.task.label"
        )
    for row in records:
        if task_type == "tagging":
            texts, found = row.words, row.tags
        else:
            texts, found = [text.strip() for text in (row.text, row.pair) if text is not None], [row.label]
        # Predictions for a split without labels are identified by position, so nothing is skipped there.
        if is_labelled and (not texts or not all(texts)):
            reason = "an empty word" if task_type == "tagging" and texts else "an empty text"
            skipped.add(split, reason, row.where)
        elif is_labelled and None in found:
            skipped.add(split, "a missing label", row.where)
        elif task_type == "tagging":
            tags = [
                numbers[_known(tag, numbers, row.place(at))] if is_labelled else UNKNOWN
                for at, tag in enumerate(found)
            ]
            yield TaggedExample(tuple(texts), tuple(tags))
        elif not is_labelled:
            yield TextExample(row.text, row.pair, None)
        elif task_type == "regression":
            yield TextExample(row.text, row.pair, _number(row))
        else:
            yield TextExample(row.text, row.pair, numbers[_known(row.label, numbers, row.where)])


def _spelling(label: Any, where: str) -> str:
    """A label from JSON or a dataset, spelled as in config.task.labels."""
    if isinstance(label, (list, dict)):
        raise ValueError(
            f"{where}: label is a {type(label).__name__}, expected a string or number; check "
            "config.task.label"
        )
    return label if isinstance(label, str) else str(label).lower() if isinstance(label, bool) else str(label)


def _known(label: Any, labels: dict[str, int], where: str) -> str:
    spelling = _spelling(label, where)
    if spelling not in labels:
        raise ValueError(
            f"{where}: label {spelling!r}, expected one of {', '.join(map(repr, labels))}; correct the "
            "data, name its column in config.task.label, or list every label in config.task.labels"
        )
    return spelling


def _number(row: Row) -> float:
    try:
        number = float(row.label) if not isinstance(row.label, bool) else math.nan
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise ValueError(
            f"{row.where}: label {row.label!r}, expected a finite number for regression; correct the data, "
            "name its column in config.task.label, or change config.task.kind"
        )
    return number
