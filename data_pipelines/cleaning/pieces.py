"""Pieces of the input, the unit of work: some documents in, files of kept and dropped documents out.

The files of a piece in the working directory:

    00000000.kept.jsonl      documents that are kept so far: text, source, document, record, language
    00000000.dropped.jsonl   the same with reason and value
    00000000.lines.jsonl     lines that were removed from kept documents
    00000000.digests.npy     of the kept documents, uint64 [documents, 2]; with duplicates
    00000000.places.npy      their sources and numbers (`place_of`), uint64 [documents]; with duplicates
    00000000.bands.npy       hashes of the bands of their signatures, uint64 [bands, documents]; near ones
    00000000.signatures.npy  uint32 [documents, values]; near ones
    00000000.json            counts, and the digest of what went in: written last, it shows the piece is whole
"""

import functools
import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from data_pipelines.array_files import save_array
from data_pipelines.cleaning.cleaner import Cleaner, Outcome
from data_pipelines.cleaning.contamination import Index
from data_pipelines.cleaning.examples import Examples
from data_pipelines.cleaning.masking import mask
from data_pipelines.cleaning.settings import CleaningSettings
from data_pipelines.cleaning.signatures import NUM_PERMUTATIONS, band_numbers, digest, signature
from data_pipelines.cleaning.words import word_numbers
from data_pipelines.documents import ReadReport, read_pieces
from data_pipelines.json_files import read_json, write_json
from data_pipelines.whole_files import printable, write_text

KEPT, DROPPED, LINES = ".kept.jsonl", ".dropped.jsonl", ".lines.jsonl"
DIGESTS, PLACES, BANDS, SIGNATURES = ".digests.npy", ".places.npy", ".bands.npy", ".signatures.npy"
COUNTS = ".json"
SUFFIXES = (KEPT, DROPPED, LINES, DIGESTS, PLACES, BANDS, SIGNATURES, COUNTS)
RECORD_FORM = {"text": str, "source": str, "document": int, "record": int}
SOURCE_SHIFT = 40  # bits of a place for the number of a document in its source


class Document(NamedTuple):
    """A document, or a part of one of more than a million characters."""

    text: str
    source: str
    number: int  # among those of the source that were read, from 1
    record: int  # the number of its record in the source, from 1; records without text count
    mark: Mapping[str, str]  # of a piece of a long document, see `data_pipelines.documents.Piece`


class Piece(NamedTuple):
    """What a worker needs to clean some documents."""

    path: str  # of its files, without endings
    documents: list[Document]
    settings: CleaningSettings
    index: str  # the file of evaluation n-grams, "" without
    filters_sha256: str  # of the contents of that file and of the bad words

    @property
    def characters(self) -> int:
        """The length of its text."""
        return sum(len(document.text) for document in self.documents)


def read_input(
    settings: CleaningSettings, directory: Path, index: str, filters_sha256: str, report: ReadReport
) -> Iterator[Piece]:
    """The input in pieces of `settings.piece_chars` characters or a little more.

    Raises: as `read_pieces`.
    """
    pieces = read_pieces(
        settings.input,
        text_field=settings.text_field,
        on_invalid_utf8=settings.on_invalid_utf8,
        document_separator=settings.document_separator,
        max_record_bytes=settings.max_record_bytes,
        report=report,
    )
    number, held, size, source, in_source = 0, [], 0, None, 0
    make = lambda: Piece(f"{directory}/{number:08d}", held, settings, index, filters_sha256)
    for piece in pieces:
        in_source = in_source + 1 if piece.source == source else 1
        source = piece.source
        held.append(Document(piece.text, source, in_source, piece.record, piece.mark))
        size += len(piece.text)
        if size >= settings.piece_chars:
            yield make()
            number, held, size = number + 1, [], 0
    if held:
        yield make()


def finished(piece: Piece) -> dict[str, Any] | None:
    """The counts of a piece that was made before from the same text; None if it was not."""
    path = Path(piece.path + COUNTS)
    if not path.exists():
        return None
    counts = read_json(path, {"input_sha256": str}, advice="Remove it: the same command makes it again.")
    is_whole = counts["input_sha256"] == _sha256_of(piece) and counts.get("bytes") == _sizes(piece)
    return counts if is_whole else None


def _sizes(piece: Piece) -> dict[str, int]:
    """Ending → bytes of the files beside the counts. After a loss of power they can be shorter."""
    paths = {ending: Path(piece.path + ending) for ending in SUFFIXES if ending != COUNTS}
    return {ending: path.stat().st_size for ending, path in paths.items() if path.exists()}


def _sha256_of(piece: Piece) -> str:
    total = hashlib.sha256(piece.filters_sha256.encode())
    for document in piece.documents:
        for number in (document.number, document.record):  # they move when a document before it goes
            total.update(number.to_bytes(8, "big"))
        for data in (
            document.text.encode("utf-8", "surrogatepass"),
            document.source.encode("utf-8", "replace"),
            "".join(document.mark.values()).encode(),
        ):
            total.update(len(data).to_bytes(8, "big"))
            total.update(data)
    return total.hexdigest()


@functools.lru_cache(maxsize=1)
def _cleaner(settings: CleaningSettings, index: str, filters_sha256: str) -> Cleaner:
    return Cleaner(settings, Index(index) if index else None, settings.read_bad_words())


def clean_piece(piece: Piece) -> dict[str, Any]:
    """Clean the documents of a piece and write its files; returns its counts.

    Raises:
      OSError: a file could not be written.
    """
    Path(piece.path + COUNTS).unlink(missing_ok=True)  # of other text: its files are exchanged now
    cleaner = _cleaner(piece.settings, piece.index, piece.filters_sha256)
    kept, dropped, lines, digests, signatures = [], [], [], [], []
    reasons, changes, settings = Counter(), Counter(), piece.settings
    # What is dropped was not masked; a report may be shown around.
    examples = Examples(lambda text: mask(text, settings.mask, settings.phone_regions)[0])
    for document in piece.documents:
        outcome = cleaner.clean(document.text)
        changes.update(outcome.changes)
        record = _record(document, outcome)
        if outcome.reason:
            reasons[outcome.reason] += 1
            examples.add(outcome.reason, record)
            dropped.append(record)
            continue
        kept.append(record)
        for rule, value, line in outcome.removed:
            lines.append(_place(document, line) | {"reason": rule, "value": f"{value:.4g}"})
        if piece.settings.duplicates != "none":
            digests.append(digest(outcome.text))
        if piece.settings.duplicates == "near":
            numbers = word_numbers(outcome.text)
            # Texts without words, such as emoji, are alike only if they are equal.
            signatures.append(signature(numbers if len(numbers) else digests[-1]))
    for ending, records in ((KEPT, kept), (DROPPED, dropped), (LINES, lines)):
        write_records(Path(piece.path + ending), records)
    _save_arrays(piece, kept, digests, signatures)
    counts = {
        "documents": len(piece.documents),
        "characters": piece.characters,
        "kept": len(kept),
        "kept_characters": sum(len(record["text"]) for record in kept),
        "dropped": dict(reasons),
        "changes": dict(+changes),
        "examples": examples.chosen,
        "input_sha256": _sha256_of(piece),
        "bytes": _sizes(piece),
    }
    write_json(Path(piece.path + COUNTS), counts)
    return counts


def _record(document: Document, outcome: Outcome) -> dict[str, Any]:
    record = _place(document, outcome.text)
    if outcome.language:
        record["language"] = outcome.language
    if outcome.reason:
        record |= {"reason": outcome.reason, "value": outcome.value}
    return record


def _place(document: Document, text: str) -> dict[str, Any]:
    """What every record has: a text of a document, and where that comes from."""
    return {
        "text": text,
        "source": document.source,
        "document": document.number,
        "record": document.record,
        **document.mark,
    }


def _save_arrays(
    piece: Piece, kept: Sequence[dict], digests: Sequence[np.ndarray], signatures: Sequence[np.ndarray]
) -> None:
    settings = piece.settings
    if settings.duplicates != "none":
        sources = {source: number for number, source in enumerate(settings.input)}
        places = [sources[record["source"]] << SOURCE_SHIFT | record["document"] for record in kept]
        save_array(Path(piece.path + PLACES), np.array(places, np.uint64))
        save_array(Path(piece.path + DIGESTS), np.array(digests, np.uint64).reshape(-1, 2))
    if settings.duplicates == "near":
        values = np.array(signatures, np.uint32).reshape(-1, NUM_PERMUTATIONS)
        save_array(Path(piece.path + SIGNATURES), values)
        save_array(Path(piece.path + BANDS), band_numbers(values, settings.similarity))


def place_of(number: int, settings: CleaningSettings) -> tuple[str, int]:
    """The source and the number of a document that an entry of PLACES stands for."""
    return settings.input[number >> SOURCE_SHIFT], number & ((1 << SOURCE_SHIFT) - 1)


def write_records(path: Path, records: Sequence[Mapping[str, Any]]) -> None:
    """Write JSON lines in one go."""
    write_text(path, "".join(to_line(record) for record in records))


def to_line(record: Mapping[str, Any]) -> str:
    """A record as a line of JSON; the name of its source may have bytes that are not UTF-8."""
    return printable(json.dumps(record, ensure_ascii=False)) + "\n"
