"""The terminal of every command: any text can be printed; an error is a message on stderr and exit code 1."""

import codecs
import contextlib
import errno
import os
import select
import sys
import zipfile
from collections.abc import Iterator, Sequence
from typing import NoReturn

from data_pipelines.standard_streams import drop_what_cannot_be_shown, lost_output

PREFIX = "error: "
# What a person can act on: wrong settings, missing or damaged files, packages that are not installed, numbers
# that are not finite, too little memory. Anything else is a fault of the program and keeps its traceback.
EXPECTED = (ValueError, OSError, ImportError, FloatingPointError, MemoryError, zipfile.BadZipFile)
FULL = "Free space or raise the quota, and run the same command again."
# The system's number of an error → what a person can do about it.
ADVICE = {
    errno.EACCES: "Give this user the right to read and write it, or choose another place.",
    errno.EPERM: "Give this user the right to change it, or choose another place.",
    errno.EROFS: "Choose a place that can be written.",
    errno.ENOENT: "Restore it, or correct the path.",
    errno.EISDIR: "Remove the directory or move it away: a file is expected there.",
    errno.ENOTDIR: "Remove the file or move it away, or correct the path: a directory is expected there.",
    errno.EEXIST: "Remove it or move it away: something else is expected there.",
    errno.ENOTEMPTY: "Remove it or move it away: something else is expected there.",
    errno.ENOSPC: FULL,
    errno.EDQUOT: FULL,
    errno.EFBIG: "Raise the limit of the size of files (`ulimit -f`), and run the same command again.",
    errno.EMFILE: "Raise the limit of open files (`ulimit -n`), and run the same command again.",
    errno.ELOOP: "Remove the link that leads to itself.",
    errno.ENAMETOOLONG: "Choose a shorter path.",
}
# How the error of `tempfile` begins that has the number of a missing file.
NO_TEMPORARY = "No usable temporary directory"
SET_TMPDIR = "Set TMPDIR to a directory that can be written."
CLOSED_PIPE = 141  # exit code when the reader of the output has gone: 128 + SIGPIPE
INTERRUPTED = 130  # exit code after Ctrl-C: 128 + SIGINT
RESUMES = "Run the same command again to resume."
ESCAPE = "escape_what_the_terminal_lacks"  # the name of `_escape` among the error handlers of encodings


@contextlib.contextmanager
def errors_on_the_terminal(*, saves_result: bool = False) -> Iterator[None]:
    """Context or decorator of a command's work: of an EXPECTED error only the message is shown. Ctrl-C ends
    it with a line and exit code INTERRUPTED; see also `resumable`.

    Terminals and log files take any text from then on, see `accept_any_text`. Text that cannot be shown is
    dropped and never ends the work.

    Args:
      saves_result: the result is in files, so that it is no failure if its summary on standard output was
        lost. Otherwise the exit code is then CLOSED_PIPE where the reader has gone (`| head`), and 1
        elsewhere.
    """
    accept_any_text()
    try:
        yield
        error = None if saves_result else lost_output()
        if error is not None and not isinstance(error, BrokenPipeError):
            raise OSError(f"standard output could not be written: {error}") from error
    except KeyboardInterrupt:
        exit_interrupted()
    except EXPECTED as error:
        if isinstance(error, BrokenPipeError) and _reader_has_gone():
            sys.exit(CLOSED_PIPE)
        sys.exit(error_message(error))
    if error is not None:
        sys.exit(CLOSED_PIPE)


@contextlib.contextmanager
def resumable() -> Iterator[None]:
    """Context of the part of a command's work that the same command resumes: the line of Ctrl-C says so."""
    try:
        yield
    except KeyboardInterrupt:
        exit_interrupted(RESUMES)


def exit_interrupted(advice: str = "") -> NoReturn:
    """End after Ctrl-C, with a line and exit code INTERRUPTED. `advice`: a sentence for the user."""
    tell_interrupted(advice)
    sys.exit(INTERRUPTED)


def tell_interrupted(advice: str) -> None:
    """Print that Ctrl-C ended the command; in a new line, since a terminal shows ^C, perhaps after a bar."""
    print(f"\nInterrupted. {advice}".rstrip(), file=sys.stderr)


def error_message(error: Exception) -> str:
    """What a command prints of an EXPECTED error."""
    return PREFIX + error_text(error)


def error_text(error: Exception) -> str:
    """An EXPECTED error in words. The system's own ones begin with the file's name, and tell what to do."""
    advice = ADVICE.get(error.errno) if isinstance(error, OSError) else None
    if advice is None or error.strerror is None:
        return str(error) or "memory ran out"
    if error.strerror.startswith(NO_TEMPORARY):
        return f"{error.strerror}. {SET_TMPDIR}"
    path = error.filename2 or error.filename  # of a renaming the new name, since the old one is temporary
    place = "" if path is None else f"{os.fsdecode(path) if isinstance(path, bytes) else path}: "
    return f"{place}{error.strerror}. {advice}"


def _reader_has_gone() -> bool:
    """Whether standard output is a pipe that nobody reads."""
    pipe = select.poll()
    pipe.register(sys.stdout, 0)
    return any(event & select.POLLERR for _, event in pipe.poll(0))


def accept_any_text() -> None:
    """Let stdout and stderr take any text: characters that their encoding lacks are printed as \\u2581.

    Batch systems and containers often have the locale POSIX, whose encoding is ASCII. Help, messages and
    progress bars must not end a command there, nor where nobody can see them
    (`drop_what_cannot_be_shown`).
    """
    drop_what_cannot_be_shown()
    codecs.register_error(ESCAPE, _escape)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # which streams of notebooks lack
            stream.reconfigure(errors=ESCAPE)


def _escape(error: UnicodeError) -> tuple[bytes, int]:
    """The bytes of a file's name as they are on disk, escapes for other characters."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    encoded = (
        character.encode(
            "ascii", "surrogateescape" if "\udc80" <= character <= "\udcff" else "backslashreplace"
        )
        for character in error.object[error.start : error.end]
    )
    return b"".join(encoded), error.end


def shorten(items: Sequence[str], max_shown: int = 4, separator: str = ", ") -> str:
    """The first items as text, and how many more there are."""
    rest = [f"… and {len(items) - max_shown} more"] if len(items) > max_shown else []
    return separator.join([*items[:max_shown], *rest])
