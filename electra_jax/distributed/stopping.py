"""How a run is told to stop: by SIGTERM, with which clouds and schedulers announce that they take a machine
away, or by Ctrl-C."""

import contextlib
import os
import signal
import sys
from collections.abc import Iterator

import jax
from jax.experimental import multihost_utils

STOPPED = 143  # exit code of a run that saved and can resume: 128 + SIGTERM, which launchers know
INTERRUPTED = 130  # exit code after Ctrl-C in a command that saves only finished parts: 128 + SIGINT


class Stopped(SystemExit):
    """The run was told to stop. If nothing catches it, the process exits with code STOPPED."""

    def __init__(self):
        super().__init__(STOPPED)


@contextlib.contextmanager
def leaving_at_once(advice: str = "Run the same command again to resume.") -> Iterator[None]:
    """Context of a command's work: after `Stopped` or Ctrl-C the process exits without clean-up.

    The stop may have interrupted the wait for a compilation. XLA continues to compile in another thread,
    and would crash when the interpreter's clean-up destroys its client. With several processes no handler is
    installed and the others wait for this one to disconnect, so it exits normally.

    Args:
      advice: a sentence for the user after Ctrl-C.
    """
    try:
        yield
    except (Stopped, KeyboardInterrupt) as stopped:
        if jax.distributed.is_initialized():
            raise
        was_interrupted = isinstance(stopped, KeyboardInterrupt)
        if was_interrupted:
            print(f"\nInterrupted. {advice}", file=sys.stderr)
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(INTERRUPTED if was_interrupted else STOPPED)


class StopNotice:
    """Whether the run has been told to stop. A context manager, which handles the two signals within it.

    One process: SIGTERM or Ctrl-C; a second Ctrl-C interrupts as usual. Several processes: SIGTERM on any of
    them. JAX receives it and lets all processes agree on the call of `check` that raises, so all processes
    must make the same calls.
    """

    def __init__(self):
        self._is_due = self._is_waiting = False
        self._calls = 0
        self._previous = {}

    def check(self) -> None:
        """Raise Stopped if the run has been told to stop. Costs nothing on the devices; call it between
        steps."""
        self._calls += 1
        if self._is_due or multihost_utils.reached_preemption_sync_point(self._calls):
            raise Stopped

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """Context for work that may take long on the host: with one process, a signal raises Stopped inside
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
            self._is_waiting = False  # once, so that a second signal does not interrupt the clean-up
            raise Stopped
