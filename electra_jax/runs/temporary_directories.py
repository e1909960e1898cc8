"""Temporary directories, for copies of what is in buckets and for compiled programs. A process that is killed
leaves its own, perhaps with checkpoints in it; the next process removes it."""

import contextlib
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

PREFIX = "electra_jax-process-"
LOCK_FILE = ".lock"


@contextlib.contextmanager
def temporary_directory() -> Iterator[Path]:
    """Context with the path of a new directory. It is removed on exit, and so are those whose process has
    ended without doing so: the system releases a lock on a file when its process ends in any way."""
    _remove_abandoned(Path(tempfile.gettempdir()))
    with (
        tempfile.TemporaryDirectory(prefix=PREFIX, ignore_cleanup_errors=True) as directory,
        open(Path(directory, "new"), "xb") as file,
    ):
        with contextlib.suppress(OSError):  # a file system without locks: then nobody else removes it
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.rename(file.name, Path(directory, LOCK_FILE))  # not before it is locked
        yield Path(directory)


def _remove_abandoned(parent: Path) -> None:
    for directory in parent.glob(f"{PREFIX}*"):
        # Errors: it is locked, or being removed.
        with contextlib.suppress(OSError), open(directory / LOCK_FILE, "r+b") as file:
            if directory.lstat().st_uid != os.getuid():
                continue  # another user's
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(directory, ignore_errors=True)
