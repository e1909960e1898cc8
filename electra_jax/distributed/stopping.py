"""How a run is told to stop: by SIGTERM, with which clouds and schedulers announce that they take a machine
away, by SIGHUP, when its terminal is closed, or by Ctrl-C."""

import contextlib
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
from jax.experimental import multihost_utils
from tqdm import tqdm

from data_pipelines.command_errors import INTERRUPTED, RESUMES, tell_interrupted
from electra_jax.distributed.signal_watch import SignalWatch

STOPPED = 143  # exit code of a run that saved and can resume: 128 + SIGTERM, which launchers know
# Before the line is printed, the main thread, if it is free, has so long to come to the place where it stops.
SECONDS_TO_LINE = 0.05
# Called, in any thread, before a signal ends the process within `StopNotice.nothing_to_save`.
before_exit: list[Callable[[], None]] = []


class Stopped(SystemExit):
    """The run was told to stop. If nothing catches it, the process exits with code STOPPED."""

    def __init__(self):
        super().__init__(STOPPED)


@contextlib.contextmanager
def leaving_at_once(advice: str = RESUMES) -> Iterator[None]:
    """Context of a command's work: after `Stopped` or Ctrl-C the process exits without clean-up.

    The stop may have interrupted the wait for a compilation. XLA continues to compile in another thread,
    and would crash when the interpreter's clean-up destroys its client. With several processes no handler is
    installed and the others wait for this one to disconnect, so it exits normally.

    Args:
      advice: a sentence for the user after Ctrl-C; "": the command keeps nothing.
    """
    try:
        yield
    except (Stopped, KeyboardInterrupt) as stopped:
        code = INTERRUPTED if isinstance(stopped, KeyboardInterrupt) else STOPPED
        if code == INTERRUPTED:
            tell_interrupted(advice)
        if jax.distributed.is_initialized():
            sys.exit(code)
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


class StopNotice:
    """Whether the run has been told to stop. A context manager, which handles the signals within it.

    One process: SIGTERM, SIGHUP or Ctrl-C; a second Ctrl-C interrupts as usual. Several processes: SIGTERM or
    SIGHUP on any of them. JAX receives it and lets all processes agree on the call of `check` that raises, so
    all processes must make the same calls. SIGHUP stays ignored where it was, as under `nohup`.

    With one process a line is printed as soon as the signal arrives, whatever the main thread is doing; with
    several, once they have agreed.

    Attributes:
      describe: () → that line. Called from another thread.
    """

    def __init__(self):
        self.describe: Callable[[], str] = lambda: "Stopping …"
        self._is_due = self._is_waiting = False
        self._calls = 0
        self._previous: dict[int, Any] = {}
        self._open = contextlib.ExitStack()
        self._unannounced = [True]  # emptied by whichever thread prints the line
        self._with_nothing_to_save: str | None = None

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

    @contextlib.contextmanager
    def nothing_to_save(self, doing: str) -> Iterator[None]:
        """Context for work that cannot be interrupted and of which nothing is worth saving, such as
        "compiling": with one process, a signal ends the process there, with a line and the code STOPPED or
        INTERRUPTED."""
        self._with_nothing_to_save = doing
        try:
            yield
        finally:
            self._with_nothing_to_save = None

    def announce(self) -> None:
        """Print the line, unless it has been printed."""
        with contextlib.suppress(IndexError):
            self._unannounced.pop()
            tqdm.write(self.describe(), file=sys.stderr)  # above a progress bar, if there is one
            sys.stderr.flush()

    def __enter__(self) -> "StopNotice":
        is_alone = not jax.distributed.is_initialized()
        handlers = dict.fromkeys((signal.SIGTERM, signal.SIGINT), self._hear) if is_alone else {}
        if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:
            handlers[signal.SIGHUP] = self._hear if is_alone else _send_sigterm
        self._previous = {number: signal.signal(number, handler) for number, handler in handlers.items()}
        if is_alone:
            self._open.enter_context(SignalWatch(self._hear_at_once))
        return self

    def __exit__(self, *exception) -> None:
        self._open.close()
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _hear_at_once(self, number: int) -> None:
        """Called in another thread; Python calls `_hear` in the main thread, perhaps much later."""
        if number not in self._previous:
            return
        if self._with_nothing_to_save is not None:
            tqdm.write(
                f"Told to stop while {self._with_nothing_to_save}: there is nothing new to save. The same "
                "command starts from there again.",
                file=sys.stderr,
            )
            for call in before_exit:
                with contextlib.suppress(Exception):
                    call()
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(INTERRUPTED if number == signal.SIGINT else STOPPED)
        time.sleep(SECONDS_TO_LINE)
        self.announce()

    def _hear(self, number: int, frame: object) -> None:
        self._is_due = True
        if number == signal.SIGINT:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        if self._is_waiting:
            self._is_waiting = False  # once, so that a second signal does not interrupt the clean-up
            raise Stopped


def _send_sigterm(number: int, frame: object) -> None:
    """Tell this process what JAX hears, so that all processes agree on the step."""
    os.kill(os.getpid(), signal.SIGTERM)
