"""Readers of single sources: text, JSON lines, Parquet and TensorFlow Datasets.

Each reader yields one `Record` per document.
"""

import codecs
import functools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from data_pipelines.document_bytes import import_reader, text_blocks
from data_pipelines.document_decoding import Decoder
from data_pipelines.json_files import parse_json, type_name
from data_pipelines.parquet_batches import parquet_batches

RECORDS_WITHOUT_FIELD = 1000  # at the start of a JSONL file; with more of them the field's name is wrong
SOURCES_HELP = ".txt, .jsonl (both also with .gz or .zst), .parquet, or tfds:NAME_OR_DIRECTORY[@SPLIT]"
# What ends a document of a .txt file; the default comes first.
DOCUMENT_SEPARATORS = ("blank_line", "line", "file")


class Record(NamedTuple):
    """One document of a source."""

    fragments: Iterator[str]  # of its text
    number: int  # from 1: of the line, row or example; of a .txt file, of the document among its documents
    fields: Mapping[str, Any] = {}  # all of a JSON line, of others those that were asked for


class MissingFieldError(ValueError):
    """No record of a source has the text field, or not its first ones."""


Reader = Callable[[str, str, Decoder], Iterator[Record]]


def reader_of(
    source: str, document_separator: str, fields: Sequence[str] = (), *, to_the_end: bool = False
) -> Reader:
    """The function that reads `source`, called with the source, the text field and a decoder.

    Args:
      document_separator: of a .txt file, one of DOCUMENT_SEPARATORS.
      fields: that are read beside the text.
      to_the_end: of a JSONL file, before the text field is missing, not only its first records.

    Raises:
      FileNotFoundError: no such file. ValueError: an unknown extension, or a .txt file that should have
        fields.
    """
    if source.startswith("tfds:"):
        return functools.partial(_read_tfds, fields=fields)
    if Path(source).is_dir():
        raise FileNotFoundError(f"{source}: is a directory, expected a file; give the files in it")
    name = source.lower()
    plain = name.removesuffix(".gz").removesuffix(".zst")
    readers = {
        ".txt": functools.partial(_read_txt, document_separator=document_separator),
        ".jsonl": functools.partial(_read_jsonl, to_the_end=to_the_end),
    }
    reader = next((readers[end] for end in readers if plain.endswith(end)), None)
    if name.endswith(".parquet"):
        reader = functools.partial(_read_parquet, fields=fields)
    if reader is None:
        raise ValueError(
            f"{source}: unknown source format, expected {SOURCES_HELP}; rename or convert the file"
        )
    if not Path(source).is_file():
        pattern = " (a pattern that no file matches, or that quotes keep from the shell)" * ("*" in source)
        raise FileNotFoundError(f"{source}: does not exist, expected a file{pattern}; check the path")
    if fields and is_plain_text(source):
        raise ValueError(
            f"{source}: a text file has no field {fields[0]!r}; expected JSON lines or Parquet, such as "
            "`python -m data_pipelines.score` writes from it"
        )
    return reader


def is_plain_text(source: str) -> bool:
    """Whether a source that `reader_of` reads is a .txt file, which has no fields."""
    return source.lower().removesuffix(".gz").removesuffix(".zst").endswith(".txt")


def is_json_lines(source: str) -> bool:
    """Whether a source that `reader_of` reads is one of JSON lines."""
    return source.lower().removesuffix(".gz").removesuffix(".zst").endswith(".jsonl")


def _line_blocks(blocks: Iterable[bytes]) -> Iterator[tuple[int, bytes, bool]]:
    """(line number from 1, bytes, whether the line ends here), at most a block at a time."""
    number, held = 1, b""
    for data in blocks:
        *whole, rest = (held + data).split(b"\n")
        for line in whole:
            yield number, line.removesuffix(b"\r"), True
            number += 1
        held = b"\r" if rest.endswith(b"\r") else b""  # part of the line's end if "\n" follows
        rest = rest.removesuffix(b"\r")
        if rest:
            yield number, rest, False
    yield number, b"", True


def _whole_lines(blocks: Iterable[bytes], source: str, decoder: Decoder) -> Iterator[tuple[int, bytes]]:
    """(line number from 1, bytes) of each line that is not too long. Of those that are, no more is kept than
    what is read before that shows."""
    parts, size = [], 0
    for number, data, ends in _line_blocks(blocks):
        size += len(data)
        if size <= decoder.max_record_bytes:
            parts.append(data)
        else:
            parts = []
        if ends:
            if not decoder.is_too_long(size, f"{source}:{number}"):
                yield number, b"".join(parts)
            parts, size = [], 0


def _read_txt(source: str, text_field: str, decoder: Decoder, *, document_separator: str) -> Iterator[Record]:
    lines = _txt_fragments(source, decoder, document_separator)
    # `lines` gives None at the end of a document, which ends the document's iterator.
    firsts = (fragment for fragment in lines if fragment is not None)
    for number, fragment in enumerate(firsts, 1):
        yield Record(_until_none(fragment, lines), number)


def _until_none(first: str, fragments: Iterator[str | None]) -> Iterator[str]:
    yield first
    for fragment in fragments:
        if fragment is None:
            return
        yield fragment


def _txt_fragments(source: str, decoder: Decoder, document_separator: str) -> Iterator[str | None]:
    """Text in small pieces, "\\n" after a line, None at the end of a document.

    Lines are decoded block by block. With "skip", a line of several blocks that turns out invalid midway
    keeps the text that was already returned and loses the rest.
    """
    make = codecs.getincrementaldecoder("utf-8")
    strict, dropped, noted, blank, number_was = make("strict"), False, False, True, 0
    for number, data, ends in _line_blocks(text_blocks(source, decoder.report.note_bytes)):
        if number != number_was:
            strict, dropped, noted, blank, number_was = make("strict"), False, False, True, number
            # At the start of a file, and in its midst if several were joined.
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
            yield None if document_separator == "line" else "\n"
        elif ends and not dropped:
            yield "\n" if document_separator == "file" else None


def _read_jsonl(source: str, text_field: str, decoder: Decoder, *, to_the_end: bool) -> Iterator[Record]:
    """Records without the field are counted. If no record has it, or the first many lack it and not
    `to_the_end`, MissingFieldError."""
    num_without, first, is_known = 0, None, False
    for number, data in _whole_lines(text_blocks(source, decoder.report.note_bytes), source, decoder):
        where = f"{source}:{number}"
        # A mark is at the start of a file, and in its midst if several were joined.
        text = decoder.text(data.removeprefix(codecs.BOM_UTF8), where)
        if text is None or not text.strip():
            continue
        record = _json_object(text, text_field, where)
        if text_field not in record:
            decoder.report.note_without_field(where)
            num_without += 1
            first = first or (record, where)
            if not is_known and not to_the_end and num_without == RECORDS_WITHOUT_FIELD:
                break
            continue
        is_known = True
        value = decoder.string(_field(record, text_field, where), where)
        if value is not None:
            yield Record(iter([value]), number, record)
    if first and not is_known:
        record, where = first
        _field(record, text_field, where)


def _json_object(text: str, text_field: str, where: str) -> dict[str, Any]:
    """The object that a line holds; raises ValueError for anything else."""
    record = parse_json(text, object, where, f"Expected one object a line with the text in {text_field!r}.")
    if not isinstance(record, dict):
        raise ValueError(
            f"{where}: got {type_name(record)}, expected an object with the field {text_field!r}"
        )
    return record


def _field(record: dict[str, Any], text_field: str, where: str) -> str:
    """The text of a record, "" for a missing value; raises MissingFieldError with the names of its fields, or
    ValueError."""
    if text_field not in record:
        raise MissingFieldError(
            f"{where}: no field {text_field!r}, found {', '.join(map(repr, record)) or 'no fields'}; "
            "name the one that holds the text with --text_field"
        )
    value = record[text_field]
    if value is None or (isinstance(value, float) and math.isnan(value)):  # null, and NaN for null
        return ""
    if not isinstance(value, str):
        raise ValueError(
            f"{where}: field {text_field!r} is {type_name(value)}, expected a string; correct the record, or "
            "name the field that holds the text with --text_field"
        )
    return value


def _read_parquet(
    source: str, text_field: str, decoder: Decoder, *, fields: Sequence[str] = ()
) -> Iterator[Record]:
    arrow, parquet = import_reader("pyarrow", source), import_reader("pyarrow.parquet", source)
    row, size, noted = 0, Path(source).stat().st_size, 0
    try:
        with parquet.ParquetFile(source) as file:
            _check_column(file.schema_arrow, text_field, source, arrow)
            _check_rows(file.metadata, source)
            num_rows = file.metadata.num_rows
            known = [name for name in fields if name in file.schema_arrow.names]
            for name in known:
                _check_is_one(file.schema_arrow, name, source)
            for batch in parquet_batches(file, source, text_field, known):
                values = batch.column(text_field).cast(arrow.large_binary()).to_pylist()
                others = [batch.column(name).to_pylist() for name in known]
                for value, *beside in zip(values, *others, strict=True):
                    row += 1
                    decoder.report.note_bytes(size * row // num_rows - noted)
                    noted = size * row // num_rows
                    where = f"{source}: row {row}"
                    if decoder.is_too_long(len(value or b""), where):
                        continue
                    text = decoder.text(value or b"", where)
                    if text is not None:
                        yield Record(iter([text]), row, dict(zip(known, beside, strict=True)))
            decoder.report.note_bytes(size - noted)
    except (arrow.ArrowException, OSError, UnicodeDecodeError) as error:  # the last: names of columns
        if isinstance(error, OSError) and error.errno is not None:  # the file cannot be opened
            raise
        raise ValueError(
            f"{source}: not a Parquet file, or damaged ({error}); fetch the file again"
        ) from error


def _check_rows(metadata: Any, source: str) -> None:
    """Raises ValueError if a file's groups have together other rows than the file."""
    groups = sum(metadata.row_group(number).num_rows for number in range(metadata.num_row_groups))
    if groups != metadata.num_rows:
        raise ValueError(
            f"{source}: got {groups} rows in its groups, expected {metadata.num_rows}, as its description "
            "says; the file is damaged, fetch it again"
        )


def _check_column(schema: Any, text_field: str, source: str, arrow: Any) -> None:
    """Raises ValueError unless the Arrow schema has a column of strings, or of nulls alone."""
    if text_field not in schema.names:
        _field(dict.fromkeys(schema.names), text_field, source)
    _check_is_one(schema, text_field, source)
    column_type = schema.field(text_field).type
    value_type = column_type.value_type if arrow.types.is_dictionary(column_type) else column_type
    texts = ("string", "large_string", "string_view", "binary", "large_binary", "binary_view", "null")
    if str(value_type) not in texts:
        raise ValueError(
            f"{source}: column {text_field!r} is {column_type}, expected string; name the one that holds the "
            "text with --text_field"
        )


def _check_is_one(schema: Any, name: str, source: str) -> None:
    if schema.names.count(name) > 1:
        raise ValueError(f"{source}: got several columns {name!r}, expected one; rename the others")


def _read_tfds(
    source: str, text_field: str, decoder: Decoder, *, fields: Sequence[str] = ()
) -> Iterator[Record]:
    """A TensorFlow Dataset prepared with file_format="array_record", read without TensorFlow."""
    datasets = import_reader("tensorflow_datasets", source)
    name, _, split = source.removeprefix("tfds:").partition("@")
    split = split or "train"
    try:
        if Path(name).is_dir():
            # Imported here, since it needs that package.
            from data_pipelines.tfds_directories import open_directory

            builder = open_directory(name)
        else:
            builder = datasets.builder(name)
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
        value = record.get(text_field) if isinstance(record, dict) else None
        if isinstance(value, bytes | str) and decoder.is_too_long(len(value), where):
            continue
        if isinstance(record, dict) and isinstance(record.get(text_field), bytes):
            text = decoder.text(record[text_field], where)
        elif isinstance(record, dict):
            text = decoder.string(_field(record, text_field, where), where)
        else:
            raise ValueError(
                f"{where}: got a {type(record).__name__}, expected a dictionary with the feature "
                f"{text_field!r}"
            )
        if text is not None:
            known = {name: record[name] for name in fields if name in record}
            yield Record(iter([text]), index + 1, known)
