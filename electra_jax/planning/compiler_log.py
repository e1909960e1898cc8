"""Keep what compilers write to the terminal in a file."""

import contextlib
import io
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import jax

from data_pipelines.standard_streams import forgiving_stream

STDERR = 2


@contextlib.contextmanager
def compiler_messages_in_a_file() -> Iterator[Path]:
    """Context in which the messages of XLA and libtpu go to a file, and those of Python stay on the terminal.

    The compilers write to the process's file descriptor. The file is removed, unless a compiler fails.

    Yields:
      The file.

    Raises:
      ValueError: a compiler failed; the message names the file.
    """
    descriptor, name = tempfile.mkstemp(prefix="electra_jax_compiler_", suffix=".log")
    path = Path(name)
    with contextlib.ExitStack() as stack:
        terminal = os.dup(STDERR)
        stack.callback(os.close, terminal)
        stack.enter_context(_python_writes_to(terminal))
        os.dup2(descriptor, STDERR)
        os.close(descriptor)
        stack.callback(os.dup2, terminal, STDERR)
        try:
            yield path
        except jax.errors.JaxRuntimeError as error:
            raise ValueError(
                f"the compiler failed: {str(error).splitlines()[0]} Its messages are in {path}."
            ) from error
        except BaseException:  # no compiler failed, so nobody needs its messages
            path.unlink()
            raise
    path.unlink()


@contextlib.contextmanager
def _python_writes_to(terminal: int) -> Iterator[None]:
    """Context in which `sys.stderr` writes to `terminal`, if it wrote to the process's descriptor before."""
    before = sys.stderr
    try:
        is_own = before.fileno() != STDERR
    except (AttributeError, io.UnsupportedOperation):  # of notebooks and tests
        is_own = True
    if is_own:
        yield
        return
    before.flush()
    with forgiving_stream(terminal, before) as stream:
        sys.stderr = stream
        try:
            yield
        finally:
            sys.stderr = before
