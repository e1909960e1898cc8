"""Read tagged sentences: CoNLL-U, and files with a line for each word and blank lines between sentences."""

import re
from collections.abc import Iterator

from data_pipelines.tasks.conll_comments import CommentFinder, Line
from data_pipelines.tasks.records import Columns, Sentence, Skipped, skip_malformed
from data_pipelines.tasks.text_files import most_common, numbered_lines

CONLLU_COLUMNS = ("id", "form", "lemma", "upos", "xpos", "feats", "head", "deprel", "deps", "misc")
CONLLU_DEFAULT = Columns("form", "", "upos")
DOCUMENT_MARK = "-DOCSTART-"  # in CoNLL-2003 a word before each document


def _blocks(path: str) -> Iterator[list[tuple[int, str]]]:
    """Runs of numbered lines between blank ones."""
    block = []
    for number, line in [*numbered_lines(path), (0, "")]:
        if line.strip(" \t"):
            block.append((number, line))
        elif block:
            yield block
            block = []


def read_conllu(path: str, columns: Columns, split: str, skipped: Skipped) -> list[Sentence]:
    """The sentences of a file in CoNLL-U, only words, not ranges (1-2) or empty nodes (1.1).

    Raises:
      ValueError: no such column, or a malformed line of a file to test on without tags.
    """
    form, upos = (
        _conllu_column(path, name or default)
        for name, default in ((columns.text, CONLLU_DEFAULT.text), (columns.label, CONLLU_DEFAULT.label))
    )
    sentences, malformed = [], []
    for block in _blocks(path):
        lines = [(number, line.split("\t")) for number, line in block if not line.startswith("#")]
        wrong = [(f"{path}:{number}", len(one)) for number, one in lines if len(one) != len(CONLLU_COLUMNS)]
        if wrong:
            malformed.append(wrong[0])
            continue
        words = [(number, fields) for number, fields in lines if fields[0].isdecimal()]
        # "_" is an unspecified value; in the column "feats" it means that there are none.
        tags = [
            None if fields[upos] in ("", "_") and CONLLU_COLUMNS[upos] != "feats" else fields[upos]
            for _, fields in words
        ]
        if words:
            sentences.append(_sentence(path, [(number, fields[form]) for number, fields in words], tags))
    skip_malformed(malformed, len(CONLLU_COLUMNS), split, skipped, _tags(sentences))
    return sentences


def _tags(sentences: list[Sentence]) -> list[str | None]:
    return [tag for sentence in sentences for tag in sentence.tags]


def _conllu_column(path: str, name: str) -> int:
    if name in CONLLU_COLUMNS:
        return CONLLU_COLUMNS.index(name)
    if name.isdecimal() and int(name) < len(CONLLU_COLUMNS):
        return int(name)
    raise ValueError(
        f"{path}: no column {name!r}, expected one of {', '.join(CONLLU_COLUMNS)} or its number from 0; set "
        "config.task.text and config.task.label"
    )


def read_columns(path: str, columns: Columns, split: str, skipped: Skipped) -> list[Sentence]:
    """The sentences of a file with columns between tabs or blanks; `CommentFinder` tells comments from words.

    Raises:
      ValueError: no such column, or a malformed line of a file to test on without tags.
    """
    for key, name in (("text", columns.text), ("label", columns.label)):
        if not name.isdecimal():
            raise ValueError(
                f"config.task.{key}: got {name!r}, expected a column number from 0, since {path} has no "
                f"column names; {numbered_columns(path)}"
            )
    text, label = int(columns.text), int(columns.label)
    blocks = list(_blocks(path))
    lines = [line for block in blocks for _, line in block]
    words = [line for line in lines if not line.startswith("#")] or lines
    has_tabs = sum("\t" in line for line in words) > len(words) / 2
    width = most_common(len(_split_columns(line, has_tabs)) for line in words)
    if width and (text >= width or (label >= width and split != "test")):
        raise ValueError(
            f"{path}: no column {max(text, label)}, its rows have {width} columns, counted from 0; set "
            "config.task.text and config.task.label"
        )
    rows = [
        [Line(number, line, _split_columns(line, has_tabs)) for number, line in block] for block in blocks
    ]
    rows = [[line for line in block if line.fields[0].split(" ")[0] != DOCUMENT_MARK] for block in rows]
    finder = CommentFinder([block for block in rows if block], width, label, has_tabs=has_tabs)
    sentences, malformed = [], []
    for block in rows:
        first = finder.first_word(block)
        if any(finder.is_doubtful(line) for line in block[:first]):
            skipped.keep(
                split, "a comment that has as many columns as the words", f"{path}:{block[0].number}"
            )
        lines = block[first:]
        wrong = [(f"{path}:{line.number}", len(line.fields)) for line in lines if len(line.fields) != width]
        if wrong:
            malformed.append(wrong[0])
        elif lines:
            tags = [line.fields[label].strip() or None if label < width else None for line in lines]
            sentences.append(_sentence(path, [(line.number, line.fields[text]) for line in lines], tags))
    skip_malformed(malformed, width, split, skipped, _tags(sentences))
    return sentences


def numbered_columns(path: str) -> str:
    """The columns of a file's first word with their numbers, for messages."""
    lines = [line for _, line in numbered_lines(path) if line.strip(" \t")]
    words = [line for line in lines if not line.startswith(("#", DOCUMENT_MARK))] or lines
    if not words:
        return "it is empty"
    columns = _split_columns(words[0], "\t" in words[0])
    return "its first word has the columns " + ", ".join(
        f"{number} ({column!r})" for number, column in enumerate(columns)
    )


def _split_columns(line: str, has_tabs: bool) -> list[str]:
    """Fields between tabs, or between runs of blanks; other white space can be part of a word."""
    return line.split("\t") if has_tabs else re.split("[ \t]+", line.strip(" \t"))


def _sentence(path: str, words: list[tuple[int, str]], tags: list[str | None]) -> Sentence:
    places = tuple(f"{path}:{number}" for number, _ in words)
    return Sentence(places[0], [word for _, word in words], tags, places)
