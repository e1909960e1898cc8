"""Labelled rows and sentences as a source spells them, before labels become numbers, and a count of what is
left out."""

from typing import Any, NamedTuple


class Columns(NamedTuple):
    """Which column, field or feature holds what; numbers from 0 as strings where a file has no header."""

    text: str
    pair: str  # "" for none
    label: str


class Row(NamedTuple):
    """One example for classification or regression."""

    where: str  # file:line, or dataset, split and index
    text: str  # "" where it is missing
    pair: str | None  # the same; None where the task has no pairs
    label: Any  # None where it is missing


class Sentence(NamedTuple):
    """One example for tagging."""

    where: str
    words: list[str]  # "" for a missing one
    tags: list[Any]  # one a word; None for a missing one
    word_places: tuple[str, ...] = ()  # file:line of each word where each has its own

    def place(self, index: int) -> str:
        """Where the word `index` is, for messages."""
        return self.word_places[index] if self.word_places else f"{self.where}: word {index}"


class Skipped:
    """What was not read, or not as it stands, by split and reason."""

    def __init__(self):
        self._found: dict[tuple[str, str, str], tuple[int, str]] = {}

    def add(self, split: str, reason: str, where: str) -> None:
        """Count one example of `split` that is left out; the place of the first is kept."""
        self._count(split, "skipped", reason, where)

    def keep(self, split: str, reason: str, where: str) -> None:
        """Count one that is used in spite of `reason`, as `add` does."""
        self._count(split, "kept", reason, where)

    def sentences(self) -> list[str]:
        """One sentence a split and reason."""
        return [
            f"{split}: {what} {count} {'example' if count == 1 else 'examples'} with {reason}, the first at "
            f"{first}"
            for (split, what, reason), (count, first) in self._found.items()
        ]

    def _count(self, split: str, what: str, reason: str, where: str) -> None:
        count, first = self._found.get((split, what, reason), (0, where))
        self._found[split, what, reason] = (count + 1, first)


def as_text(value: Any, column: str, where: str) -> str:
    """`value` of a record as text, "" where it is missing.

    Raises:
      ValueError: it is something else, or not UTF-8.
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
    if value is None:
        return ""
    raise ValueError(
        f"{where}: {column!r} is a {type(value).__name__}, expected a string; name the one that holds the "
        "text in config.task.text or config.task.pair"
    )


def as_sentence(where: str, words: Any, tags: Any, columns: Columns) -> Sentence:
    """A sentence out of a list of words and a list of tags; `tags` may be None where a split has none.

    Raises:
      ValueError: `words` is no list of strings, or there is not one tag a word.
    """
    if not isinstance(words, list):
        raise ValueError(
            f"{where}: {columns.text!r} is a {type(words).__name__}, expected a list of words; name the one "
            "that holds the words in config.task.text"
        )
    tags = [None] * len(words) if tags is None else tags
    if not isinstance(tags, list) or len(tags) != len(words):
        got = f"{len(tags)} tags" if isinstance(tags, list) else f"a {type(tags).__name__}"
        raise ValueError(
            f"{where}: {columns.label!r} is {got}, expected a list with one tag for each of {len(words)} "
            "words; correct the data, or name the one that holds the tags in config.task.label"
        )
    return Sentence(where, [as_text(word, columns.text, where) for word in words], tags)
