"""Labelled rows and sentences as their source spells them, before labels become numbers, and counts of
skipped ones."""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from data_pipelines.json_files import parse_json, type_name

COLUMN_ADVICE = "name the one that holds the text in config.task.text or config.task.pair"
# How tables spell a missing label, in lower case.
NEVER_LABELS = ("nan", "<na>", "null")


class Columns(NamedTuple):
    """Names of columns, fields or features; in a file without a header, column numbers from 0 as strings."""

    text: str
    pair: str  # "" for none
    label: str


class Row(NamedTuple):
    """One example for classification or regression."""

    where: str  # file:line, or dataset, split and index
    text: str  # "" if it is missing
    pair: str | None  # the second text, "" if it is missing; None if the task has no pairs
    label: Any  # None if it is missing


class Sentence(NamedTuple):
    """One example for tagging."""

    where: str
    words: list[str]  # "" for a missing word
    tags: list[Any]  # one per word; None for a missing tag
    word_places: tuple[str, ...] = ()  # file:line of each word if every word has a line

    def place(self, index: int) -> str:
        """Location of the word `index`, for messages."""
        return self.word_places[index] if self.word_places else f"{self.where}: word {index}"


class Skipped:
    """Counts of examples that were skipped, or used in spite of a defect, by split and reason."""

    def __init__(self):
        self._found: dict[tuple[str, str, str], tuple[int, str]] = {}

    def add(self, split: str, reason: str, where: str) -> None:
        """Count one skipped example of `split`; the location of the first is kept."""
        self._count(split, "skipped", reason, where)

    def keep(self, split: str, reason: str, where: str) -> None:
        """Count one example that is used in spite of `reason`."""
        self._count(split, "kept", reason, where)

    def reasons(self, split: str) -> list[str]:
        """The sentences on skipped examples of a split."""
        return [text for text in self.sentences() if text.startswith(f"{split}: skipped ")]

    def sentences(self) -> list[str]:
        """One sentence per split and reason."""
        return [
            f"{split}: {what} {count} {'example' if count == 1 else 'examples'} with {reason}, the first at "
            f"{first}"
            for (split, what, reason), (count, first) in self._found.items()
        ]

    def _count(self, split: str, what: str, reason: str, where: str) -> None:
        count, first = self._found.get((split, what, reason), (0, where))
        self._found[split, what, reason] = (count + 1, first)


def skip_malformed(
    rows: Sequence[tuple[str, int]], width: int, split: str, skipped: Skipped, labels: Sequence[Any]
) -> None:
    """Count the rows, or the sentences with a line, that have another number of columns than `width`.

    Args:
      rows: (location, number of columns) of each of them.
      labels: those of the other rows of the file; None for a missing one.

    Raises:
      ValueError: there are some in a file to test on without labels. Its predictions are identified by
        position, so none may be skipped.
    """
    if rows and split == "test" and labels and all(label is None for label in labels):
        where, width_found = rows[0]
        raise ValueError(
            f"{where}: got {width_found} columns, expected {width}: the file has no labels, so its "
            "predictions are identified by position, and no row is skipped; correct the row"
        )
    for where, _ in rows:
        skipped.add(split, f"a number of columns other than {width}", where)


def labelled_alike(
    split: str, read: list[tuple[str, Any]], is_labelled: Callable[[Any], bool], skipped: Skipped
) -> list[Any]:
    """The examples of a split, read as (file, example), of which either all have labels or none has: beside
    labelled ones the others are counted and skipped, since they cannot be scored."""
    has_labels = any(is_labelled(example) for _, example in read)
    examples = []
    for where, example in read:
        if has_labels and not is_labelled(example):
            skipped.add(split, "a missing label", where)
        else:
            examples.append(example)
    return examples


def json_objects(lines: Iterable[tuple[str, str]], field: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """(where, object) of each (where, line) with JSON; empty lines are left out.

    Args:
      field: one that the objects are expected to have, for messages.

    Raises:
      ValueError: a line is not a JSON object.
    """
    for where, line in lines:
        if not line.strip():
            continue
        record = parse_json(line, object, where, "Expected one object a line.")
        if not isinstance(record, dict):
            raise ValueError(f"{where}: got {type_name(record)}, expected an object with the field {field!r}")
        yield where, record


def as_text(value: Any, column: str, where: str, advice: str = COLUMN_ADVICE) -> str:
    """`value` of a record as text, "" if it is missing.

    Raises:
      ValueError: it is not text, or not UTF-8; ends with `advice` if it is not text.
    """
    try:
        if isinstance(value, bytes):
            return value.decode("utf-8")
        if isinstance(value, str):
            value.encode("utf-8")  # JSON can spell lone surrogates, which no tokenizer takes
            return value
    except UnicodeError as error:
        raise ValueError(
            f"{where}: {column!r} is not valid UTF-8 ({error}); convert or correct the data"
        ) from error
    if value is None or (isinstance(value, float) and math.isnan(value)):  # json.dumps writes NaN for none
        return ""
    raise ValueError(f"{where}: {column!r} is {type_name(value)}, expected a string; {advice}")


def as_number(label: Any, where: str, purpose: str, advice: str) -> float | None:
    """A label of a record as a number, None if it is null, NaN, blank, or text that says so.

    Raises:
      ValueError: it is not a finite number; says what it is expected for, and ends with `advice`.
    """
    if label is None or label != label:
        return None
    if isinstance(label, str) and label.strip().lower() in ("", *NEVER_LABELS):
        return None
    try:
        number = float(label) if not isinstance(label, bool) else math.nan
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise ValueError(f"{where}: label {label!r}, expected a finite number {purpose}; {advice}")
    return number


def as_sentence(where: str, words: Any, tags: Any, columns: Columns) -> Sentence:
    """A sentence from a list of words and a list of tags; `tags` is None in a split without tags.

    Raises:
      ValueError: `words` is not a list of strings, or `tags` does not have one tag per word.
    """
    if not isinstance(words, list):
        raise ValueError(
            f"{where}: {columns.text!r} is {type_name(words)}, expected a list of words; name the one "
            "that holds the words in config.task.text"
        )
    tags = [None] * len(words) if tags is None else tags
    if not isinstance(tags, list) or len(tags) != len(words):
        got = f"{len(tags)} tags" if isinstance(tags, list) else type_name(tags)
        raise ValueError(
            f"{where}: {columns.label!r} is {got}, expected a list with one tag for each of {len(words)} "
            "words; correct the data, or name the one that holds the tags in config.task.label"
        )
    return Sentence(where, [as_text(word, columns.text, where) for word in words], tags)
