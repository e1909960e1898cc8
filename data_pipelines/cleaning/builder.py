"""A whole cleaning: the pieces, the duplicates among them, and the finished directory.

Work is done in DIR.partial. The directory appears whole at the end. An interrupted cleaning keeps its
finished pieces; a piece whose text, evaluation text or list of words has changed is cleaned again.
"""

import hashlib
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from data_pipelines.cleaning.contamination import write_index
from data_pipelines.cleaning.duplicate_search import find_duplicates
from data_pipelines.cleaning.pieces import COUNTS, SUFFIXES, Piece, clean_piece, finished, read_input
from data_pipelines.cleaning.report import report_markdown
from data_pipelines.cleaning.results import merged, write_results
from data_pipelines.cleaning.settings import CleaningSettings
from data_pipelines.cleaning.workers import map_in_order
from data_pipelines.directory_lock import only_maker
from data_pipelines.documents import ReadReport, read_pieces, source_bytes
from data_pipelines.json_files import read_json, write_json
from data_pipelines.progress import make_progress, waiting
from data_pipelines.whole_files import TEMPORARY_SUFFIX, check_utf8, write_text

INFO_FILE, REPORT_FILE = "cleaning.json", "report.md"
SETTINGS_FILE, INDEX_FILE, FINISHED = "cleaning_settings.json", "evaluation.npz", "finished"
INFO_FORM = {"settings": dict, "counts": dict}


def clean(
    directory: str,
    settings: CleaningSettings,
    num_processes: int = 1,
    *,
    start_over: bool = False,
    report: ReadReport | None = None,
) -> dict[str, Any]:
    """Clean the input into `directory`, or find that it was done with the same settings.

    Args:
      start_over: remove what an interrupted cleaning with other settings left in DIR.partial.
      report: filled with what was read.

    Returns:
      The counts, as in cleaning.json.

    Raises:
      FileExistsError: `directory` or DIR.partial holds something else, or a cleaning with other settings.
      HeldError: another process makes it.
      ValueError: the input holds no documents, or is damaged. OSError: a file cannot be read or written.
    """
    with only_maker(directory) as check:
        check_utf8(directory, "--out")
        directory = os.path.abspath(directory)
        recorded, working = settings.recorded(), Path(f"{directory}.partial")
        if Path(directory).exists():
            counts = _existing(Path(directory), recorded)
            if _settings_of(working) == recorded:  # killed while it removed this
                _remove(working)
            return counts
        report = ReadReport() if report is None else report
        for sources in (settings.input, settings.decontaminate):
            read_pieces(sources, document_separator=settings.document_separator)  # which looks for them
        settings.read_bad_words()
        partial = _partial(working, recorded, start_over)
        index, filters, num_short = _filters(partial, settings)
        pieces = _clean_pieces(partial, settings, index, filters, num_processes, report, check)
        counts = _finish(partial, settings, pieces, num_short)
        check()
        os.replace(partial / FINISHED, directory)
        _remove(partial)
        return counts


def _settings_of(partial: Path) -> dict[str, Any] | None:
    """The settings of an interrupted cleaning; None if it has none that can be read."""
    try:
        return read_json(partial / SETTINGS_FILE, dict)
    except (OSError, ValueError):
        return None


def _remove(partial: Path) -> None:
    """Remove the working directory; its settings last, by which the next start knows what a kill left."""
    for path in partial.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        elif path.name != SETTINGS_FILE:
            path.unlink()
    shutil.rmtree(partial)


def _existing(directory: Path, recorded: dict[str, Any]) -> dict[str, Any]:
    """The counts of a finished cleaning, which must have the settings `recorded`."""
    if not (directory / INFO_FILE).is_file():
        raise FileExistsError(
            f"{directory} exists and is not a cleaning (no {INFO_FILE}). Choose another --out, or remove it."
        )
    info = read_json(directory / INFO_FILE, INFO_FORM)
    difference = _difference(info["settings"], recorded)
    if difference:
        usable = " Its files can still be used." * _is_of_another_version(info["settings"], recorded)
        raise FileExistsError(
            f"{directory} holds a cleaning with {difference}.{usable} Choose another --out, or remove it."
        )
    return info["counts"]


def _difference(had: dict[str, Any], recorded: dict[str, Any]) -> str:
    """What another cleaning has than this one, "" if they are the same; each as they are recorded."""
    if _is_of_another_version(had, recorded):
        version = had.get("version", 1)  # the first one did not record it
        return f"filters of version {version}, expected version {recorded['version']}"
    differing = "; ".join(
        f"{name}: it has {had.get(name)!r}, you gave {value!r}"
        for name, value in recorded.items()
        if name != "version" and had.get(name, ...) != value
    )
    return f"other settings ({differing})" if differing else ""


def _is_of_another_version(had: dict[str, Any], recorded: dict[str, Any]) -> bool:
    """Whether another cleaning compared words, in which alone the versions differ, and is of another one."""
    compares_words = had.get("decontaminate") or had.get("duplicates") == "near"
    return bool(compares_words) and had.get("version") != recorded["version"]


def _partial(partial: Path, recorded: dict[str, Any], start_over: bool) -> Path:
    """The working directory, with the finished pieces of an interrupted cleaning of the same settings."""
    # SIGKILL while the settings are first written leaves their temporary file alone.
    if partial.exists() and not (
        partial.is_dir() and all(path.name.endswith(TEMPORARY_SUFFIX) for path in partial.iterdir())
    ):
        had = _settings_of(partial)
        if had is None:
            raise FileExistsError(
                f"{partial} exists and was not made by this command (no {SETTINGS_FILE}). Choose another "
                "--out, or move it away."
            )
        difference = _difference(had, recorded)
        if difference and not start_over:
            resume = " To resume it, give its settings." * (not _is_of_another_version(had, recorded))
            raise FileExistsError(
                f"{partial} holds an interrupted cleaning with {difference}. Choose another --out, or remove "
                f"it with --start_over.{resume}"
            )
        # Counts first: without them a piece is rebuilt, if this is interrupted.
        for path in sorted(partial.iterdir(), key=lambda path: not path.name.endswith(COUNTS)):
            is_ours = path.name.endswith((*SUFFIXES, TEMPORARY_SUFFIX)) and path.name != SETTINGS_FILE
            if is_ours and (start_over or path.name.endswith(TEMPORARY_SUFFIX)):
                path.unlink()
    partial.mkdir(parents=True, exist_ok=True)
    write_json(partial / SETTINGS_FILE, recorded)
    return partial


def _filters(partial: Path, settings: CleaningSettings) -> tuple[str, str, int]:
    """The file of evaluation n-grams ("" without), a digest of what the filters take from files, and the
    number of evaluation texts that are too short."""
    digest, index = hashlib.sha256("\n".join(settings.read_bad_words()).encode()), ""
    num_short = 0
    if settings.decontaminate:
        index = str(partial / INDEX_FILE)
        with waiting("reading evaluation text"):
            num_short = write_index(
                Path(index),
                settings.decontaminate,
                settings.evaluation_fields,
                settings.shared_words,
                settings.document_separator,
                settings.min_shared,
            )
        with open(index, "rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return index, digest.hexdigest(), num_short


def finish_piece(piece: Piece) -> tuple[str, dict[str, Any]]:
    """The path and counts of a piece, which is cleaned now unless it was before."""
    return piece.path, finished(piece) or clean_piece(piece)


def _clean_pieces(
    partial: Path,
    settings: CleaningSettings,
    index: str,
    filters: str,
    num_processes: int,
    report: ReadReport,
    check: Callable[[], None],
) -> dict[str, dict[str, Any]]:
    """Path → counts of every piece in order; under a progress bar of the bytes that are read and cleaned."""
    total, done, pieces = source_bytes(settings.input), 0, {}
    inputs = read_input(settings, partial, index, filters, report)
    unit = "B" if total else " characters"
    with make_progress(total, "cleaning", unit=unit, is_scaled=True) as shown:

        def show() -> None:
            # Some text is read before it is cleaned: that share of the bytes read is done.
            share = done / max(1, report.characters)
            amount = min(int(share * report.bytes_read), total - 1) if total else done
            shown.update(amount, {"documents read": f"{report.documents:,}"})

        for path, counts in map_in_order(finish_piece, inputs, num_processes, show):
            check()
            pieces[path] = counts
            done += counts["characters"]
            show()
        if total:
            shown.update(total)
    if not pieces:
        raise ValueError(
            f"--input: got no documents from {', '.join(settings.input)}, expected at least one; check the "
            "files and --text_field"
        )
    return pieces


def _finish(
    partial: Path, settings: CleaningSettings, pieces: dict[str, dict[str, Any]], num_short: int
) -> dict[str, Any]:
    """Write the finished directory below `partial`; returns its counts."""
    finished_directory = partial / FINISHED
    shutil.rmtree(finished_directory, ignore_errors=True)  # of an earlier attempt
    finished_directory.mkdir()
    paths = list(pieces)
    with waiting("comparing documents"):
        if settings.duplicates == "none":
            duplicates = [{} for _ in paths]
        else:
            duplicates = list(find_duplicates(paths, settings))
    written = []
    with make_progress(len(paths), "writing", unit="file") as shown:
        for number, (path, found) in enumerate(zip(paths, duplicates, strict=True)):
            written.append(write_results(path, finished_directory, number, found))
            shown.update(number + 1)
    counts = merged(list(pieces.values()), written) | {"short_evaluation_texts": num_short}
    examples = counts.pop("examples")
    write_text(finished_directory / REPORT_FILE, report_markdown(counts, examples, settings))
    write_json(finished_directory / INFO_FILE, {"settings": settings.recorded(), "counts": counts})
    return counts
