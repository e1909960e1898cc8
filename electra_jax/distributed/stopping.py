"""How a run is told to stop: SIGTERM, by which clouds and schedulers announce the end of a machine, or
Ctrl-C."""

import contextlib
import os
import signal
import sys
from collections.abc import Iterator

import jax
from jax.experimental import multihost_utils

STOPPED = 143  # exit code of a run that saved and can go on: 128 + SIGTERM, as launchers know it
INTERRUPTED = 130  # by Ctrl-C, where nothing is saved that was not before: 128 + SIGINT


class Stopped(SystemExit):
    """The run was told to stop. Where nothing else is done about it the process ends with STOPPED."""

    def __init__(self):
        super().__init__(STOPPED)


@contextlib.contextmanager
def leaving_at_once() -> Iterator[None]:
    """Context of a command: when a run in it was told to stop and is saved, the process ends without
    clean-up; so it does after Ctrl-C, where a command keeps what is finished and the next one goes on with
    the rest.

    A notice may have broken off the wait for a compilation. XLA goes on with it in a thread of its own, and
    crashes when the interpreter's clean-up takes its client away. One of several processes hears no notice
    there, and the others wait for it to say goodbye: it ends as ever.
    """
    try:
        yield
    except (Stopped, KeyboardInterrupt) as stopped:
        if jax.distributed.is_initialized():
            raise
        was_interrupted = isinstance(stopped, KeyboardInterrupt)
        if was_interrupted:
            print("\nInterrupted. The same command goes on with what is missing.", file=sys.stderr)
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(INTERRUPTED if was_interrupted else STOPPED)


class StopNotice:
    """Whether the run shall stop; a context manager, which takes over the two signals within it.

    Of one process: SIGTERM or Ctrl-C, of which a second one interrupts as ever. Of several: SIGTERM, on any
    of them, which JAX hears and agrees on, so that `check` raises in the same call on all, whose calls must
    therefore be the same.
    """

    def __init__(self):
        self._is_due = self._is_waiting = False
        self._calls = 0
        self._previous = {}

    def check(self) -> None:
        """Raises Stopped when the run shall stop. Costs nothing on the devices; to be called between their
        steps."""
        self._calls += 1
        if self._is_due or multihost_utils.reached_preemption_sync_point(self._calls):
            raise Stopped

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """Context for what may take long on the host: of one process, a notice raises Stopped in the midst of
        it."""
        self._is_waiting = True
        try:
            if self._is_due:
                raise Stopped
            yield
        finally:
            self._is_waiting = False

    def __enter__(self) -> "StopNotice":
        if not jax.distributed.is_initialized():
            self._previous = {
                number: signal.signal(number, self._hear) for number in (signal.SIGTERM, signal.SIGINT)
            }
        return self

    def __exit__(self, *exception) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _hear(self, number: int, frame: object) -> None:
        self._is_due = True
        if number == signal.SIGINT:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        if self._is_waiting:
            self._is_waiting = False  # once: what cleans up after it must not be broken off in turn
            raise Stopped
