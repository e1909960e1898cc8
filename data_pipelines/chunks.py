"""Groups of sources → chunks of documents, each a job for `write_shard` (data_pipelines/shards.py).

One process reads a group from its first document to its last. The contents of a chunk depend only on its
group and, with `deduplicate` or `keep_fraction`, on the other groups.
"""

import itertools
import math
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from data_pipelines.copies import spread
from data_pipelines.corpus_settings import CorpusSettings
from data_pipelines.documents import Piece, ReadReport, read_pieces
from data_pipelines.duplicates import SeenTexts, without_duplicates
from data_pipelines.selection import TRAIN, Selector, find_limit

SPLITS = (TRAIN, "validation")
# A chunk ends where its group does, so groups are long: held-out shares of 1 % still fill most of a chunk.
GROUP_CHUNKS = 64


class Group(NamedTuple):
    """Consecutive sources of a split."""

    split: str
    number: int  # among the groups of the split
    sources: list[str]


class Job(NamedTuple):
    """What a worker needs to pack one chunk."""

    tokenizer: str  # directory
    sequence_length: int
    packing: str
    seed: tuple[int, ...]
    path: str  # of the file to write
    pieces: list[Piece]


def make_groups(split: str, sources: Sequence[str], chunk_chars: int) -> list[Group]:
    """The sources in order, a new group as soon as one has the bytes of 64 chunks; no source is opened.

    A TFDS dataset, whose size is unknown here, counts as that many bytes. Paths are made absolute, for
    workers elsewhere.

    Raises:
      OSError: a source does not exist.
    """
    grouped: list[list[str]] = []
    full = size = GROUP_CHUNKS * chunk_chars
    for source in sources:
        if size >= full:
            grouped.append([])
            size = 0
        is_file = not source.startswith("tfds:")
        grouped[-1].append(os.path.abspath(source) if is_file else source)
        size += os.path.getsize(source) if is_file else full
    return [Group(split, number, group) for number, group in enumerate(grouped)]


def read_jobs(
    group: Group,
    settings: CorpusSettings,
    directory: Path,
    report: ReadReport,
    seen: SeenTexts | None = None,
    selector: Selector | None = None,
    max_bytes: float = math.inf,
) -> Iterator[Job]:
    """Read a group; one job for each chunk of `settings.chunk_chars` characters or a little more.

    Args:
      directory: where the files go.
      seen: the texts of earlier groups; needed for `settings.deduplicate`.
      selector: that of earlier groups; needed for `settings.keep_fraction`.
      max_bytes: of all sources, by `report`; the rest is left.
    """
    divided = _read_divided(group, settings, report, seen, max_bytes)
    if settings.score_field:
        divided = (selector or Selector(settings.choice)).keep(divided, report, max_bytes)
    for split, number, chunk in _chunks(divided, settings.chunk_chars):
        # NumPy ignores zeros at the end of a seed: the first group, which is all of most corpora, has the
        # rows that it had when seeds did not include the group.
        seed = (settings.seed, SPLITS.index(split), number, group.number)
        path = f"{directory}/{split}-{group.number:08d}-{number:08d}"  # names sort in order
        yield Job(settings.tokenizer, settings.sequence_length, settings.packing, seed, path, chunk)


def make_selector(groups: Iterable[Group], settings: CorpusSettings, max_bytes: float = math.inf) -> Selector:
    """What chooses the documents of all groups by `settings.keep_fraction`; they are read for it.

    Args:
      max_bytes: of the sources that are read; the rest is left.
    """
    report = ReadReport()
    seen = SeenTexts() if settings.deduplicate else None
    divided = itertools.chain.from_iterable(
        _read_divided(group, settings, report, seen, max_bytes) for group in groups if group.split == TRAIN
    )
    return Selector(settings.choice, find_limit(divided, settings.choice, report, max_bytes))


def _read_divided(
    group: Group, settings: CorpusSettings, report: ReadReport, seen: SeenTexts | None, max_bytes: float
) -> Iterator[tuple[str, Piece]]:
    """(split, piece) of the documents of a group, until `max_bytes` are read."""
    pieces = read_pieces(
        group.sources,
        text_field=settings.text_field,
        on_invalid_utf8=settings.on_invalid_utf8,
        document_separator=settings.document_separator,
        max_document_chars=settings.max_document_chars,
        max_record_bytes=settings.max_record_bytes,
        fields=(settings.score_field,) if settings.score_field and group.split == TRAIN else (),
        report=report,
    )
    pieces = itertools.takewhile(lambda _: report.amount_read <= max_bytes, pieces)
    if settings.deduplicate:
        pieces = without_duplicates(pieces, seen, report)
    if settings.validation_fraction:
        return _divide(pieces, settings.validation_fraction)
    return ((group.split, piece) for piece in pieces)


def _divide(pieces: Iterable[Piece], fraction: float) -> Iterator[tuple[str, Piece]]:
    """(split, piece); the share `fraction` of the documents, by a hash of their text, is held out. Records
    with pieces of one document share its hash."""
    split = ""
    for piece in pieces:
        if piece.is_first:
            digest = bytes.fromhex(piece.piece_of) or piece.digest
            is_held_out = int.from_bytes(digest[:8], "big") < fraction * 2**64
            split = "validation" if is_held_out else "train"
        yield split, piece


def _chunks(divided: Iterable[tuple[str, Piece]], chunk_chars: int) -> Iterator[tuple[str, int, list[Piece]]]:
    """(split, number of the chunk, pieces); a chunk has `chunk_chars` characters or a little more, copies
    included."""
    chunks: dict[str, list[Piece]] = {split: [] for split in SPLITS}
    sizes, numbers = dict.fromkeys(SPLITS, 0), dict.fromkeys(SPLITS, 0)
    for split, piece in divided:
        chunks[split].append(piece)
        sizes[split] += len(piece.text) * piece.copies
        if sizes[split] >= chunk_chars:
            yield split, numbers[split], spread(chunks[split])
            chunks[split], sizes[split] = [], 0
            numbers[split] += 1
    for split in SPLITS:
        if chunks[split]:
            yield split, numbers[split], spread(chunks[split])


def num_characters(job: Job) -> int:
    """The length of its text."""
    return sum(len(piece.text) for piece in job.pieces)
