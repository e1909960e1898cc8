"""Documents → a finished dataset directory: check the settings, plan the files, pack them, finish.

The unit of work is a chunk of whole documents that becomes one file, so rows do not depend on the number of
processes. An interrupted build leaves its finished files in DIR.partial and resumes there; files of text that
changed in the meantime are rebuilt.
"""

import contextlib
import dataclasses
import itertools
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from data_pipelines.chunks import SPLITS, Group, make_groups, make_selector, read_jobs
from data_pipelines.corpus_settings import NEW_SETTINGS, CorpusSettings
from data_pipelines.dataset_directory import (
    SETTINGS_FILE,
    finish_dataset,
    is_made_by_build,
)
from data_pipelines.dataset_info import INFO_FILE, DatasetInfo, load_dataset_info
from data_pipelines.directory_lock import only_maker
from data_pipelines.documents import ReadReport, read_documents, source_bytes
from data_pipelines.duplicates import SeenTexts
from data_pipelines.installation import install_command
from data_pipelines.json_files import read_json, write_json
from data_pipelines.progress import make_progress, waiting
from data_pipelines.shards import COUNTS_SUFFIX, run_jobs
from data_pipelines.tokenizers.load import Tokenizer, load_tokenizer
from data_pipelines.whole_files import TEMPORARY_SUFFIX, check_utf8

# (groups, settings, directory for the files, report) → (path, counts) of every chunk in order.
PackGroups = Callable[
    [Sequence[Group], CorpusSettings, Path, ReadReport], Iterator[tuple[str, dict[str, Any]]]
]


class Workers(NamedTuple):
    """Who does the work of a build."""

    num_processes: int = 1  # on this machine
    runner: str = ""  # name of an Apache Beam runner whose workers do it instead
    beam_options: Sequence[str] = ()  # Beam's own flags

    def check(self, settings: CorpusSettings) -> None:
        """Raises ValueError if they do not fit together, or not the settings."""
        if self.num_processes < 1:
            raise ValueError(f"--num_processes: got {self.num_processes}, expected at least 1.")
        if self.beam_options and not self.runner:
            raise ValueError(
                f"got Beam's options {' '.join(self.beam_options)} without --runner; name the runner they "
                "are for."
            )
        if self.runner and settings.deduplicate:
            raise ValueError(
                f"--deduplicate: got it with --runner {self.runner}, whose workers do not know each other's "
                "documents; leave it out, and remove duplicates before"
            )
        if self.runner and settings.choice.needs_limit:
            raise ValueError(
                f"--keep_fraction: got it with --runner {self.runner}, whose workers do not know each "
                "other's scores; give the score that it stands for with --min_score or --max_score"
            )


LOCAL = Workers()


def build_corpus(
    directory: str,
    settings: CorpusSettings,
    workers: Workers = LOCAL,
    *,
    start_over: bool = False,
    report: ReadReport | None = None,
) -> DatasetInfo:
    """Build the dataset `directory`, or return its info if it was already built with the same settings.

    Args:
      start_over: discard the finished files of an interrupted build in DIR.partial, whatever its settings.
      report: filled with what was read.

    Raises:
      FileExistsError: `directory` holds a dataset with different settings, or something else; or DIR.partial
        holds an interrupted build with different settings and not `start_over`, or something else.
      HeldError: another process builds it.
      ValueError: a wrong argument, or a split without text.
      OSError: the disk is full, or the runner failed; finished files stay in DIR.partial.
      ImportError: Apache Beam is not installed.
    """
    with only_maker(directory) as check:
        tokenizer, existing = check_build(directory, settings, workers, start_over=start_over)
        if existing is not None:
            return existing
        directory = os.path.abspath(directory)  # which also drops a trailing slash
        pack_groups = _pack_groups(workers)
        # Beam workers may have other working directories.
        settings = dataclasses.replace(settings, tokenizer=os.path.abspath(settings.tokenizer))
        partial = _partial_directory(directory, settings.recorded(tokenizer.fingerprint), start_over)
        report = ReadReport() if report is None else report
        chunks = _pack(settings, pack_groups, partial, report, check)
        return finish_dataset(partial, directory, settings, tokenizer, chunks, check, report)


def _pack_groups(workers: Workers) -> PackGroups:
    """What packs the groups of sources. Raises ImportError without Apache Beam, if it is wanted."""
    if workers.runner:
        return _beam_workers(workers.runner, workers.beam_options)
    return _local_workers(workers.num_processes)


def _pack(
    settings: CorpusSettings,
    pack_groups: PackGroups,
    partial: Path,
    report: ReadReport,
    check: Callable[[], None],
) -> dict[str, list[dict]]:
    """Make the files of both splits in `partial`; split → the counts of its files in order. `check` is called
    before each is counted as made."""
    groups = [
        *make_groups("train", settings.train, settings.chunk_chars),
        *make_groups("validation", settings.validation, settings.chunk_chars),
    ]
    chunks: dict[str, list[dict]] = {split: [] for split in SPLITS}
    for path, counts in pack_groups(groups, settings, partial, report):
        check()
        chunks[Path(path).name.partition("-")[0]].append(counts)
    _check_text(chunks, settings, report)
    return chunks


def check_build(
    directory: str, settings: CorpusSettings, workers: Workers, *, start_over: bool
) -> tuple[Tokenizer, DatasetInfo | None]:
    """What `build_corpus` checks before it reads or writes anything; arguments and errors as there.

    Returns:
      The tokenizer, and the info of the dataset if it was already built.
    """
    workers.check(settings)
    check_utf8(directory, "--out")
    directory = os.path.abspath(directory)
    tokenizer = load_tokenizer(settings.tokenizer)
    recorded = settings.recorded(tokenizer.fingerprint)
    if Path(directory).exists():
        return tokenizer, _existing(directory, recorded)
    _check_sources(settings)
    _check_partial(Path(f"{directory}.partial"), recorded, start_over)
    return tokenizer, None


def _local_workers(num_processes: int) -> PackGroups:
    """Packs with processes of this machine, under a progress bar."""

    def pack_groups(
        groups: Sequence[Group], settings: CorpusSettings, directory: Path, report: ReadReport
    ) -> Iterator[tuple[str, dict[str, Any]]]:
        selector = None
        if settings.choice.needs_limit:
            with waiting("reading scores"):
                selector = make_selector(groups, settings)
        seen = SeenTexts() if settings.deduplicate else None
        jobs = itertools.chain.from_iterable(
            read_jobs(group, settings, directory, report, seen, selector) for group in groups
        )
        with _packing(settings, report) as on_progress:
            yield from run_jobs(jobs, num_processes, on_progress)

    return pack_groups


@contextlib.contextmanager
def _packing(settings: CorpusSettings, report: ReadReport) -> Iterator[Callable[[int], None]]:
    """Context that shows the progress of a build; gives a function of the characters that are tokenised."""
    total = source_bytes(settings.all_sources)
    unit = "B" if total else " characters"
    with make_progress(total or None, "packing", unit=unit, is_scaled=True) as shown:

        def on_progress(characters: int) -> None:
            # Some text is read before it is tokenised: that share of the bytes read is done.
            share = characters / max(1, report.characters)
            done = int(share * report.bytes_read) if total else characters
            # Equal to the total, it would be the last sign of progress.
            shown.update(
                min(done, total - 1) if total else done,
                {"documents read": f"{report.documents - report.copies:,}"},
            )

        yield on_progress
        if total:
            shown.update(total)


def _beam_workers(runner: str, options: Sequence[str]) -> PackGroups:
    """Packs with a Beam runner. Beam is imported here, since nothing else needs it."""
    try:
        from data_pipelines.beam_runner import make_pipeline, run_pipeline
    except ImportError as error:
        raise ImportError(
            f"--runner {runner}: needs Apache Beam, which is not installed ({error}); run "
            f"{install_command('beam')}, in a separate environment"
        ) from error
    pipeline = make_pipeline(runner, options)

    def pack_groups(
        groups: Sequence[Group], settings: CorpusSettings, directory: Path, report: ReadReport
    ) -> list[tuple[str, dict[str, Any]]]:
        with waiting(f"packing with {runner}"):
            return run_pipeline(pipeline, groups, settings, directory, report)

    return pack_groups


def _existing(directory: str, recorded: dict) -> DatasetInfo:
    """The info of the dataset in `directory`, which must have the settings `recorded`."""
    if not (Path(directory) / INFO_FILE).exists():
        raise FileExistsError(
            f"{directory} exists and is not a dataset (no {INFO_FILE}). Choose another --out, or remove it."
        )
    info = load_dataset_info(directory)
    differing = [key for key, value in recorded.items() if getattr(info, key) != value]
    if differing:
        raise FileExistsError(
            f"{directory} holds a dataset with different {', '.join(differing)}. Choose another --out, or "
            "remove it."
        )
    return info


def _check_sources(settings: CorpusSettings) -> None:
    """Raises if a source does not exist, before the first one is read."""
    fields = (settings.score_field,) if settings.score_field else ()
    for sources, wanted in ((settings.train, fields), (settings.validation, ())):
        read_documents(sources, on_invalid_utf8=settings.on_invalid_utf8, fields=wanted)


def _check_text(chunks: dict[str, list[dict]], settings: CorpusSettings, report: ReadReport) -> None:
    """Raises ValueError if a split has no rows."""
    for split, counts in chunks.items():
        if not any(chunk["rows"] for chunk in counts):
            raise settings.no_text(split, report)


def _partial_directory(directory: str, wanted: dict, start_over: bool) -> Path:
    """DIR.partial, where the build works, with the finished files of an interrupted build of the settings
    `wanted`. Errors as of `_check_partial`."""
    partial = Path(f"{directory}.partial")
    if _check_partial(partial, wanted, start_over) and start_over:
        for path in filter(is_made_by_build, partial.iterdir()):
            if path.is_dir():
                shutil.rmtree(path)
            elif path.name != SETTINGS_FILE:  # which shows that the directory is ours, until it is replaced
                path.unlink()
    partial.mkdir(parents=True, exist_ok=True)
    for unfinished in partial.glob(f"*{TEMPORARY_SUFFIX}"):
        unfinished.unlink()
    write_json(partial / SETTINGS_FILE, wanted)
    return partial


def _check_partial(partial: Path, wanted: dict, start_over: bool) -> bool:
    """Whether an interrupted build is in `partial`.

    Raises:
      FileExistsError: it is of a build with other settings and not `start_over`, or something else.
    """
    recorded = _settings_of(partial, wanted)
    if recorded is None:
        return False
    if not start_over and any(partial.glob(f"*{COUNTS_SUFFIX}")):
        differing = [
            f"{key}: it has {recorded.get(key)!r}, you gave {value!r}"
            for key, value in _flat(wanted).items()
            if recorded.get(key, ...) != value
        ]
        if differing:
            raise FileExistsError(
                f"{partial} holds the files of a build with other settings ({'; '.join(differing)}). "
                "Give its settings to resume it, choose another --out, or remove it with --start_over."
            )
    return True


def _settings_of(partial: Path, keys: Iterable[str]) -> dict[str, Any] | None:
    """The settings `keys` of the interrupted build in `partial`, flat; None if nothing is there.

    Raises:
      FileExistsError: something else is there. It is nobody's to remove, --start_over or not.
    """
    if not partial.exists() or (
        partial.is_dir() and all(path.name.endswith(TEMPORARY_SUFFIX) for path in partial.iterdir())
    ):
        return None
    try:
        recorded = read_json(partial / SETTINGS_FILE, {"sources": dict})
        return _flat({key: recorded[key] for key in keys})
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise FileExistsError(
            f"{partial} exists and was not made by this command (no {SETTINGS_FILE} of a build). Choose "
            "another --out, or move it away."
        ) from error


def _flat(settings: dict[str, Any]) -> dict[str, Any]:
    """The settings with those of "sources" among the others, also those that are left out there."""
    others = {key: value for key, value in settings.items() if key != "sources"}
    return NEW_SETTINGS | others | settings["sources"]
