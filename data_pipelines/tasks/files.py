"""Read labelled rows and sentences: .tsv, .csv, .jsonl, .conllu and column files, also with .gz."""

import io
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from data_pipelines.json_files import parse_json
from data_pipelines.tasks.conll_files import numbered_columns, read_columns, read_conllu
from data_pipelines.tasks.records import (
    Columns,
    Row,
    Sentence,
    Skipped,
    as_sentence,
    as_text,
    json_objects,
    skip_malformed,
)
from data_pipelines.tasks.text_files import (
    check_is_file,
    csv_rows,
    fields_of,
    most_common,
    numbered_lines,
    plain_ending,
    read_text,
    rows_of_table,
)

ROW_FILES = (".tsv", ".csv", ".jsonl")
SENTENCE_FILES = (".conllu", ".conll", ".txt", ".jsonl")


def ending_of(path: str, *, tagging: bool) -> str:
    """The extension of a file, without .gz.

    Raises:
      ValueError: the task cannot be read from files with this extension. FileNotFoundError: no such file.
    """
    ending = plain_ending(path)
    expected = SENTENCE_FILES if tagging else ROW_FILES
    if ending not in expected:
        raise ValueError(
            f"{path}: unknown file format for {'tagging' if tagging else 'classification or regression'}, "
            f"expected one of {', '.join(expected)} (also with .gz); convert it, or change config.task.kind"
        )
    check_is_file(path)
    return ending


def read_rows(path: str, columns: Columns, split: str, skipped: Skipped) -> list[Row]:
    """The rows of a file for classification or regression; only the split "test" may lack the label's column.

    Quotes have no meaning in TSV. A file has a header if its columns are given by name, and none if they are
    given by number.

    Raises:
      ValueError: a column is missing, the file is damaged, or it is to test on, without labels, and a row has
        another number of columns. FileNotFoundError: no such file.
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
    return _read_table(path, columns, split, skipped)


def table_rows(path: str, *, has_header: bool = True) -> list[tuple[int, list[str]]]:
    """(line, fields) of each row of a .tsv or .csv, the header included. For blank lines see `rows_of_table`.

    Raises:
      ValueError: the file is damaged.
    """
    return list(rows_of_table(_TABLE_ROWS[plain_ending(path)](path), has_header=has_header))


def has_header(path: str, names: Iterable[str]) -> bool:
    """Whether a table has a header, which is so if its columns are given by name, not by number; "" is none.

    Raises:
      ValueError: some are given by name and some by number. `predict` reads fewer columns of the same file,
        so that they would not decide alike.
    """
    given = [name for name in names if name]
    numbers = [name for name in given if name.isdecimal()]
    if numbers and len(numbers) < len(given):
        by_number, by_name = (
            ", ".join(repr(name) for name in given if name.isdecimal() == is_number)
            for is_number in (True, False)
        )
        raise ValueError(
            f"{path}: got the columns {by_number} by number and {by_name} by name, expected all by number or "
            f"all by name. Rename the column {numbers[0]!r} in the file and in config.task, or give the "
            "numbers of all columns if the file has no header"
        )
    return not numbers


def check_are_different(where: str, header: Sequence[str], names: Iterable[str | None]) -> None:
    """Raises ValueError if a header has several columns of a name."""
    for name in names:
        if name and header.count(name) > 1:
            raise ValueError(f"{where}: got several columns {name!r}, expected one; rename the others")


def read_sentences(path: str, columns: Columns, split: str, skipped: Skipped) -> list[Sentence]:
    """The tagged sentences of a file; only the split "test" may lack the tags' column.

    In .jsonl, text and label are lists. For the others see conll_files.py.

    Raises:
      ValueError: a column is missing, the file is damaged, or it is to test on, without tags, and a line has
        another number of columns. FileNotFoundError: no such file.
    """
    ending = ending_of(path, tagging=True)
    if ending == ".jsonl":
        return [
            as_sentence(where, record.get(columns.text), record.get(columns.label), columns)
            for where, record in _json_records(path, columns, split)
        ]
    if ending == ".conllu":
        return read_conllu(path, columns, split, skipped)
    return read_columns(path, columns, split, skipped)


def found_columns(path: str, *, tagging: bool) -> str:
    """The columns or fields of a file's first line, for messages.

    Raises:
      ValueError: the task cannot be read from such a file, or it is damaged. FileNotFoundError: no such file.
    """
    ending = ending_of(path, tagging=tagging)
    if ending == ".jsonl":
        line = next((line for _, line in numbered_lines(path) if line.strip()), "{}")
        fields = parse_json(line, dict, path, "Expected one object a line.")
        return f"its first line has the fields {', '.join(map(repr, fields))}" if fields else "it is empty"
    if ending in _TABLE_ROWS:
        header = next((fields for _, fields in table_rows(path)), [])
        columns = ", ".join(map(repr, header))
        numbers = f"if that line is no header, write their numbers, 0 to {len(header) - 1}"
        return f"its first line has the columns {columns}; {numbers}" if header else "it is empty"
    return numbered_columns(path)


def _tsv_rows(path: str) -> Iterator[tuple[int, list[str]]]:
    return ((number, fields_of(line)) for number, line in numbered_lines(path))


def _csv_rows(path: str) -> Iterator[tuple[int, list[str]]]:
    lines = io.StringIO(read_text(path), newline="")
    return csv_rows(lines, path, "name the file .tsv if it is tabs without quoting")


_TABLE_ROWS = {".tsv": _tsv_rows, ".csv": _csv_rows}


def _read_table(path: str, columns: Columns, split: str, skipped: Skipped) -> list[Row]:
    with_header = has_header(path, columns)
    rows = table_rows(path, has_header=with_header)
    if with_header and rows:
        header = rows.pop(0)[1]
        width = len(header)
        check_are_different(f"{path}:1", header, columns)
        found = {name: header.index(name) if name in header else None for name in columns if name}
        known = f"found {', '.join(map(repr, header))}"
    else:
        width = most_common(len(fields) for _, fields in rows)
        found = {name: int(name) if int(name) < width else None for name in columns if name} if rows else {}
        known = f"its rows have {width} columns, counted from 0"
    missing = [name for name, index in found.items() if index is None]
    if missing and not (split == "test" and missing == [columns.label]):
        raise ValueError(
            f"{path}:1: no column {' and no '.join(map(repr, missing))}, {known}; set config.task.text, "
            "pair and label to names in the first line, or to numbers from 0 if the file has no header"
        )
    examples, malformed = [], []
    for number, fields in rows:
        where = f"{path}:{number}"
        if len(fields) != width:
            malformed.append((where, len(fields)))
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
    skip_malformed(malformed, width, split, skipped, [row.label for row in examples])
    return examples


def _json_records(path: str, columns: Columns, split: str) -> list[tuple[str, dict[str, Any]]]:
    lines = ((f"{path}:{number}", line) for number, line in numbered_lines(path))
    records = list(json_objects(lines, columns.text))
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
