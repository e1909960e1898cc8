"""Readers of single sources: text, JSON lines, Parquet and TensorFlow Datasets.

Each reader yields one iterator of text fragments per document.
"""

import codecs
import gzip
import json
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from data_pipelines.document_decoding import Decoder

BLOCK_BYTES = 1 << 20
PARQUET_ROWS = 256
SOURCES_HELP = ".txt, .jsonl (both also with .gz or .zst), .parquet, or tfds:NAME_OR_DIRECTORY[@SPLIT]"


def reader_of(source: str) -> Callable[[str, str, Decoder], Iterator[Iterator[str]]]:
    """The function that reads `source`, called with the source, the text field and a decoder.

    Raises:
      FileNotFoundError: no such file. ValueError: an unknown extension.
    """
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
            f"{source}: unknown source format, expected {SOURCES_HELP}; rename or convert the file"
        )
    if not Path(source).is_file():
        what = "is a directory" if Path(source).is_dir() else "does not exist"
        raise FileNotFoundError(f"{source}: {what}, expected a file; check the path")
    return reader


def _import(module: str, source: str) -> Any:
    """Import an optional package; the error tells how to install it."""
    try:
        return __import__(module, fromlist=["_"])
    except ImportError as error:
        raise ImportError(
            f"{source}: reading it needs the package {module.split('.')[0]}, which is not installed "
            f"({error}); run `pip install -e '.[formats]'`"
        ) from error


@contextmanager
def _open(source: str) -> Iterator[BinaryIO]:
    """The decompressed bytes of a file; raises ValueError for damaged compression."""
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
    """(line number from 1, bytes, whether the line ends here), at most BLOCK_BYTES at a time."""
    number, held = 1, b""
    while data := stream.read(BLOCK_BYTES):
        *whole, rest = (held + data).split(b"\n")
        for line in whole:
            yield number, line.removesuffix(b"\r"), True
            number += 1
        held = b"\r" if rest.endswith(b"\r") else b""  # part of the line's end if "\n" follows
        rest = rest.removesuffix(b"\r")
        if rest:
            yield number, rest, False
    yield number, b"", True


def _whole_lines(stream: BinaryIO) -> Iterator[tuple[int, bytes]]:
    """(line number from 1, bytes) of each line."""
    parts = []
    for number, data, ends in _line_blocks(stream):
        parts.append(data)
        if ends:
            yield number, b"".join(parts)
            parts = []


def _read_txt(source: str, text_field: str, decoder: Decoder) -> Iterator[Iterator[str]]:
    with _open(source) as stream:
        lines = _txt_fragments(stream, source, decoder)
        for fragment in lines:
            if fragment is not None:
                # `lines` gives None at a blank line, which ends the document's iterator.
                yield _until_none(fragment, lines)


def _until_none(first: str, fragments: Iterator[str | None]) -> Iterator[str]:
    yield first
    for fragment in fragments:
        if fragment is None:
            return
        yield fragment


def _txt_fragments(stream: BinaryIO, source: str, decoder: Decoder) -> Iterator[str | None]:
    """Text in small pieces, "\\n" after a line, None at a blank line.

    Lines are decoded block by block. With "skip", a line of several blocks that turns out invalid midway
    keeps the text that was already returned and loses the rest.
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


def _read_jsonl(source: str, text_field: str, decoder: Decoder) -> Iterator[Iterator[str]]:
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
    """The text of a record; raises ValueError with the names of its fields."""
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


def _read_parquet(source: str, text_field: str, decoder: Decoder) -> Iterator[Iterator[str]]:
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
        column_type = file.schema_arrow.field(text_field).type
        texts = (arrow.string(), arrow.large_string(), arrow.binary(), arrow.large_binary())
        if column_type not in texts:
            raise ValueError(
                f"{source}: column {text_field!r} is {column_type}, expected string; name the one that holds "
                "the text with text_field"
            )
        row = 0
        for batch in file.iter_batches(batch_size=PARQUET_ROWS, columns=[text_field]):
            binary = arrow.large_binary() if "large" in str(column_type) else arrow.binary()
            for value in batch.column(0).cast(binary).to_pylist():
                row += 1
                text = decoder.text(value or b"", f"{source}: row {row}")
                if text is not None:
                    yield iter([text])


def _read_tfds(source: str, text_field: str, decoder: Decoder) -> Iterator[Iterator[str]]:
    """A TensorFlow Dataset prepared with file_format="array_record", read without TensorFlow."""
    datasets = _import("tensorflow_datasets", source)
    name, _, split = source.removeprefix("tfds:").partition("@")
    split = split or "train"
    try:
        builder = datasets.builder_from_directory(name) if Path(name).is_dir() else datasets.builder(name)
        if split.partition("[")[0] not in builder.info.splits:
            raise ValueError(f"no split {split!r}, found {', '.join(builder.info.splits) or 'none prepared'}")
        examples = builder.as_data_source(split=split)
    except Exception as error:
        reason = str(error).partition("\n")[0]  # a list of every known dataset follows
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
