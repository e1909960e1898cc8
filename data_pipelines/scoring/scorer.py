"""A whole scoring: examples → a classifier → the documents of the input with their scores, one file."""

import os
from array import array
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from data_pipelines.cleaning.pieces import to_line
from data_pipelines.cleaning.workers import map_in_order
from data_pipelines.document_formats import is_json_lines
from data_pipelines.documents import Piece, ReadReport, read_pieces, source_bytes
from data_pipelines.process_ends import signals_as_exit
from data_pipelines.progress import Progress, make_progress, waiting
from data_pipelines.scoring.classifier import Classifier, fit, held_out_auc, shortened
from data_pipelines.scoring.examples import Examples, choose_examples
from data_pipelines.scoring.settings import ScoringSettings
from data_pipelines.scoring.strength import Found, Models, find_examples
from data_pipelines.whole_files import written_whole


class Scored(NamedTuple):
    """What a scoring found."""

    positive: Examples
    negative: Examples
    auc: float  # of the held-out examples
    scores: np.ndarray  # of the documents in order, float64
    found: Found | None  # if losses chose the examples


class Job(NamedTuple):
    """What a worker needs to score some documents."""

    documents: list[tuple[Piece, int]]  # with their numbers in their sources, from 1
    classifier: Classifier
    settings: ScoringSettings

    @property
    def characters(self) -> int:
        """The length of their text."""
        return sum(len(piece.text) for piece, _ in self.documents)


def score_files(
    out: str, settings: ScoringSettings, num_processes: int = 1, report: ReadReport | None = None
) -> Scored:
    """Train the classifier, score the input, and write `out`, whole or not at all.

    Args:
      report: filled with what was read of the input.

    Raises:
      ValueError: too few examples, no documents, a document that has the field already, or damaged data.
      OSError: a file cannot be read or written.
    """
    report = ReadReport() if report is None else report
    _check_out(out, settings)
    pieces = _read(settings.input, settings, report)
    with waiting("reading examples"):
        found = _find_by_losses(settings) if settings.losses else None
        positive, negative = found[:2] if found else _given_examples(settings)
    with waiting("training the classifier"):
        classifier = fit(positive, negative, settings.ngrams)
        auc = held_out_auc(classifier, positive, negative)
    Path(out).parent.mkdir(parents=True, exist_ok=True)
    with signals_as_exit(), written_whole(Path(out)) as temporary, temporary.open("wb") as file:
        scores = array("d")
        for lines, some in _scored(pieces, classifier, settings, num_processes, report):
            file.write(lines)
            scores.extend(some)
        if not scores:
            raise ValueError(
                f"--input: got no documents from {', '.join(settings.input)}, expected at least one; check "
                "the files and --text_field"
            )
    return Scored(positive, negative, auc, np.array(scores), found)


def _check_out(out: str, settings: ScoringSettings) -> None:
    if not out.endswith(".jsonl"):
        raise ValueError(f"--out: got {out}, expected a file that ends in .jsonl.")
    for source in (*settings.input, *settings.positive, *settings.negative, *settings.examples):
        if os.path.exists(source) and os.path.exists(out) and os.path.samefile(source, out):
            raise ValueError(f"--out: got {out}, which is also read, expected another file.")


def _read(
    sources: Sequence[str],
    settings: ScoringSettings,
    report: ReadReport | None = None,
    fields: Sequence[str] | None = None,
) -> Iterator[Piece]:
    return read_pieces(
        sources,
        text_field=settings.text_field,
        on_invalid_utf8=settings.on_invalid_utf8,
        document_separator=settings.document_separator,
        max_record_bytes=settings.max_record_bytes,
        fields=fields,
        report=report,
    )


def _find_by_losses(settings: ScoringSettings) -> Found:
    models = Models.of(settings.losses)
    read = lambda: _read(settings.examples, settings, fields=models.fields)
    return find_examples(read, models, settings.example_share, settings.max_training_chars)


def _given_examples(settings: ScoringSettings) -> list[Examples]:
    sides = {name: _read(getattr(settings, name), settings) for name in ("positive", "negative")}
    return [_examples(name, pieces, settings.max_training_chars) for name, pieces in sides.items()]


def _examples(name: str, pieces: Iterator[Piece], max_chars: int) -> Examples:
    try:
        return choose_examples((piece.text for piece in pieces), max_chars)
    except ValueError as error:
        raise ValueError(f"--{name}: {error}") from error


def _scored(
    pieces: Iterator[Piece],
    classifier: Classifier,
    settings: ScoringSettings,
    num_processes: int,
    report: ReadReport,
) -> Iterator[tuple[bytes, list[float]]]:
    """The lines and the scores of some documents at a time, in order; under a progress bar."""
    total, read = source_bytes(settings.input), 0
    jobs = _jobs(pieces, classifier, settings)
    with make_progress(total, "scoring", unit="B" if total else " characters", is_scaled=True) as shown:
        show = lambda: _show(shown, total, read, report)
        for lines, scores, characters in map_in_order(score_documents, jobs, num_processes, show):
            yield lines, scores
            read += characters
            show()
        if total:
            shown.update(total)


def _show(shown: Progress, total: int | None, read: int, report: ReadReport) -> None:
    # Some text is read before it is scored: that share of the bytes read is done.
    share = read / max(1, report.characters)
    amount = min(int(share * report.bytes_read), total - 1) if total else read
    shown.update(amount, {"documents read": f"{report.documents:,}"})


def _jobs(pieces: Iterator[Piece], classifier: Classifier, settings: ScoringSettings) -> Iterator[Job]:
    held, size, source, number = [], 0, None, 0
    for piece in pieces:
        number = number + 1 if piece.source == source else 1
        source = piece.source
        held.append((piece, number))
        size += len(piece.text)
        if size >= settings.piece_chars:
            yield Job(held, classifier, settings)
            held, size = [], 0
    if held:
        yield Job(held, classifier, settings)


def score_documents(job: Job) -> tuple[bytes, list[float], int]:
    """The lines of some documents, their scores, and the characters of their text."""
    scores = [shortened(score) for score in job.classifier.scores([piece.text for piece, _ in job.documents])]
    lines = [
        to_line(_record(piece, number, score, job.settings))
        for (piece, number), score in zip(job.documents, scores, strict=True)
    ]
    return "".join(lines).encode(), scores, job.characters


def _record(piece: Piece, number: int, score: float, settings: ScoringSettings) -> dict[str, Any]:
    """A document as it is written: a JSON line keeps its fields, another one gets its place, but for a field
    that holds its text. A piece of a long one has a mark."""
    where, scores = f"{piece.source}: document {number}", {settings.field: score}
    if settings.losses:
        strength = Models.of(settings.losses).strength(piece, where)
        if strength is not None:
            scores[settings.strength_field] = shortened(strength)
    for field in scores:
        if field in piece.fields:
            raise ValueError(f"{where} has a field {field!r} already; name another with --field")
    place: dict[str, Any] = {}
    if not is_json_lines(piece.source):
        place = {"source": piece.source, "document": number, "record": piece.record}
    place.pop(settings.text_field, None)
    return {settings.text_field: piece.text, **place, **piece.fields, **piece.mark, **scores}
