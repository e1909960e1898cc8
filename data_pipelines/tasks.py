"""Labelled data for fine-tuning: classification, regression and tagging, out of TensorFlow Datasets or files, and as token ids.

A row that cannot be used is skipped and counted in `TaskData.notes`; a label that the task does not know is an error.
"""

import itertools
import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from data_pipelines.task_datasets import TRAINING_LANGUAGE, TaskDataset, split_place
from data_pipelines.task_files import read_rows, read_sentences
from data_pipelines.task_records import Columns, Row, Sentence, Skipped
from data_pipelines.tokenizer import Tokenizer

KINDS = ("classification", "regression", "tagging")
SPLITS = ("train", "validation", "test")
NOT_SCORED = -1
TFDS_PREFIX = "tfds:"
ENCODE_TEXTS = 1024


class TextExample(NamedTuple):
    """A sentence or a pair of sentences."""

    text: str
    pair: str | None
    label: int | float | None  # index into TaskData.labels; a number in regression; None where a split has no labels


class TaggedExample(NamedTuple):
    """A sentence with a tag a word."""

    words: tuple[str, ...]
    tags: tuple[int, ...]  # indices into TaskData.labels, one a word; NOT_SCORED throughout where a split has none


class TaskData(NamedTuple):
    """A task's examples by split."""

    labels: tuple[str, ...]  # () for regression
    splits: dict[str, list]  # training first, then validation, then test
    notes: list[str]  # what was skipped: split, count, reason, first place


class EncodedExample(NamedTuple):
    """An example as token ids."""

    ids: np.ndarray  # int32 [n], [CLS] … [SEP] (… [SEP])
    label: int | float | np.ndarray | None  # as in the example; of tags int32 [n], NOT_SCORED where none belongs


def load_task(task: dict[str, Any]) -> TaskData:
    """The examples of `task`, which is config.task.

    `source` names a TensorFlow Dataset, all of whose splits are read. `train`, `validation` and `test` are files or
    "tfds:NAME_OR_DIRECTORY[@SPLIT]"; beside a source they stand for its splits or add one: XNLI has no training split, so
    train="tfds:glue/mnli" goes with it. Labels are those of config.task.labels, else the dataset's, else those of the
    training split, sorted (numbers by value).

    Raises:
      ValueError: a wrong setting, damaged data, or a label outside the set. FileNotFoundError: no such file.
    """
    _check(task)
    tagging, skipped = task["kind"] == "tagging", Skipped()
    columns = Columns(task["text"], task["pair"], task["label"])
    records: dict[str, list] = {}
    datasets: list[TaskDataset] = []
    if task["source"]:
        datasets.append(TaskDataset(task["source"], columns))
    parts = {split: (datasets[0], split) for split in datasets[0].splits} if datasets else {}
    for split in SPLITS:
        if task[split].startswith(TFDS_PREFIX):
            name, _, other = task[split].removeprefix(TFDS_PREFIX).partition("@")
            datasets.append(TaskDataset(name, columns))
            parts[split] = (datasets[-1], other or split)
        elif task[split]:
            parts[split] = (task[split], split)
    if task["language"] and not any(dataset.languages for dataset in datasets):
        raise ValueError(f"config.task.language: got {task['language']!r}, expected '', for this data is in one language")
    file_columns = datasets[0].columns if datasets else columns
    for split in sorted(parts, key=split_place):
        place, name = parts[split]
        if isinstance(place, TaskDataset):
            language = TRAINING_LANGUAGE if split == "train" else task["language"]
            records[split] = place.read(name, language=language, tagging=tagging)
        else:
            read = read_sentences if tagging else read_rows
            records[split] = read(place, file_columns, split, skipped)
    labels = _labels(task, datasets, records)
    splits = {split: list(_examples(split, rows, task["kind"], labels, skipped)) for split, rows in records.items()}
    for split, examples in splits.items():
        if not examples:
            raise ValueError(f"config.task: no example is left in {split}, expected some; "
                             f"{'; '.join(skipped.sentences()) or 'it has no rows'}; check its text and label columns")
    return TaskData(labels, splits, skipped.sentences())


def _check(task: dict[str, Any]) -> None:
    """Raises ValueError where settings do not go together."""
    if task["kind"] not in KINDS:
        raise ValueError(f"config.task.kind: got {task['kind']!r}, expected one of {', '.join(KINDS)}")
    if not task["source"] and not task["train"]:
        raise ValueError("config.task.train: got '' and no config.task.source, expected a file or a dataset; set one of them")
    if task["kind"] == "regression" and task["labels"]:
        raise ValueError(f"config.task.labels: got {tuple(task['labels'])!r}, expected () for regression (numbers)")
    if len(set(task["labels"])) != len(task["labels"]):
        raise ValueError(f"config.task.labels: got {tuple(task['labels'])!r}, expected each label once")
    if task["kind"] == "tagging" and task["pair"]:
        raise ValueError(f"config.task.pair: got {task['pair']!r}, expected '' for tagging, which takes single sentences")
    files = [task[split] for split in SPLITS if task[split] and not task[split].startswith(TFDS_PREFIX)]
    have_names = task["source"] or task["train"].startswith(TFDS_PREFIX) or all(".conllu" in path.lower() for path in files)
    for key in ("text", "label"):
        if files and not task[key] and not have_names:
            raise ValueError(f"config.task.{key}: got '', expected the column or field of {files[0]} that holds it")


def _labels(task: dict[str, Any], datasets: Sequence[TaskDataset], records: dict[str, list]) -> tuple[str, ...]:
    """The labels of the task in the order of their indices."""
    if task["kind"] == "regression":
        return ()
    if task["labels"]:
        return tuple(task["labels"])
    of_dataset = next((dataset.labels for dataset in datasets if dataset.labels), ())
    if of_dataset:
        return of_dataset
    if "train" not in records:
        raise ValueError("config.task.labels: got () without a training split to collect them from, expected the labels")
    values = {_spelling(label, row.where) for row in records["train"]
              for label in (row.tags if isinstance(row, Sentence) else [row.label]) if label is not None}
    are_numbers = all(value.isdecimal() for value in values)
    return tuple(sorted(values, key=lambda value: (int(value), value) if are_numbers else value))


def _examples(split: str, records: list, kind: str, labels: tuple[str, ...], skipped: Skipped) -> Iterator:
    """The examples of a split with labels as numbers; what is not whole is counted and left out."""
    numbers = {label: number for number, label in enumerate(labels)}
    all_labels = (label for row in records for label in (row.tags if isinstance(row, Sentence) else [row.label]))
    is_labelled = any(label is not None for label in all_labels)
    if split == "train" and records and not is_labelled:
        raise ValueError(f"{records[0].where}: no label, and none in the rest of the training split; expected them in "
                         "config.task.label")
    for row in records:
        if kind == "tagging":
            texts, found = row.words, row.tags
        else:
            texts, found = [text.strip() for text in (row.text, row.pair) if text is not None], [row.label]
        if not texts or not all(texts):
            skipped.add(split, "an empty word" if kind == "tagging" and texts else "an empty text", row.where)
        elif is_labelled and None in found:
            skipped.add(split, "a missing label", row.where)
        elif kind == "tagging":
            tags = [numbers[_known(tag, numbers, row.place(at))] if is_labelled else NOT_SCORED for at, tag in enumerate(found)]
            yield TaggedExample(tuple(texts), tuple(tags))
        elif not is_labelled:
            yield TextExample(row.text, row.pair, None)
        elif kind == "regression":
            yield TextExample(row.text, row.pair, _number(row))
        else:
            yield TextExample(row.text, row.pair, numbers[_known(row.label, numbers, row.where)])


def _spelling(label: Any, where: str) -> str:
    """A label of JSON or of a dataset as config.task.labels would spell it."""
    if isinstance(label, (list, dict)):
        raise ValueError(f"{where}: label is a {type(label).__name__}, expected a string or number; check config.task.label")
    return label if isinstance(label, str) else str(label).lower() if isinstance(label, bool) else str(label)


def _known(label: Any, labels: dict[str, int], where: str) -> str:
    spelling = _spelling(label, where)
    if spelling not in labels:
        raise ValueError(f"{where}: label {spelling!r}, expected one of {', '.join(map(repr, labels))}; correct the data, name "
                         "its column in config.task.label, or list every label in config.task.labels")
    return spelling


def _number(row: Row) -> float:
    try:
        number = float(row.label) if not isinstance(row.label, bool) else math.nan
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise ValueError(f"{row.where}: label {row.label!r}, expected a finite number for regression; correct the data, "
                         "name its column in config.task.label, or change config.task.kind")
    return number


def encode_examples(tokenizer: Tokenizer, examples: Sequence[TextExample] | Sequence[TaggedExample], max_length: int,
                    ) -> tuple[list[EncodedExample], int]:
    """Token ids of at most `max_length`, and how many examples did not fit whole.

    [CLS] text [SEP], or [CLS] text [SEP] pair [SEP] with the longer of the two cut first. Tagged words are encoded one by one;
    the first piece carries the tag, and a word that has no piece gets [UNK]. A sentence that does not fit becomes several
    examples, divided between words; only a single word that does not fit is cut.

    Raises:
      ValueError: `max_length` leaves no room for text.
    """
    is_tagged = bool(examples) and isinstance(examples[0], TaggedExample)
    shortest = 5 if not is_tagged and any(example.pair is not None for example in examples) else 3
    if max_length < shortest:
        raise ValueError(f"max_length: got {max_length}, expected at least {shortest}, so that every text keeps a token; "
                         "ask for longer examples")
    encode = _encode_tagged if is_tagged else _encode_texts
    encoded, cut = [], 0
    for start in range(0, len(examples), ENCODE_TEXTS):
        some, some_cut = encode(tokenizer, examples[start : start + ENCODE_TEXTS], max_length)
        encoded += some
        cut += some_cut
    return encoded, cut


def _encode_texts(tokenizer: Tokenizer, examples: Sequence[TextExample], max_length: int) -> tuple[list[EncodedExample], int]:
    cls, sep = tokenizer.special.cls, tokenizer.special.sep
    texts = tokenizer.encode_batch([example.text for example in examples])
    pairs = iter(tokenizer.encode_batch([example.pair for example in examples if example.pair is not None]))
    encoded, cut = [], 0
    for example, text in zip(examples, texts, strict=True):
        pair = None if example.pair is None else next(pairs)
        room = max_length - (2 if pair is None else 3)
        cut += len(text) + len(pair or ()) > room
        if pair is None:
            ids = [cls, *text[:room], sep]
        else:
            # What is left after taking tokens off the longer one, or off the pair where both are as long, one by one.
            pair = pair[: max(room // 2, room - len(text))]
            ids = [cls, *text[: room - len(pair)], sep, *pair, sep]
        encoded.append(EncodedExample(np.array(ids, np.int32), example.label))
    return encoded, cut


def _encode_tagged(tokenizer: Tokenizer, examples: Sequence[TaggedExample], max_length: int,
                   ) -> tuple[list[EncodedExample], int]:
    cls, sep, unk = tokenizer.special.cls, tokenizer.special.sep, tokenizer.special.unk
    words = iter(tokenizer.encode_batch([word for example in examples for word in example.words]))
    room = max_length - 2
    encoded, cut = [], 0
    for example in examples:
        rows: list[tuple[list[int], list[int]]] = [([], [])]
        is_cut = False
        for tag, pieces in zip(example.tags, itertools.islice(words, len(example.words)), strict=True):
            is_cut |= len(pieces) > room
            pieces = pieces[:room] or [unk]
            if len(rows[-1][0]) + len(pieces) > room:
                rows.append(([], []))
            rows[-1][0].extend(pieces)
            rows[-1][1].extend([tag, *[NOT_SCORED] * (len(pieces) - 1)])
        cut += is_cut or len(rows) > 1
        encoded += [EncodedExample(np.array([cls, *ids, sep], np.int32), np.array([NOT_SCORED, *tags, NOT_SCORED], np.int32))
                    for ids, tags in rows]
    return encoded, cut
