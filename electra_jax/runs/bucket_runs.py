"""Run directories in buckets. A run works on a local copy of its small files, which grow by appending as no
object can; changed files are uploaded whole. Checkpoints go their own way (bucket_checkpoints.py).

In the copy, BUCKET_FILE holds the URL: `checkpoint_place` reads it.
"""

import atexit
import contextlib
import functools
import os
from collections.abc import Callable, Iterator
from pathlib import Path

from data_pipelines.buckets import (
    bucket_url,
    check_writable,
    download,
    is_bucket,
    local_files,
    sizes_under,
    upload,
)
from data_pipelines.directory_lock import LOCK_FILE, only_maker
from data_pipelines.whole_files import TEMPORARY_SUFFIX
from electra_jax.distributed.processes import is_main_process
from electra_jax.runs.only_writer import Check, only_writer
from electra_jax.runs.result_places import PRETRAINING
from electra_jax.runs.temporary_directories import temporary_directory

BUCKET_FILE = ".bucket"
CHECKPOINTS = "checkpoints"
NOT_COPIED = (BUCKET_FILE, LOCK_FILE)  # what is here and what is there has one meaning each
# Directories that commands read: of a run, of a fine-tuning, of an export of two models. All others are only
# written (trackers' files, plots, predictions) or go their own way (checkpoints).
READ_BACK = ("tokenizer", "probe", "sample", "incidents", "models", "discriminator", "generator")


def bucket_of(workdir: Path) -> str | None:
    """The URL that the files of this local copy belong to; None for a directory that is no copy."""
    path = workdir / BUCKET_FILE
    return path.read_text(encoding="utf-8") if path.is_file() else None


def checkpoint_place(workdir: Path) -> str:
    """Where a run's checkpoints are: a local directory or a URL."""
    url = bucket_of(workdir)
    return str(workdir / CHECKPOINTS) if url is None else f"{url}/{CHECKPOINTS}"


@functools.cache
def local_directory(place: str, *, may_be_empty: bool = False) -> Path:
    """The directory of a run, a fine-tuned model or a Hugging Face model to read: `place` itself, or, of a
    URL, a local copy of its files without checkpoints, for as long as this process lives.

    Raises:
      FileNotFoundError: nothing lies under the URL. OSError: it cannot be read.
    """
    if not is_bucket(place):
        return Path(place)
    url, lifetime = bucket_url(place), contextlib.ExitStack()
    atexit.register(lifetime.close)
    directory = _below(lifetime.enter_context(temporary_directory()), url)
    if not _pull(url, directory) and not may_be_empty:
        raise FileNotFoundError(f"{url}: there is no such directory in the bucket, or it is empty.")
    return directory


class RunDirectory:
    """The local directory in which a run works, and how its files reach the bucket.

    Attributes:
      check_writer: to call before each write, see `only_writer`.
    """

    def __init__(self, path: Path, url: str | None, check_writer: Check, *, is_writer: bool = True):
        self.path, self.name, self.check_writer = path, url or str(path), check_writer
        self._url = url if is_writer else None
        self._uploaded = self._state() if self._url else {}

    def publish(self, *reopen: Callable[[], None]) -> None:
        """Upload the files that have changed since the last call; of a run outside buckets only check that
        nobody else writes it.

        Args:
          reopen: functions that close files and open them again, which brings them to a mounted bucket.

        Raises:
          LostError: another process writes the run now.
          OSError: the bucket, or one of those files, cannot be written.
        """
        self.check_writer()
        for function in reopen:
            function()
        if self._url is None:
            return
        state = self._state()
        changed = [name for name, stamp in state.items() if self._uploaded.get(name) != stamp]
        upload(self.path, changed, self._url)
        self._uploaded = state

    def _state(self) -> dict[str, tuple[int, int]]:
        """Name → size and time of the last change, of the files that belong into the bucket."""
        stats = {name: (self.path / name).stat() for name in local_files(self.path, _belongs_into_bucket)}
        return {name: (stat.st_size, stat.st_mtime_ns) for name, stat in stats.items()}


@contextlib.contextmanager
def opened_run(place: str | os.PathLike) -> Iterator[RunDirectory]:
    """Context of a command that writes the run at `place`, a local directory or a URL; no other process may
    write it meanwhile. On exit, after an error too, the files that have changed are uploaded, by the main
    process.

    Raises:
      HeldError: another process writes the run.
      OSError: the bucket cannot be read or written; nothing has been written then.
    """
    if not is_bucket(place):
        with only_writer(place, PRETRAINING) as check:
            yield RunDirectory(Path(place), None, check)
        return
    url = bucket_url(place)
    check_writable(url)
    with only_writer(url, PRETRAINING) as check, temporary_directory() as temporary:
        directory = _below(temporary, url)
        _pull(url, directory)
        run = RunDirectory(directory, url, check, is_writer=is_main_process())
        try:
            yield run
        except BaseException:
            with contextlib.suppress(OSError):  # the first error tells more
                run.publish()
            raise
        run.publish()


@contextlib.contextmanager
def published(place: str | os.PathLike) -> Iterator[Path]:
    """Context with the path of a new local directory, or, of a URL, a temporary one that is uploaded on exit
    unless an error is raised: config.json files last, so that no part of a model passes for all of it.

    Raises:
      FileExistsError: something lies under the URL. OSError: the bucket cannot be written.
    """
    if not is_bucket(place):
        with only_maker(place):
            yield Path(place)
        return
    url = bucket_url(place)
    check_writable(url)
    with only_maker(url) as check, temporary_directory() as temporary:
        if sizes_under(url):
            raise FileExistsError(f"{url} exists. Choose another --out, or remove it.")
        directory = _below(temporary, url)
        directory.rmdir()
        yield directory
        check()
        is_last: Callable[[str], bool] = lambda name: Path(name).name == "config.json"
        upload(directory, local_files(directory, lambda name: not is_last(name)), url)
        upload(directory, local_files(directory, is_last), url)


def _below(temporary: Path, url: str) -> Path:
    """A new directory whose path, which errors show, ends in that of the URL."""
    directory = temporary.joinpath(*filter(None, url.replace("://", "/").split("/")))
    directory.mkdir(parents=True)
    return directory


def _pull(url: str, directory: Path) -> bool:
    """Copy the files that commands read; returns whether anything lies under the URL."""
    found = sizes_under(url)
    names = [name for name in found if "/" not in name or name.split("/")[0] in READ_BACK]
    download(url, [name for name in names if name not in NOT_COPIED], directory)
    (directory / BUCKET_FILE).write_text(url, encoding="utf-8")
    return bool(found)


def _belongs_into_bucket(name: str) -> bool:
    return not (name in NOT_COPIED or name.startswith(f"{CHECKPOINTS}/") or name.endswith(TEMPORARY_SUFFIX))
