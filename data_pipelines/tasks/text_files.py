"""Read the text of files with labelled data, plain or with .gz."""

import csv
import gzip
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

MAX_BYTES = 1 << 30  # of a file's text
MAX_TEXT = 1 << 26  # bytes of a line, or characters of a field in CSV, that are read as one text


def plain_ending(path: str) -> str:
    """The extension of a file in lower case, that of x.tsv.gz is .tsv; "" if it has none."""
    return Path(path.lower().removesuffix(".gz")).suffix


def short_names(paths: Sequence[str]) -> dict[str, str]:
    """Path → the end of it that no other path has, the file's name if possible: a.txt, or x/a.txt if there is
    y/a.txt, too."""
    own = {path: Path(path).parts for path in paths}
    depth = max(map(len, own.values()), default=0)
    counts = [Counter(parts[-size:] for parts in own.values()) for size in range(1, depth + 1)]
    names = {}
    for path, parts in own.items():
        ends = [parts[-size:] for size in range(1, len(parts) + 1)]
        # A whole path can be the end of another one: a.txt is that of x/a.txt.
        unique = (end for end, count in zip(ends, counts, strict=False) if count[end] == 1)
        names[path] = str(Path(*next(unique, parts)))
    return names


def check_is_file(path: str) -> None:
    """Raises FileNotFoundError unless `path` is a file."""
    if not Path(path).is_file():
        what = "is a directory" if Path(path).is_dir() else "does not exist"
        raise FileNotFoundError(
            f"{path}: {what}, expected a file; check config.task.train, validation and test"
        )


def read_text(path: str) -> str:
    """The decompressed text of a whole file, without a byte order mark; labelled data is small.

    Raises:
      ValueError: damaged compression, more than MAX_BYTES, or not UTF-8.
    """
    opened = gzip.open if path.lower().endswith(".gz") else open
    try:
        with opened(path, "rb") as file:
            data = file.read(MAX_BYTES + 1)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise ValueError(
            f"{path}: damaged or cut-off compressed data ({error}); fetch the file again"
        ) from error
    if len(data) > MAX_BYTES:
        raise ValueError(
            f"{path}: got more than {MAX_BYTES:,} bytes of text, the most that is read of labelled data, "
            "which is held in memory. Divide the file."
        )
    try:
        return data.decode("utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ValueError(f"{path}:{line}: not valid UTF-8 ({error}); convert the file") from error


def numbered_lines(path: str) -> Iterator[tuple[int, str]]:
    """(number from 1, line). Only "\\n" ends a line, since text may contain the other line separators."""
    return enumerate((line.removesuffix("\r") for line in read_text(path).split("\n")), 1)


def fields_of(line: str) -> list[str]:
    """The fields of a line of TSV; a blank line has none."""
    return line.split("\t") if line else []


def csv_rows(lines: Iterable[str], where: str, remedy: str) -> Iterator[tuple[int, list[str]]]:
    """(number of its first line from 1, fields) of each row; a blank line has none.

    Args:
      lines: with their ends.
      where: the file, for messages.
      remedy: what to do about quotes that are none, for messages.

    Raises:
      ValueError: a quote too many or too few, or a field of more than MAX_TEXT characters.
    """
    csv.field_size_limit(MAX_TEXT)  # of the whole process, in place of 131,072 characters
    reader, start = csv.reader(lines, strict=True), 1
    try:
        for fields in reader:
            yield start, fields
            start = reader.line_num + 1
    except csv.Error as error:
        raise ValueError(
            f"{where}:{start}: not valid CSV ({error}); correct its quotes, or {remedy}"
        ) from error


def rows_of_table(
    rows: Iterable[tuple[Any, list[str]]], *, has_header: bool
) -> Iterator[tuple[Any, list[str]]]:
    """(place, fields) of each row, among them the header.

    In a table with one column a blank line is a row with an empty text, so that rows keep their numbers. At
    the end of a file and before a header it is none, as in tables with several columns.

    Args:
      rows: those of all lines; a blank line has no fields.
    """
    width: int | None = None
    blank: list[Any] = []
    for place, fields in rows:
        if not fields:
            blank.append(place)
            continue
        is_header, width = has_header and width is None, len(fields) if width is None else width
        if width == 1 and not is_header:
            yield from ((one, [""]) for one in blank)
        blank = []
        yield place, fields


def most_common(widths: Iterator[int]) -> int:
    """The number of columns that most lines have; 0 without lines."""
    counts = Counter(widths)
    return counts.most_common(1)[0][0] if counts else 0
