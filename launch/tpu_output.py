"""What the launcher prints, to a terminal that may be closed, a pipe whose reader may go, or a full disk.

`babysit` watches a run for days: what cannot be shown is dropped, and it continues. A result that was dropped
is told and decides the exit code. This file needs nothing but Python, as the whole launcher does.
"""

import contextlib
import errno
import os
import sys

GONE = (errno.EPIPE, errno.EIO, errno.EBADF)  # nothing will be shown again
CLOSED_PIPE = 141  # exit code where the reader of the result has gone (`| head`), as of the other commands
_lost: list[OSError] = []  # why results were not shown


def open_closed_streams() -> None:
    """Open the standard streams that are closed on /dev/null. The next files would get their descriptors."""
    for descriptor, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(descriptor)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # the lowest number that is free
            mode = "w" if descriptor else "r"
            setattr(sys, name, open(descriptor, mode, encoding="utf-8", closefd=False))  # noqa: SIM115


def show(text: str, *, is_result: bool = False) -> None:
    """Print a line: progress on standard error, a result on standard output."""
    stream = sys.stdout if is_result else sys.stderr
    try:
        print(text, file=stream, flush=True)
    except OSError as error:
        if is_result:
            _lost.append(error)
        if error.errno in GONE:
            _forget(stream)


def exit_code(code: int) -> int:
    """The exit code of a command that ended with `code`: another one than 0 if a result was not shown."""
    if code or not _lost:
        return code
    if isinstance(_lost[0], BrokenPipeError):
        return CLOSED_PIPE
    show(
        f"error: standard output could not be written: {_lost[0].strerror}. The result is lost: free space, "
        "or send it elsewhere, and give the command again."
    )
    return 1


def finish() -> None:
    """Call this last: what is still not shown is dropped, so that it does not decide the exit code."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            _forget(stream)


def _forget(stream) -> None:
    """Lead a stream, and that of programs started from now on, to nowhere."""
    descriptor = os.open(os.devnull, os.O_WRONLY)
    os.dup2(descriptor, stream.fileno())
    os.close(descriptor)
    with contextlib.suppress(OSError):
        stream.flush()
