"""Files and directories that exist complete or not at all: written under a temporary name, then renamed."""

import contextlib
import os
import re
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path

from data_pipelines.process_ends import signals_as_exit

TEMPORARY_SUFFIX = ".tmp"


@contextlib.contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """Context that gives a temporary path to write to; it is renamed to `path` unless an error is raised.

    Every call has its own temporary name, so two processes may write the same file; the last one wins. A
    process that is killed leaves a file that ends in TEMPORARY_SUFFIX; large ones are written within
    `signals_as_exit` (data_pipelines/process_ends.py).
    """
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}{TEMPORARY_SUFFIX}")
    try:
        with named_errors(path):
            yield temporary
            os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def unfinished_directory(path: Path) -> Iterator[Path]:
    """Context with the path of a directory to make and to rename to `path`. It is in a hidden one beside
    `path`, which is removed on exit, also after SIGTERM or SIGHUP.

    For commands that are one process and handle no signals themselves: see `signals_as_exit`.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with (
        signals_as_exit(),
        tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as temporary,
    ):
        yield Path(temporary, path.name)


@contextlib.contextmanager
def named_errors(path: Path) -> Iterator[None]:
    """Context that adds `path` to an OSError without a path, as writing to an open file raises it."""
    try:
        yield
    except OSError as error:
        if error.filename is None and error.errno is not None and error.strerror:
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise


def write_text(path: Path, text: str) -> None:
    """Write `text` as UTF-8 with Unix line ends; see `printable`."""
    with written_whole(path) as temporary:
        temporary.write_text(printable(text), encoding="utf-8", newline="\n")


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file in one go."""
    with written_whole(path) as temporary:
        temporary.write_bytes(data)


def printable(text: str) -> str:
    """`text` with U+FFFD for each half of a surrogate pair, which no encoding takes. Python reads bytes of
    a file's name that are not UTF-8 as such."""
    return re.sub("[\ud800-\udfff]", "\ufffd", text)


def check_utf8(path: str, flag: str) -> None:
    """Raises ValueError if the absolute path of a dataset or an export is not UTF-8: ArrayRecord and
    `tokenizers` take no other bytes."""
    absolute = os.path.abspath(path)
    if printable(absolute) != absolute:
        raise ValueError(
            f"{flag}: got {printable(absolute)!r}, whose name is not UTF-8, expected one that is: libraries "
            "that read and write these files take no other. Rename the directory, or choose another."
        )
