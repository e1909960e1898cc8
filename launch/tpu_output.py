"""What the launcher prints, to a terminal that may be closed, a pipe whose reader may go, or a full disk.

`babysit` watches a run for days: what cannot be shown is dropped, and it continues. This file needs nothing
but Python, as the whole launcher does.
"""

import contextlib
import errno
import os
import sys

GONE = (errno.EPIPE, errno.EIO, errno.EBADF)  # nothing will be shown again


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
        if error.errno in GONE:
            _forget(stream)


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
