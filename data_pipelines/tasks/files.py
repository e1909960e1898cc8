"""Read labelled rows and sentences: .tsv, .csv, .jsonl, .conllu and column files, also with .gz."""

import csv
import gzip
import io
import json
import re
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from data_pipelines.tasks.records import Columns, Row, Sentence, Skipped, as_sentence, as_text

ROW_FILES = (".tsv", ".csv", ".jsonl")
SENTENCE_FILES = (".conllu", ".conll", ".txt", ".jsonl")
CONLLU_COLUMNS = ("id", "form", "lemma", "upos", "xpos", "feats", "head", "deprel", "deps", "misc")
CONLLU_DEFAULT = Columns("form", "", "upos")
DOCUMENT_MARK = "-DOCSTART-"  # in CoNLL-2003 a word before each document


def ending_of(path: str, *, tagging: bool) -> str:
    """The extension of a file, without .gz.

    Raises:
      ValueError: the task cannot be read from files with this extension. FileNotFoundError: no such file.
    """
    ending = Path(path.lower().removesuffix(".gz")).suffix
    expected = SENTENCE_FILES if tagging else ROW_FILES
    if ending not in expected:
        raise ValueError(
            f"{path}: unknown file format for {'tagging' if tagging else 'classification or regression'}, "
            f"expected one of {', '.join(expected)} (also with .gz); convert it, or change config.task.kind"
        )
    check_is_file(path)
    return ending


def check_is_file(path: str) -> None:
    """Raises FileNotFoundError unless `path` is a file."""
    if not Path(path).is_file():
        what = "is a directory" if Path(path).is_dir() else "does not exist"
        raise FileNotFoundError(
            f"{path}: {what}, expected a file; check config.task.train, validation and test"
        )


def read_rows(path: str, columns: Columns, split: str, skipped: Skipped) -> list[Row]:
    """The rows of a file for classification or regression; only the split "test" may lack the label's column.

    Quotes have no meaning in TSV. A file has a header if its columns are given by name, and none if they are
    given by number.

    Raises:
      ValueError: a column is missing, or the file is damaged. FileNotFoundError: no such file.
    """
    ending = ending_of(path, tagging=False)
    if ending == ".jsonl":
        return [
            Row(
                where,
                as_text(record.get(columns.text), columns.text, where),
                as_text(record.get(columns.pair), columns.pair, where) if columns.pair else None,
                record.get(columns.label),
            )
            for where, record in _json_records(path, columns, split)
        ]
    return _read_table(path, _TABLE_ROWS[ending], columns, split, skipped)


def read_sentences(path: str, columns: Columns, split: str, skipped: Skipped) -> list[Sentence]:
    """The tagged sentences of a file; only the split "test" may lack the tags' column.

    From CoNLL-U only words are read, not ranges (1-2) or empty nodes (1.1). In a column file, a line before a
    sentence's first word that starts with "#" and has another number of columns than the words is a comment.
    In .jsonl, text and label are lists.

    Raises:
      ValueError: a column is missing, or the file is damaged. FileNotFoundError: no such file.
    """
    ending = ending_of(path, tagging=True)
    if ending == ".jsonl":
        return [
            as_sentence(where, record.get(columns.text), record.get(columns.label), columns)
            for where, record in _json_records(path, columns, split)
        ]
    if ending == ".conllu":
        columns = Columns(columns.text or CONLLU_DEFAULT.text, "", columns.label or CONLLU_DEFAULT.label)
        return _read_conllu(path, columns, split, skipped)
    return _read_columns(path, columns, split, skipped)


def read_text(path: str) -> str:
    """The decompressed text of a whole file, without a byte order mark; labelled data is small.

    Raises:
      ValueError: damaged compression, or not UTF-8.
    """
    data = Path(path).read_bytes()
    if path.lower().endswith(".gz"):
        try:
            data = gzip.decompress(data)
        except (gzip.BadGzipFile, EOFError, zlib.error) as error:
            raise ValueError(
                f"{path}: damaged or cut-off compressed data ({error}); fetch the file again"
            ) from error
    try:
        return data.decode("utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ValueError(f"{path}:{line}: not valid UTF-8 ({error}); convert the file") from error


def _lines(path: str) -> Iterator[tuple[int, str]]:
    """(number from 1, line). Only "\\n" ends a line, since text may contain the other line separators."""
    return enumerate((line.removesuffix("\r") for line in read_text(path).split("\n")), 1)


def _tsv_rows(path: str) -> list[tuple[int, list[str]]]:
    return [(number, line.split("\t")) for number, line in _lines(path) if line]


def _csv_rows(path: str) -> list[tuple[int, list[str]]]:
    reader = csv.reader(io.StringIO(read_text(path), newline=""), strict=True)
    rows, start = [], 1
    try:
        for fields in reader:
            if fields:
                rows.append((start, fields))
            start = reader.line_num + 1
    except csv.Error as error:
        raise ValueError(
            f"{path}:{start}: not valid CSV ({error}); correct its quotes, or name the file .tsv if it is "
            "tabs without quoting"
        ) from error
    return rows


_TABLE_ROWS = {".tsv": _tsv_rows, ".csv": _csv_rows}


def _read_table(path: str, rows_of: Callable, columns: Columns, split: str, skipped: Skipped) -> list[Row]:
    rows = rows_of(path)
    has_header = not all(name.isdecimal() for name in columns if name)
    if has_header and rows:
        header = rows.pop(0)[1]
        width = len(header)
        found = {name: header.index(name) if name in header else None for name in columns if name}
        known = f"found {', '.join(map(repr, header))}"
    else:
        width = _most_common(len(fields) for _, fields in rows)
        found = {name: int(name) if int(name) < width else None for name in columns if name} if rows else {}
        known = f"its rows have {width} columns, counted from 0"
    missing = [name for name, index in found.items() if index is None]
    if missing and not (split == "test" and missing == [columns.label]):
        raise ValueError(
            f"{path}:1: no column {' and no '.join(map(repr, missing))}, {known}; set config.task.text, "
            "pair and label to names in the first line, or to numbers from 0 if the file has no header"
        )
    examples = []
    for number, fields in rows:
        where = f"{path}:{number}"
        if len(fields) != width:
            skipped.add(split, f"a number of columns other than {width}", where)
            continue
        label = None if found[columns.label] is None else fields[found[columns.label]].strip() or None
        examples.append(
            Row(
                where,
                fields[found[columns.text]],
                fields[found[columns.pair]] if columns.pair else None,
                label,
            )
        )
    return examples


def _most_common(widths: Iterator[int]) -> int:
    counts = Counter(widths)
    return counts.most_common(1)[0][0] if counts else 0


def _json_records(path: str, columns: Columns, split: str) -> list[tuple[str, dict[str, Any]]]:
    records = []
    for number, line in _lines(path):
        if not line.strip():
            continue
        where = f"{path}:{number}"
        try:
            record = json.loads(line)
        except ValueError as error:
            raise ValueError(f"{where}: not valid JSON ({error}); expected one object a line") from error
        if not isinstance(record, dict):
            raise ValueError(
                f"{where}: got a {type(record).__name__}, expected an object with the field {columns.text!r}"
            )
        records.append((where, record))
    # A field that some records lack is a missing value; one that all records lack is a wrong name.
    known = dict.fromkeys(name for _, record in records for name in record)
    optional = (columns.label,) if split == "test" else ()
    missing = [name for name in columns if name and name not in known and name not in optional]
    if missing and records:
        raise ValueError(
            f"{path}: no field {' and no '.join(map(repr, missing))}, found "
            f"{', '.join(map(repr, known)) or 'no fields'}; set config.task.text, pair and label"
        )
    return records


def _blocks(path: str) -> Iterator[list[tuple[int, str]]]:
    """Runs of numbered lines between blank ones."""
    block = []
    for number, line in [*_lines(path), (0, "")]:
        if line.strip(" \t"):
            block.append((number, line))
        elif block:
            yield block
            block = []


def _read_conllu(path: str, columns: Columns, split: str, skipped: Skipped) -> list[Sentence]:
    form, upos = (_conllu_column(path, name) for name in (columns.text, columns.label))
    sentences = []
    for block in _blocks(path):
        lines = [(number, line.split("\t")) for number, line in block if not line.startswith("#")]
        wrong = next((number for number, fields in lines if len(fields) != len(CONLLU_COLUMNS)), None)
        if wrong is not None:
            skipped.add(split, f"a number of columns other than {len(CONLLU_COLUMNS)}", f"{path}:{wrong}")
            continue
        words = [(number, fields) for number, fields in lines if fields[0].isdecimal()]
        # "_" is an unspecified value; in the column "feats" it means that there are none.
        tags = [
            None if fields[upos] in ("", "_") and CONLLU_COLUMNS[upos] != "feats" else fields[upos]
            for _, fields in words
        ]
        if words:
            sentences.append(_sentence(path, [(number, fields[form]) for number, fields in words], tags))
    return sentences


def _conllu_column(path: str, name: str) -> int:
    if name in CONLLU_COLUMNS:
        return CONLLU_COLUMNS.index(name)
    if name.isdecimal() and int(name) < len(CONLLU_COLUMNS):
        return int(name)
    raise ValueError(
        f"{path}: no column {name!r}, expected one of {', '.join(CONLLU_COLUMNS)} or its number from 0; set "
        "config.task.text and config.task.label"
    )


def _read_columns(path: str, columns: Columns, split: str, skipped: Skipped) -> list[Sentence]:
    for key, name in (("text", columns.text), ("label", columns.label)):
        if not name.isdecimal():
            raise ValueError(
                f"config.task.{key}: got {name!r}, expected a column number from 0, since {path} has no "
                "column names"
            )
    text, label = int(columns.text), int(columns.label)
    blocks = list(_blocks(path))
    lines = [line for block in blocks for _, line in block]
    has_tabs = sum("\t" in line for line in lines) > len(lines) / 2
    blocks = [[(number, _split_columns(line, has_tabs)) for number, line in block] for block in blocks]
    width = _most_common(
        len(fields) for block in blocks for _, fields in block if not fields[0].startswith("#")
    )
    if width and (text >= width or (label >= width and split != "test")):
        raise ValueError(
            f"{path}: no column {max(text, label)}, its rows have {width} columns, counted from 0; set "
            "config.task.text and config.task.label"
        )
    sentences = []
    for block in blocks:
        first = next(
            (
                at
                for at, (_, fields) in enumerate(block)
                if len(fields) == width or not fields[0].startswith("#")
            ),
            len(block),
        )
        lines = [(number, fields) for number, fields in block[first:] if fields[0] != DOCUMENT_MARK]
        wrong = next((number for number, fields in lines if len(fields) != width), None)
        if wrong is not None:
            skipped.add(split, f"a number of columns other than {width}", f"{path}:{wrong}")
        elif lines:
            tags = [fields[label] or None if label < width else None for _, fields in lines]
            sentences.append(_sentence(path, [(number, fields[text]) for number, fields in lines], tags))
    return sentences


def _split_columns(line: str, has_tabs: bool) -> list[str]:
    """Fields between tabs, or between runs of blanks; other white space can be part of a word."""
    return line.split("\t") if has_tabs else re.split("[ \t]+", line.strip(" \t"))


def _sentence(path: str, words: list[tuple[int, str]], tags: list[str | None]) -> Sentence:
    places = tuple(f"{path}:{number}" for number, _ in words)
    return Sentence(places[0], [word for _, word in words], tags, places)
