"""Standard input, output and error of a command, whatever they are connected to.

A terminal that was closed, a pipe whose reader has gone, a log file on a full disk: what cannot be shown is
dropped, and the work of the command continues. This module imports nothing but the standard library, since
the packages call `open_closed_streams` before all else.
"""

import contextlib
import io
import os
import sys
from typing import BinaryIO

NAMES = ("stdin", "stdout", "stderr")  # by descriptor
_closed: set[int] = set()  # descriptors that the process was started without


class ForgivingFile(io.FileIO):
    """The file of a descriptor, to write to: what it does not take is dropped.

    Attributes:
      lost: the first error, None if all was written.
    """

    def __init__(self, descriptor: int):
        super().__init__(descriptor, "w", closefd=False)
        self.lost: OSError | None = None

    def write(self, data) -> int:
        size = memoryview(data).nbytes
        try:
            written = super().write(data)
        except OSError as error:
            self.lost = self.lost or error
            return size
        return size if written is None else written  # None: a pipe that does not wait, and is full


def open_closed_streams() -> None:
    """Open the standard streams that are closed (`>&- 2>&-`) on /dev/null.

    Without this, the next files that are opened, perhaps a checkpoint or metrics.jsonl, would get the
    descriptors 1 and 2, to which libraries print their messages.
    """
    for descriptor, name in enumerate(NAMES):
        try:
            os.fstat(descriptor)
        except OSError:
            _closed.add(descriptor)
            opened = os.open(os.devnull, os.O_RDWR)
            os.dup2(opened, descriptor)  # also where they are equal: child processes inherit it then
            os.set_inheritable(descriptor, True)
            if opened != descriptor:
                os.close(opened)
        if getattr(sys, name) is None:
            mode = "w" if descriptor else "r"
            stream = open(descriptor, mode, encoding="utf-8", closefd=False)  # noqa: SIM115 for good
            setattr(sys, name, stream)


def drop_what_cannot_be_shown() -> None:
    """From now on no error comes from writing to `sys.stdout` and `sys.stderr`. Streams of notebooks and
    tests stay as they are."""
    for descriptor, name in enumerate(NAMES[1:], start=1):
        stream = getattr(sys, name)
        file = _file_of(stream)
        if type(stream) is io.TextIOWrapper and type(file) is io.FileIO and file.fileno() == descriptor:
            _flush(stream)
            setattr(sys, name, forgiving_stream(descriptor, stream))


def forgiving_stream(descriptor: int, like: io.TextIOWrapper) -> io.TextIOWrapper:
    """Text for a descriptor, in the encoding and with the buffering of another stream; see
    `ForgivingFile`."""
    file = ForgivingFile(descriptor)
    return io.TextIOWrapper(
        file if like.write_through else io.BufferedWriter(file),
        encoding=like.encoding,
        errors=like.errors,
        line_buffering=like.line_buffering,
        write_through=like.write_through,
    )


def lost_output() -> OSError | None:
    """Why something that was printed on standard output has not been shown; None if all was."""
    _flush(sys.stdout)
    file = _file_of(sys.stdout)
    return file.lost if isinstance(file, ForgivingFile) else None


def result_stream() -> BinaryIO:
    """Standard output for a command whose result it is: errors are raised.

    Raises:
      ValueError: the process was started without a standard output.
    """
    if 1 in _closed:
        raise ValueError("standard output is closed: expected a file or a pipe for the result.")
    file = _file_of(sys.stdout)
    return open(file.fileno(), "wb", closefd=False) if isinstance(file, ForgivingFile) else sys.stdout.buffer


def _file_of(stream: object) -> object:
    """What is below the buffers of a stream; None for a stream without any."""
    buffer = getattr(stream, "buffer", None)
    return getattr(buffer, "raw", buffer)


def _flush(stream: io.TextIOWrapper) -> None:
    with contextlib.suppress(OSError):  # of a stream that does not drop, such as a notebook's
        stream.flush()
