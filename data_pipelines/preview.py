"""A dry run of the corpus builder: what it would make of the first documents, and how much of it."""

import dataclasses
import textwrap
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from data_pipelines.chunks import SPLITS, Job, make_groups, make_selector, num_characters, read_jobs
from data_pipelines.corpus_settings import CorpusSettings
from data_pipelines.documents import ReadReport, source_bytes
from data_pipelines.duplicates import SeenTexts
from data_pipelines.packing import Lines, pack
from data_pipelines.progress import waiting
from data_pipelines.shards import encode_document
from data_pipelines.tokenizers.load import Tokenizer, load_tokenizer
from data_pipelines.tokenizers.report import unknown_warning
from data_pipelines.tokenizers.unknown_characters import character_counter, swallowed_lines

SAMPLE_CHARS = 1_000_000  # that are tokenised
MEASURED_BYTES = 16 << 20  # read, to tell how much text all sources hold; files are read in blocks
NUM_ROWS = 3  # that are shown
MASK_PROB = 0.15  # for show; the default of config.objective.mask_prob
MAX_TEXT, MAX_PIECES = 240, 60  # shown of each part of a row: characters of its text, pieces of its ids
WIDTH = 100
# Packing → what the parts of a row between [CLS] and [SEP] are.
PARTS = {"documents": "document", "electra": "segment", "contiguous": "part"}


@dataclasses.dataclass
class _Sample:
    """The first documents of the training split, and how much text there is."""

    job: Job
    characters: dict[str, int]  # split → characters that were read
    left_out: int  # characters of training documents that their scores leave out, less those of copies
    bytes_read: int
    documents: int


def preview_lines(settings: CorpusSettings, num_processes: int) -> list[str]:
    """Lines for people about the rows that a build with `settings` would start with; nothing is written.

    Raises:
      ValueError: the sources hold no text, or as `read_pieces`. OSError: a source does not exist.
    """
    tokenizer = load_tokenizer(settings.tokenizer)
    with waiting("reading and tokenising some documents"):
        max_bytes = MEASURED_BYTES
        # Where bounds leave out all of what is measured, only reading on finds a document.
        while (sample := _read_sample(settings, max_bytes)) is None:
            max_bytes *= 4
        began = time.monotonic()
        encoded = [encode_document(piece.text, settings.packing, tokenizer) for piece in sample.job.pieces]
        rows = pack(
            encoded,
            sequence_length=settings.sequence_length,
            mode=settings.packing,
            special=tokenizer.special,
            seed=sample.job.seed,
        )
        seconds = time.monotonic() - began
    if not len(rows):
        raise settings.no_text("train", ReadReport())
    num_tokens = sum(len(line) for document in encoded for line in document)
    size = num_characters(sample.job)
    is_text = np.isin(
        rows, (tokenizer.special.pad, tokenizer.special.cls, tokenizer.special.sep), invert=True
    )
    padding = (rows == tokenizer.special.pad).mean()
    lines = [
        "dry run: nothing is written",
        f"sample       the first {len(encoded):,} documents of train: {size:,} characters, {num_tokens:,} "
        f"tokens, {size / max(1, num_tokens):.2f} characters a token",
        f"rows         {len(rows):,} of {settings.sequence_length} ids, {padding:.2%} padding, "
        f"{1 - is_text.sum() / max(1, num_tokens):.2%} of the text dropped",
        *_estimate(settings, sample, len(rows) / size, seconds / size / num_processes, num_processes),
        *filter(None, [unknown_warning(list(rows), tokenizer.special)]),
        *_unknown_lines(sample.job, encoded, tokenizer),
    ]
    rng = np.random.default_rng(0)
    for number in sorted({len(rows) * part // NUM_ROWS for part in range(NUM_ROWS)}):
        lines += [
            "",
            f"row {number + 1:,}",
            *_row_lines(rows[number], tokenizer, PARTS[settings.packing], rng),
        ]
    return [
        *lines,
        "",
        f"masked: {MASK_PROB:.0%} of the pieces, drawn for show; pre-training draws others at every step",
    ]


def _unknown_lines(job: Job, encoded: Sequence[Lines], tokenizer: Tokenizer) -> list[str]:
    """A warning if many characters become [UNK], with a tokenizer for which they can be counted."""
    counter = character_counter(tokenizer)
    return swallowed_lines(*counter.count([piece.text for piece in job.pieces], encoded)) if counter else []


def _read_sample(settings: CorpusSettings, max_bytes: int) -> _Sample | None:
    """What the first `max_bytes` of the sources hold; None if no training document is chosen from a part of
    them."""
    settings = dataclasses.replace(settings, chunk_chars=SAMPLE_CHARS)
    report, characters, first = ReadReport(), dict.fromkeys(SPLITS, 0), None
    groups = make_groups("train", settings.train, settings.chunk_chars)
    seen = SeenTexts() if settings.deduplicate else None
    # The limit is then that of the documents that are looked at.
    selector = make_selector(groups, settings, max_bytes) if settings.choice.needs_limit else None
    for group in groups:
        for job in read_jobs(group, settings, Path(), report, seen, selector, max_bytes):
            split = Path(job.path).name.partition("-")[0]
            characters[split] += num_characters(job)
            if first is None and split == "train":
                first = job
        if report.amount_read > max_bytes:  # before the next group is opened
            break
    if first is None:
        if report.amount_read > max_bytes:
            return None
        raise settings.no_text("train", report)
    left_out = report.low_score_characters - report.copied_characters
    return _Sample(first, characters, left_out, report.bytes_read, report.documents)


def _estimate(
    settings: CorpusSettings,
    sample: _Sample,
    rows_per_character: float,
    seconds_per_character: float,
    num_processes: int,
) -> list[str]:
    """How many rows all sources will give, and how long that takes."""
    total = source_bytes(settings.all_sources)
    if not total:
        return ["whole        unknown: a tfds source does not tell its size"]
    all_train = source_bytes(settings.train)
    scale = all_train / sample.bytes_read
    characters = {split: count * scale for split, count in sample.characters.items()}
    if settings.validation:
        # Held-out text is not chosen by scores.
        every = characters["train"] + sample.left_out * scale
        characters["validation"] = (total - all_train) * every / all_train
    rows = ", ".join(f"{count * rows_per_character:,.0f} of {split}" for split, count in characters.items())
    lines = [
        f"whole        about {sample.documents * scale:,.0f} documents in --train; rows: about {rows}; time: "
        f"{_duration(sum(characters.values()) * seconds_per_character)} with "
        f"{num_processes} process{'es' if num_processes > 1 else ''}"
    ]
    if scale == 1 and not settings.validation and not characters["validation"]:
        lines.append(
            "WARNING: none of these documents is held out by --validation_fraction "
            f"{settings.validation_fraction}, so the build would stop. In a .txt file a blank line ends a "
            "document."
        )
    elif not round(characters["validation"] * rows_per_character):
        lines.append(
            "WARNING: the held-out text fills hardly a row, too little to measure anything. Raise "
            "--validation_fraction, or give --validation."
        )
    return lines


def _duration(seconds: float) -> str:
    for unit, length in (("hours", 3600), ("minutes", 60), ("seconds", 1)):
        if seconds >= length:
            return f"about {seconds / length:.1f} {unit}"
    return "less than a second"


def _row_lines(row: np.ndarray, tokenizer: Tokenizer, part: str, rng: np.random.Generator) -> Iterator[str]:
    """The texts between the special ids of a row, and its pieces with some of them masked."""
    special, vocabulary = tokenizer.special, tokenizer.vocabulary()
    ids = row[row != special.pad]
    is_text = ~np.isin(ids, (special.cls, special.sep))
    parts = [list(ids[run]) for run in _runs(is_text)]
    for number, text_ids in enumerate(parts, 1):
        yield from _wrapped(f"{part} {number}", _cut(tokenizer.decode(text_ids), MAX_TEXT))
    masked = ids.copy()
    places = np.flatnonzero(is_text)
    masked[rng.choice(places, round(MASK_PROB * len(places)), replace=False)] = special.mask
    pieces = [vocabulary[number] for number in masked]
    rest = [f"… and {len(pieces) - MAX_PIECES} more"] if len(pieces) > MAX_PIECES else []
    yield from _wrapped("masked", " ".join([*pieces[:MAX_PIECES], *rest]))
    if len(ids) < len(row):
        yield f"  {'padding':11}{len(row) - len(ids)} ids"


def _runs(is_text: np.ndarray) -> list[slice]:
    """The runs of True."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], is_text, [0]]).astype(int)))
    return [slice(start, end) for start, end in zip(edges[::2], edges[1::2], strict=True)]


def _cut(text: str, length: int) -> str:
    return text if len(text) <= length else f"{text[:length]} … and {len(text) - length:,} characters more"


def _wrapped(name: str, text: str) -> Sequence[str]:
    return textwrap.wrap(text, WIDTH, initial_indent=f"  {name:11}", subsequent_indent=" " * 13) or [
        f"  {name}"
    ]
