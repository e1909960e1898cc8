"""Worker processes of this machine, and how they end: after their work, with Ctrl-C, when one is killed."""

import contextlib
import multiprocessing
import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool, ProcessPoolExecutor
from typing import Any

Submit = Callable[..., Future]  # of a function and its arguments


@contextlib.contextmanager
def worker_processes(
    number: int, initializer: Callable[..., None], initargs: Sequence[Any] = (), kept: str = ""
) -> Iterator[Submit]:
    """Context with a function that lets one of some processes do work. If the context is left early, by
    Ctrl-C for example, they end at once, in the middle of their work; after an error they finish what they
    have begun.

    Args:
      initializer: called in each process with `initargs`.
      kept: what the error about a killed process says of finished work.

    Raises:
      OSError: a process was killed.
    """
    context = multiprocessing.get_context("spawn")
    others = multiprocessing.active_children()
    # An executor notices if the system kills one of its processes; multiprocessing.Pool would wait forever.
    pool = ProcessPoolExecutor(number, context, initializer=initializer, initargs=tuple(initargs))

    def submit(*work: Any) -> Future:
        with _ctrl_c_waits():  # this may start a process
            return pool.submit(*work)

    try:
        yield submit
    except BrokenProcessPool as error:
        raise OSError(
            f"one of {number} processes was killed, probably because memory ran out. Run the same command "
            f"again with a smaller --num_processes{kept}."
        ) from error
    except (KeyboardInterrupt, SystemExit, GeneratorExit):
        for process in multiprocessing.active_children():
            if process not in others:
                process.terminate()
        raise
    finally:
        pool.shutdown(cancel_futures=True)


@contextlib.contextmanager
def _ctrl_c_waits() -> Iterator[None]:
    """Context in which this thread does not receive SIGINT, but after it. A process that is started here
    never receives it: a terminal sends it to all processes of a command, and the first one ends the others.
    Ignoring it when the process has started is too late, since imports come before."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
