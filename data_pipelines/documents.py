"""Read plain documents from text, JSON lines, Parquet and TensorFlow Datasets sources, one string each.

Memory is bounded: records of more than `max_record_bytes` are passed over. Only a batch of Parquet values, as
they are stored, and a TFDS example must fit. A `ReadReport` counts what was cut, skipped and replaced.
"""

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from data_pipelines.document_bytes import BLOCK_BYTES
from data_pipelines.document_decoding import (
    MAX_DOCUMENT_CHARS,
    MAX_RECORD_BYTES,
    ON_INVALID_UTF8,
    Decoder,
    ReadReport,
    check_max_document_chars,
    check_max_record_bytes,
    check_on_invalid_utf8,
)
from data_pipelines.document_digests import DocumentDigest
from data_pipelines.document_formats import (
    DOCUMENT_SEPARATORS,
    SOURCES_HELP,
    MissingFieldError,
    Reader,
    reader_of,
)

__all__ = [
    "DOCUMENT_SEPARATORS",
    "MAX_DOCUMENT_CHARS",
    "MAX_RECORD_BYTES",
    "ON_INVALID_UTF8",
    "PIECE_OF",
    "SOURCES_HELP",
    "MissingFieldError",
    "Piece",
    "ReadReport",
    "check_document_separator",
    "check_max_document_chars",
    "check_max_record_bytes",
    "check_on_invalid_utf8",
    "read_documents",
    "read_field",
    "read_pieces",
    "source_bytes",
]


# The field of a JSON line with a piece of a document that `clean` or `score` cut: the digest of the document,
# in hexadecimal digits.
PIECE_OF = "piece_of"
DIGEST = re.compile("[0-9a-f]{64}")
# The end of a sentence or of a line.
SENTENCE_END = re.compile(r"[.!?…][\"'”’»)\]]*(?=\s)|[。！？][”’」』）]*|(?=\n)")


class Piece(NamedTuple):
    """A document, or a piece of one that is too long to be read whole."""

    text: str
    source: str  # that it comes from
    is_first: bool = True  # of its record
    fields: Mapping[str, Any] = {}  # of the document, as far as they were asked for
    copies: int = 1  # times that it is packed
    digest: bytes = b""  # of the text of the whole document
    record: int = 0  # number of its record in the source, from 1; see `Record`
    is_whole: bool = True  # no other piece is of its record
    piece_of: str = ""  # PIECE_OF of its record, if that is itself a piece

    @property
    def mark(self) -> dict[str, str]:
        """The field that is written with a piece, so that whoever reads the pieces knows that they are of
        one document; {} for a whole one."""
        document = self.piece_of or ("" if self.is_whole else self.digest.hex())
        return {PIECE_OF: document} if document else {}


def read_documents(sources: Sequence[str], **options) -> Iterator[str]:
    """The texts of `read_pieces`."""
    return (piece.text for piece in read_pieces(sources, **options))


def read_field(source: str, field: str) -> Iterator[str]:
    """The texts of a field of one source, as `read_documents` reads them. But a JSON lines file is read to
    its end before the field is missing, however many records lack it before; errors as there."""
    reader = reader_of(source, DOCUMENT_SEPARATORS[0], to_the_end=True)
    decoder = Decoder(ON_INVALID_UTF8[0], ReadReport())
    return (piece.text for piece in _read_all([(source, reader)], field, decoder, MAX_DOCUMENT_CHARS, ()))


def read_pieces(
    sources: Sequence[str],
    *,
    text_field: str = "text",
    on_invalid_utf8: str = "error",
    document_separator: str = DOCUMENT_SEPARATORS[0],
    max_document_chars: int = MAX_DOCUMENT_CHARS,
    max_record_bytes: int = MAX_RECORD_BYTES,
    fields: Sequence[str] | None = (),
    report: ReadReport | None = None,
) -> Iterator[Piece]:
    """The documents of all sources, in order; those that are too long in pieces.

    In .txt files `document_separator` ends a document, and the lines of a document stay separate lines;
    elsewhere a document is the `text_field` of one record. All sources are checked to exist before the
    first document is returned.

    Args:
      on_invalid_utf8: for a line that is not UTF-8: "error", "skip" it, or "replace" the bad bytes by U+FFFD.
      document_separator: of .txt files: a "blank_line", every "line", or the end of the "file".
      max_document_chars: longer documents are cut, after a sentence or at white space if there is any.
      max_record_bytes: longer JSON lines, and longer texts of Parquet and TFDS, are passed over and counted.
      fields: that a piece has beside the text, unless its record lacks them. None: all others of a JSON line.
      report: is added to.

    Raises:
      FileNotFoundError: a source does not exist. MissingFieldError: one has no `text_field`.
      ValueError: an unknown source format, or damaged data; or `fields` of a .txt file.
      ImportError: a package that reads the format is not installed.
    """
    if isinstance(sources, str):
        raise TypeError(
            f"sources: got the string {sources!r}, expected a list of strings; write [{sources!r}]"
        )
    check_on_invalid_utf8(on_invalid_utf8)
    check_document_separator(document_separator)
    check_max_record_bytes(max_record_bytes)
    check_max_document_chars(max_document_chars)
    sources = [str(source) for source in sources]
    readers = [(source, reader_of(source, document_separator, fields or ())) for source in sources]
    report = ReadReport() if report is None else report
    decoder = Decoder(on_invalid_utf8, report, max_record_bytes)
    return _read_all(readers, text_field, decoder, max_document_chars, fields)


def check_document_separator(document_separator: str) -> None:
    """Raises ValueError for an unknown separator of documents."""
    if document_separator not in DOCUMENT_SEPARATORS:
        expected = ", ".join(DOCUMENT_SEPARATORS)
        raise ValueError(f"document_separator: got {document_separator!r}, expected one of {expected}")


def source_bytes(sources: Sequence[str]) -> int | None:
    """The size of all source files on the disk; None if it is unknown, as of a tfds source.

    Raises:
      OSError: a source does not exist.
    """
    if any(source.startswith("tfds:") for source in sources):
        return None
    return sum(os.path.getsize(source) for source in sources)


def _read_all(
    readers: list[tuple[str, Reader]],
    text_field: str,
    decoder: Decoder,
    max_chars: int,
    fields: Sequence[str] | None,
) -> Iterator[Piece]:
    report = decoder.report
    for source, reader in readers:
        for record in reader(source, text_field, decoder):
            kept = {
                name: value
                for name, value in record.fields.items()
                if (name != text_field if fields is None else name in fields)
            }
            given = record.fields.get(PIECE_OF)
            piece_of = given if isinstance(given, str) and DIGEST.fullmatch(given) else ""
            pieces = _with_digest(record.fragments, max_chars, report, source)
            for number, (text, digest, is_whole) in enumerate(pieces):
                report.documents += 1
                report.characters += len(text)
                yield Piece(text, source, number == 0, kept, 1, digest, record.number, is_whole, piece_of)


def _with_digest(
    fragments: Iterator[str], max_chars: int, report: ReadReport, source: str
) -> Iterator[tuple[str, bytes, bool]]:
    """(piece, digest of the document, whether it is all of it) of the document that `fragments` make up; see
    `_cut`."""
    document, waiting = DocumentDigest(), []
    for text in _cut(document.reading(fragments), max_chars, report, source):
        waiting.append(text)
        if document.is_full:
            yield from ((text, document.digest(), False) for text in waiting)
            waiting = []
    is_whole = len(waiting) == 1 and not document.is_full
    yield from ((text, document.digest(), is_whole) for text in waiting)


def _cut(fragments: Iterator[str], max_chars: int, report: ReadReport, source: str) -> Iterator[str]:
    """The document that `fragments` make up, in pieces of at most `max_chars` characters.

    An empty document is counted and dropped.
    """
    parts, size, has_text = [], 0, False
    for fragment in fragments:
        parts.append(fragment)
        size += len(fragment)
        if size <= max_chars + BLOCK_BYTES:
            continue
        pieces, rest = _split("".join(parts), max_chars)
        parts, size = [rest], len(rest)
        for piece in pieces:
            has_text = True
            report.note_cut(source)
            yield piece
    pieces, rest = _split("".join(parts), max_chars)
    for piece in pieces:
        has_text = True
        report.note_cut(source)
        yield piece
    if rest.strip():
        yield rest.strip()
    elif not has_text:
        report.skipped_empty += 1


def _split(text: str, limit: int) -> tuple[list[str], str]:
    """Pieces of at most `limit` characters, as long as more than that are left, and the rest."""
    pieces = []
    start, stop = len(text) - len(text.lstrip()), len(text.rstrip())
    while stop - start > limit:
        end = _end_of_piece(text, start, limit)
        pieces.append(text[start:end].rstrip())
        start = end
        while start < stop and text[start].isspace():
            start += 1
    return pieces, text[start:]


def _end_of_piece(text: str, start: int, limit: int) -> int:
    """Where a piece that begins at `start` ends: after the last sentence that ends in the second half of
    `limit` characters, or else before their last white space, or else behind all of them."""
    # The character after the limit may be the white space that shows that a sentence has ended.
    found = SENTENCE_END.finditer(text, start + limit // 2, start + limit + 1)
    ends = [match.end() for match in found if match.end() <= start + limit]
    if ends:
        return ends[-1]
    places = range(start + limit, start, -1)
    return next((place for place in places if text[place].isspace()), start + limit)
