"""Read inputs without labels, to predict them: texts, pairs, sentences divided into words, questions.

    text          a text on each line
    tsv, csv      a table: columns by name if it has a header, by number from 0 if it has none
    jsonl         an object on each line
    conll, conllu a word on each line, a blank line after each sentence
    json          SQuAD's format

The first four are read line by line, so they may be of any length; the others are read whole.
"""

import contextlib
import gzip
import io
import shutil
import sys
import tempfile
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from data_pipelines.tasks.files import check_are_different, read_sentences
from data_pipelines.tasks.records import Columns, Skipped, as_text, json_objects
from data_pipelines.tasks.squad_files import squad_records
from data_pipelines.tasks.text_files import (
    MAX_TEXT,
    csv_rows,
    fields_of,
    plain_ending,
    rows_of_table,
)

STANDARD_INPUT = "-"
# Format → the endings of its files.
ENDINGS = {
    "text": (".txt",),
    "tsv": (".tsv",),
    "csv": (".csv",),
    "jsonl": (".jsonl",),
    "conll": (".conll",),
    "conllu": (".conllu",),
    "json": (".json",),
}
READ_WHOLE = ("conll", "conllu", "json")
TABLES = ("tsv", "csv")
# Keys of a task's configuration → the flags that take their place here, for the errors of shared readers.
FLAGS = {"config.task.text": "--text_column", "config.task.pair": "--pair_column"}
LABEL_ADVICE = " and config.task.label"


class Unlabelled(NamedTuple):
    """One input."""

    where: str  # file:line
    text: str  # of a question: the question
    pair: str | None = None  # the second text; of a question: the text that answers it
    words: tuple[str, ...] | None = None  # if the source divides the text into words
    id: str | None = None  # of a question
    fields: Mapping[str, Any] = {}  # all of a JSON line


class Source(NamedTuple):
    """Where inputs come from."""

    path: str  # a file, or STANDARD_INPUT
    format: str  # a key of ENDINGS

    @property
    def name(self) -> str:
        """For messages."""
        return "standard input" if self.path == STANDARD_INPUT else self.path


class Wanted(NamedTuple):
    """Which columns a model reads; "" for none."""

    text: str
    pair: str
    id: str = ""  # of questions; it may be missing
    tags: str = ""  # in files with a word on each line; it may be missing, and is not read
    has_words: bool = False  # whether a source may divide texts into words


def find_format(path: str, given: str, *, tagging: bool) -> str:
    """The format of a file or of standard input: `given`, or by its ending.

    Raises:
      ValueError: an unknown ending, or in tagging one that does not decide between text and columns.
      FileNotFoundError: no such file.
    """
    if path != STANDARD_INPUT and not Path(path).is_file():
        what = "is a directory" if Path(path).is_dir() else "does not exist"
        raise FileNotFoundError(f"--input: {path} {what}, expected a file, or - for standard input.")
    if given:
        return given
    if path == STANDARD_INPUT:
        return "text"
    ending = plain_ending(path)
    if tagging and ending == ".txt":
        raise ValueError(
            f"--input={path}: a .txt file may hold a text on each line, or a word on each line as tagging is "
            "trained on. Choose with --input_format=text or --input_format=conll."
        )
    for name, endings in ENDINGS.items():
        if ending in endings:
            return name
    known = ", ".join(ending for endings in ENDINGS.values() for ending in endings)
    raise ValueError(
        f"--input={path}: got a file that ends in {ending or 'nothing'!r}, expected one of {known} (also "
        f"with .gz). Rename it, or give --input_format={'|'.join(ENDINGS)}."
    )


def read_unlabelled(source: Source, wanted: Wanted) -> Iterator[Unlabelled]:
    """The inputs in order.

    Raises:
      ValueError: while they are read: a missing column, a row of another form, damaged data, not UTF-8, or no
        input at all. All name the line.
    """
    read = {
        "text": _lines_as_texts,
        "tsv": _tsv,
        "csv": _csv,
        "jsonl": _json_lines,
        "conll": _sentences,
        "conllu": _sentences,
        "json": _squad,
    }[source.format]
    is_empty = True
    try:
        for one in read(source, wanted):
            is_empty = False
            yield one
    except ValueError as error:
        message = str(error).replace(LABEL_ADVICE, "")
        for key, flag in FLAGS.items():
            message = message.replace(key, flag)
        raise ValueError(message) from error
    if is_empty:
        raise ValueError(f"{source.name}: got no input in it, expected some as {source.format}.")


def count_inputs(source: Source, wanted: Wanted) -> int | None:
    """How many inputs a file has if each is one line; None if that is not known before it is read."""
    if source.path == STANDARD_INPUT or source.format in READ_WHOLE:
        return None
    count, last = 0, b"\n"
    is_csv = source.format == "csv"
    with _opened(source) as stream:
        while block := stream.read(1 << 20):
            count, last = count + block.count(b"\n"), block[-1:]
            if is_csv:
                count += block.count(b"\r") - block.count(b"\r\n")
    has_end = last == b"\n" or (is_csv and last == b"\r")
    return count + (not has_end) - (source.format in TABLES and _has_header(wanted))


@contextlib.contextmanager
def _opened(source: Source) -> Iterator[BinaryIO]:
    """The decompressed bytes.

    Raises:
      ValueError: damaged compression.
    """
    if source.path == STANDARD_INPUT:
        yield sys.stdin.buffer
        return
    open_it = gzip.open if source.path.lower().endswith(".gz") else open
    try:
        with open_it(source.path, "rb") as stream:
            yield stream
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise ValueError(
            f"{source.name}: damaged or cut-off compressed data ({error}); fetch the file again"
        ) from error


def _raw_lines(source: Source) -> Iterator[str]:
    """Lines with their "\\n", the only end of a line, without a byte order mark."""
    with _opened(source) as stream:
        for number, data in enumerate(iter(lambda: stream.readline(MAX_TEXT + 1), b""), 1):
            if len(data) > MAX_TEXT:
                raise ValueError(
                    f"{source.name}:{number}: got a line of more than {MAX_TEXT:,} bytes, the most "
                    "that is read as one text. Divide it."
                )
            try:
                line = data.decode("utf-8")
            except UnicodeDecodeError as error:
                raise ValueError(
                    f"{source.name}:{number}: not valid UTF-8 ({error}); convert the file, for example with "
                    "`iconv -f latin1 -t utf-8`"
                ) from error
            yield line.removeprefix("\ufeff") if number == 1 else line


def _numbered(source: Source) -> Iterator[tuple[str, str]]:
    """(location, line without its end)."""
    for number, line in enumerate(_raw_lines(source), 1):
        yield f"{source.name}:{number}", line.removesuffix("\n").removesuffix("\r")


def _lines_as_texts(source: Source, wanted: Wanted) -> Iterator[Unlabelled]:
    if wanted.pair:
        raise ValueError(
            f"{source.name}: got a text on each line, but the model reads two texts. Give a .tsv, .csv or "
            f".jsonl file with the columns {wanted.text!r} and {wanted.pair!r}, or standard input with "
            "--input_format."
        )
    return (Unlabelled(where, line) for where, line in _numbered(source))


def _tsv(source: Source, wanted: Wanted) -> Iterator[Unlabelled]:
    rows = ((where, fields_of(line)) for where, line in _numbered(source))
    return _table(rows, source, wanted)


def _csv(source: Source, wanted: Wanted) -> Iterator[Unlabelled]:
    remedy = "give --input_format=tsv if it is tabs without quoting"
    # In CSV "\r" ends a line, too, as in fine-tuning.
    lines = (line for part in _raw_lines(source) for line in io.StringIO(part, newline=""))
    rows = csv_rows(lines, source.name, remedy)
    return _table(((f"{source.name}:{number}", fields) for number, fields in rows), source, wanted)


def _has_header(wanted: Wanted) -> bool:
    return not all(name.isdecimal() for name in (wanted.text, wanted.pair) if name)


def _table(rows: Iterator[tuple[str, list[str]]], source: Source, wanted: Wanted) -> Iterator[Unlabelled]:
    names = [name for name in (wanted.text, wanted.pair) if name]
    has_header = _has_header(wanted)
    rows, width = rows_of_table(rows, has_header=has_header), None
    place = {name: int(name) for name in (*names, wanted.id) if name.isdecimal()}
    for where, fields in rows:
        is_first, width = width is None, len(fields) if width is None else width
        if is_first and has_header:
            check_are_different(where, fields, (*names, wanted.id))
            place = {name: at for at, name in enumerate(fields)}
        if is_first:
            absent = [name for name in names if place.get(name, width) >= width]
            if absent:
                found = ", ".join(map(repr, fields)) if has_header else f"{width} columns, counted from 0"
                raise ValueError(_no_column(where, absent, found))
        if is_first and has_header:
            continue
        if len(fields) != width:
            raise ValueError(
                f"{where}: got {len(fields)} columns, expected {width} as in the first row; correct the row"
            )
        yield Unlabelled(
            where,
            fields[place[wanted.text]],
            fields[place[wanted.pair]] if wanted.pair else None,
            id=fields[place[wanted.id]] if wanted.id and place.get(wanted.id, width) < width else None,
        )


def _no_column(where: str, absent: list[str], found: str) -> str:
    return (
        f"{where}: no column {' and no '.join(map(repr, absent))}, found {found or 'none'}; set "
        "--text_column, and --pair_column for two texts, to names in the first line, or to numbers from 0 if "
        "the file has no header"
    )


def _json_lines(source: Source, wanted: Wanted) -> Iterator[Unlabelled]:
    names = [name for name in (wanted.text, wanted.pair) if name]
    for where, record in json_objects(_numbered(source), wanted.text):
        absent = [name for name in names if name not in record]
        if absent:
            raise ValueError(_no_column(where, absent, ", ".join(map(repr, record))))
        text, words = record[wanted.text], None
        if wanted.has_words and isinstance(text, list):
            words = tuple(as_text(word, wanted.text, where) for word in text)
            text = " ".join(words)
        pair = as_text(record[wanted.pair], wanted.pair, where) if wanted.pair else None
        number = record.get(wanted.id) if wanted.id else None
        yield Unlabelled(
            where,
            as_text(text, wanted.text, where),
            pair,
            words,
            None if number is None else str(number),
            record,
        )


def _sentences(source: Source, wanted: Wanted) -> Iterator[Unlabelled]:
    if not wanted.has_words:
        raise ValueError(
            f"{source.name}: got {source.format}, a word on each line, which only models for tagging read. "
            "Give a .txt, .tsv, .csv or .jsonl file."
        )
    skipped = Skipped()
    with _as_file(source) as path:
        sentences = read_sentences(path, Columns(wanted.text, "", wanted.tags), "test", skipped)
    problems = skipped.reasons("test")
    if problems:
        raise ValueError(
            f"{source.name}: got sentences that cannot be read ({problems[0]}); correct the file"
        )
    for sentence in sentences:
        words = tuple(sentence.words)
        yield Unlabelled(sentence.where, " ".join(words), words=words)


def _squad(source: Source, wanted: Wanted) -> Iterator[Unlabelled]:
    if not wanted.pair:
        raise ValueError(
            f"{source.name}: got a .json file, which is read as questions in SQuAD's format, but the model "
            "does not answer questions. Give a .txt, .tsv, .csv or .jsonl file."
        )
    with _as_file(source) as path:
        records = squad_records(path)
    return (Unlabelled(one.where, one.question, one.context, id=one.id) for one in records)


@contextlib.contextmanager
def _as_file(source: Source) -> Iterator[str]:
    """A path with the ending of the format, for readers of whole files."""
    ending = ENDINGS[source.format][0]
    if source.path != STANDARD_INPUT and source.path.lower().removesuffix(".gz").endswith(ending):
        yield source.path
        return
    with tempfile.TemporaryDirectory() as directory, _opened(source) as stream:
        path = Path(directory, "input" + ending)
        with path.open("wb") as file:
            shutil.copyfileobj(stream, file)
        try:
            yield str(path)
        except ValueError as error:
            raise ValueError(str(error).replace(str(path), source.name)) from error
