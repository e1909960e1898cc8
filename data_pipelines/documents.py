"""Read plain documents out of text, JSON lines, Parquet and TensorFlow Datasets sources, one string each.

Memory stays bounded whatever the file looks like, except that one JSON line, one Parquet batch of values or
one tfds example must fit. What a reader changed (cut, skipped, replaced) is counted in a `ReadReport`.
"""

import codecs
import gzip
import json
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

BLOCK_BYTES = 1 << 20
PARQUET_ROWS = 256
ON_INVALID_UTF8 = ("error", "skip", "replace")
SOURCES_HELP = ".txt, .jsonl (both also with .gz or .zst), .parquet, or tfds:NAME_OR_DIRECTORY[@SPLIT]"


@dataclass
class ReadReport:
    """What was read, and what was not read as it stood."""

    documents: int = 0
    characters: int = 0
    skipped_empty: int = 0  # documents with nothing but whitespace
    invalid_utf8: int = 0  # lines (of a Parquet or tfds source: values) that were not UTF-8
    first_invalid: str = ""  # where the first of them is
    cut: int = 0  # cuts made in documents longer than max_document_chars; each adds one document


def read_documents(
    sources: Sequence[str],
    *,
    text_field: str = "text",
    on_invalid_utf8: str = "error",
    max_document_chars: int = 1_000_000,
    report: ReadReport | None = None,
) -> Iterator[str]:
    """The documents of all sources, in order.

    In .txt a blank line ends a document and the lines inside are joined by newlines; elsewhere a document is
    the `text_field` of one record. Longer documents than `max_document_chars` are cut, at whitespace where
    there is any. A line that is not UTF-8 is an error, dropped ("skip"), or gets U+FFFD for the bad bytes
    ("replace"). All sources are checked to exist before the first document is given.
    """
    if isinstance(sources, str):
        raise TypeError(
            f"sources: got the string {sources!r}, expected a list of strings; write [{sources!r}]"
        )
    if on_invalid_utf8 not in ON_INVALID_UTF8:
        raise ValueError(
            f"on_invalid_utf8: got {on_invalid_utf8!r}, expected one of {', '.join(ON_INVALID_UTF8)}"
        )
    if max_document_chars < 1:
        raise ValueError(f"max_document_chars: got {max_document_chars}, expected at least 1")
    sources = [str(source) for source in sources]
    readers = [_reader_of(source) for source in sources]
    report = ReadReport() if report is None else report
    decoder = _Decoder(on_invalid_utf8, report)
    return _read_all(
        list(zip(sources, readers, strict=True)), text_field, decoder, max_document_chars, report
    )


def _read_all(
    sources: list[tuple[str, Callable]],
    text_field: str,
    decoder: "_Decoder",
    max_chars: int,
    report: ReadReport,
) -> Iterator[str]:
    for source, reader in sources:
        for fragments in reader(source, text_field, decoder):
            for document in _cut(fragments, max_chars, report):
                report.documents += 1
                report.characters += len(document)
                yield document


def _reader_of(source: str) -> Callable:
    """The function that reads `source`; raises where it does not exist or has an unknown extension."""
    if source.startswith("tfds:"):
        return _read_tfds
    name = source.lower()
    plain = name.removesuffix(".gz").removesuffix(".zst")
    readers = {".txt": _read_txt, ".jsonl": _read_jsonl}
    reader = next((readers[end] for end in readers if plain.endswith(end)), None)
    if name.endswith(".parquet"):
        reader = _read_parquet
    if reader is None:
        raise ValueError(
            f"{source}: unknown kind of source, expected {SOURCES_HELP}; rename or convert the file"
        )
    if not Path(source).is_file():
        what = "is a directory" if Path(source).is_dir() else "does not exist"
        raise FileNotFoundError(f"{source}: {what}, expected a file; check the path")
    return reader


class _Decoder:
    """Bytes to text under the chosen treatment of invalid UTF-8; a line is invalid at most once."""

    def __init__(self, on_invalid: str, report: ReadReport):
        self.on_invalid, self.report = on_invalid, report

    def note(self, where: str, error: Exception) -> None:
        """Count an invalid line, or raise."""
        if self.on_invalid == "error":
            raise ValueError(
                f"{where}: not valid UTF-8 ({error}); convert the file, or choose on_invalid_utf8 'skip' "
                "(drop the line) or 'replace' (write U+FFFD)"
            ) from error
        self.report.invalid_utf8 += 1
        self.report.first_invalid = self.report.first_invalid or where

    def text(self, data: bytes, where: str) -> str | None:
        """The text of `data`, None if it is to be dropped."""
        try:
            return data.decode("utf-8")
        except UnicodeDecodeError as error:
            self.note(where, error)
            return data.decode("utf-8", "replace") if self.on_invalid == "replace" else None

    def string(self, value: str, where: str) -> str | None:
        """`value`, unless it holds lone surrogates (JSON can spell them), which are no text in UTF-8
        either."""
        try:
            value.encode("utf-8")
            return value
        except UnicodeEncodeError as error:
            self.note(where, error)
            if self.on_invalid == "skip":
                return None
            return "".join("\ufffd" if "\ud800" <= char <= "\udfff" else char for char in value)


def _import(module: str, source: str) -> Any:
    """Import an optional package, or say how to get it."""
    try:
        return __import__(module, fromlist=["_"])
    except ImportError as error:
        raise ImportError(
            f"{source}: reading it needs the package {module.split('.')[0]}, which is not installed "
            f"({error}); run `pip install 'electra_jax[formats]'`"
        ) from error


@contextmanager
def _open(source: str) -> Iterator[BinaryIO]:
    """The decompressed bytes of a file; damaged compression is an error that names the file."""
    with open(source, "rb") as raw:
        if source.lower().endswith(".gz"):
            stream, damage = gzip.GzipFile(fileobj=raw), (gzip.BadGzipFile, EOFError, zlib.error)
        elif source.lower().endswith(".zst"):
            zstandard = _import("zstandard", source)
            stream = zstandard.ZstdDecompressor().stream_reader(raw, read_across_frames=True)
            damage = (zstandard.ZstdError,)
        else:
            stream, damage = raw, ()
        try:
            yield stream
        except damage as error:
            raise ValueError(
                f"{source}: damaged or cut-off compressed data ({error}); fetch the file again"
            ) from error


def _line_blocks(stream: BinaryIO) -> Iterator[tuple[int, bytes, bool]]:
    """(line number from 1, bytes, whether the line ends here); a line above BLOCK_BYTES comes in several
    pieces."""
    number, held = 1, b""
    while data := stream.read(BLOCK_BYTES):
        *whole, rest = (held + data).split(b"\n")
        for line in whole:
            yield number, line.removesuffix(b"\r"), True
            number += 1
        held = b"\r" if rest.endswith(b"\r") else b""  # it belongs to the line's end if "\n" comes next
        rest = rest.removesuffix(b"\r")
        if rest:
            yield number, rest, False
    yield number, b"", True


def _whole_lines(stream: BinaryIO) -> Iterator[tuple[int, bytes]]:
    parts = []
    for number, data, ends in _line_blocks(stream):
        parts.append(data)
        if ends:
            yield number, b"".join(parts)
            parts = []


def _read_txt(source: str, text_field: str, decoder: _Decoder) -> Iterator[Iterator[str]]:
    """One iterator of fragments per document."""
    with _open(source) as stream:
        lines = _txt_fragments(stream, source, decoder)
        for fragment in lines:
            if fragment is not None:
                # `lines` gives None at a blank line; the document's own iterator stops there.
                yield _until_none(fragment, lines)


def _until_none(first: str, fragments: Iterator[str | None]) -> Iterator[str]:
    yield first
    for fragment in fragments:
        if fragment is None:
            return
        yield fragment


def _txt_fragments(stream: BinaryIO, source: str, decoder: _Decoder) -> Iterator[str | None]:
    """Text in small pieces, "\\n" after a line, None at a blank line.

    A line is decoded as it streams. One longer than a block that turns out invalid midway under "skip" keeps
    what was already given and drops the rest.
    """
    make = codecs.getincrementaldecoder("utf-8")
    strict, dropped, noted, blank, number_was = make("strict"), False, False, True, 0
    for number, data, ends in _line_blocks(stream):
        if number != number_was:
            strict, dropped, noted, blank, number_was = make("strict"), False, False, True, number
            if number == 1:
                data = data.removeprefix(codecs.BOM_UTF8)
        text = ""
        if not dropped:
            state = strict.getstate()
            try:
                text = strict.decode(data, ends)
            except UnicodeDecodeError as error:
                if not noted:
                    decoder.note(f"{source}:{number}", error)
                noted, dropped = True, decoder.on_invalid == "skip"
                if not dropped:
                    strict = make("replace")
                    strict.setstate(state)
                    text = strict.decode(data, ends)
        if text.strip():
            blank = False
        if text and not blank:
            yield text
        if ends and not blank:
            yield "\n"
        elif ends and not dropped:
            yield None


def _cut(fragments: Iterator[str], max_chars: int, report: ReadReport) -> Iterator[str]:
    """Documents of at most `max_chars` characters from the pieces of one; empty ones are counted and
    dropped."""
    parts, size, given = [], 0, False
    for fragment in fragments:
        parts.append(fragment)
        size += len(fragment)
        if size <= max_chars + BLOCK_BYTES:
            continue
        text = "".join(parts)
        while len(text.rstrip()) > max_chars:
            head, text = _split_at_whitespace(text, max_chars)
            if head:
                given = True
                report.cut += 1
                yield head
        parts, size = [text], len(text)
    text = "".join(parts).strip()
    while len(text) > max_chars:
        head, text = _split_at_whitespace(text, max_chars)
        given = True
        report.cut += 1
        yield head
    if text:
        yield text
    elif not given:
        report.skipped_empty += 1


def _split_at_whitespace(text: str, limit: int) -> tuple[str, str]:
    """The first at most `limit` characters up to a whitespace, and the rest; without whitespace, exactly
    `limit`."""
    text = text.lstrip()
    at = next((i for i in range(min(limit, len(text) - 1), 0, -1) if text[i].isspace()), limit)
    return text[:at].rstrip(), text[at:].lstrip()


def _read_jsonl(source: str, text_field: str, decoder: _Decoder) -> Iterator[Iterator[str]]:
    with _open(source) as stream:
        for number, data in _whole_lines(stream):
            where = f"{source}:{number}"
            text = decoder.text(data.removeprefix(codecs.BOM_UTF8) if number == 1 else data, where)
            if text is None or not text.strip():
                continue
            try:
                record = json.loads(text)
            except ValueError as error:
                raise ValueError(
                    f"{where}: not valid JSON ({error}); expected one object a line with the text in "
                    f"{text_field!r}"
                ) from error
            value = decoder.string(_field(record, text_field, where), where)
            if value is not None:
                yield iter([value])


def _field(record: Any, text_field: str, where: str) -> str:
    """The text of a record, or an error naming the fields it has."""
    if not isinstance(record, dict):
        raise ValueError(
            f"{where}: got a {type(record).__name__}, expected an object with the field {text_field!r}"
        )
    if text_field not in record:
        raise ValueError(
            f"{where}: no field {text_field!r}, found {', '.join(map(repr, record)) or 'no fields'}; "
            "name the one that holds the text with text_field"
        )
    value = record[text_field]
    if not isinstance(value, str):
        raise ValueError(
            f"{where}: field {text_field!r} is a {type(value).__name__}, expected a string; name the one "
            "that holds the text with text_field"
        )
    return value


def _read_parquet(source: str, text_field: str, decoder: _Decoder) -> Iterator[Iterator[str]]:
    arrow, parquet = _import("pyarrow", source), _import("pyarrow.parquet", source)
    try:
        file = parquet.ParquetFile(source)
    except arrow.ArrowInvalid as error:
        raise ValueError(
            f"{source}: not a Parquet file, or damaged ({error}); fetch the file again"
        ) from error
    with file:
        names = file.schema_arrow.names
        if text_field not in names:
            _field(dict.fromkeys(names), text_field, source)
        kind = file.schema_arrow.field(text_field).type
        texts = (arrow.string(), arrow.large_string(), arrow.binary(), arrow.large_binary())
        if kind not in texts:
            raise ValueError(
                f"{source}: column {text_field!r} is {kind}, expected string; name the one that holds the "
                "text with text_field"
            )
        row = 0
        for batch in file.iter_batches(batch_size=PARQUET_ROWS, columns=[text_field]):
            binary = arrow.large_binary() if "large" in str(kind) else arrow.binary()
            for value in batch.column(0).cast(binary).to_pylist():
                row += 1
                text = decoder.text(value or b"", f"{source}: row {row}")
                if text is not None:
                    yield iter([text])


def _read_tfds(source: str, text_field: str, decoder: _Decoder) -> Iterator[Iterator[str]]:
    """A TensorFlow Dataset prepared in a random-access format (array_record), read without TensorFlow."""
    datasets = _import("tensorflow_datasets", source)
    name, _, split = source.removeprefix("tfds:").partition("@")
    split = split or "train"
    try:
        builder = datasets.builder_from_directory(name) if Path(name).is_dir() else datasets.builder(name)
        if split.partition("[")[0] not in builder.info.splits:
            raise ValueError(f"no split {split!r}, found {', '.join(builder.info.splits) or 'none prepared'}")
        examples = builder.as_data_source(split=split)
    except Exception as error:
        reason = str(error).partition("\n")[0]  # the list of every known dataset follows
        raise ValueError(
            f"{source}: cannot be read ({reason}); expected tfds:NAME_OR_DIRECTORY[@SPLIT] of a dataset "
            "already prepared with file_format='array_record'"
        ) from error
    for index in range(len(examples)):
        where, record = f"{source}: example {index}", examples[index]
        if isinstance(record, dict) and isinstance(record.get(text_field), bytes):
            text = decoder.text(record[text_field], where)
        else:
            text = decoder.string(_field(record, text_field, where), where)
        if text is not None:
            yield iter([text])
