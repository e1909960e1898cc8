"""Trackers in threads of their own, so that no network holds up or ends a run."""

import queue
import sys
import threading
import time
from collections.abc import Mapping, Sequence

from electra_jax.training.trackers.choose import find_trackers
from electra_jax.training.trackers.interface import TrackedRun, TrackerFactory

CLOSE_SECONDS = 10.0  # that all trackers together have to finish when a run ends or is stopped
MAX_ROWS = 100_000  # that may wait for one that hangs

Row = tuple[int, Mapping[str, float]]


class BackgroundTracker:
    """A tracker that gets its rows in a thread of its own. If it raises, it is given up with a warning."""

    def __init__(self, name: str, make: TrackerFactory, run: TrackedRun):
        self._name, self._make, self._run = name, make, run
        self._rows: queue.Queue[Row | None] = queue.Queue(MAX_ROWS)
        self._is_given_up = False
        # A daemon: the process does not wait at its end for one that hangs.
        self._thread = threading.Thread(target=self._work, name=f"tracker {name}", daemon=True)
        self._thread.start()

    def write(self, step: int, scalars: Mapping[str, float]) -> None:
        """Hand over a row; returns at once and raises nothing."""
        self._put((step, dict(scalars)))

    def finish(self) -> None:
        """No row follows."""
        self._put(None)

    def wait(self, deadline: float) -> None:
        """Wait until it is closed, at most until `deadline` on the monotonic clock."""
        self._thread.join(max(0.0, deadline - time.monotonic()))
        if self._thread.is_alive():
            self._give_up("it did not finish in time, and its last rows may be missing")

    def _work(self) -> None:
        try:
            tracker = self._make(self._run)
            while (row := self._rows.get()) is not None:
                tracker.write(*row)
            tracker.close()
        except (Exception, SystemExit) as error:
            self._give_up(f"{type(error).__name__}: {error}")

    def _put(self, row: Row | None) -> None:
        if not self._is_given_up:
            try:
                self._rows.put_nowait(row)
            except queue.Full:
                self._give_up(f"it hangs, and {MAX_ROWS:,} rows wait for it")

    def _give_up(self, reason: str) -> None:
        if not self._is_given_up:
            self._is_given_up = True
            print(
                f"WARNING: tracker {self._name} gets no more rows: {reason}. Training is not affected, and "
                "metrics.jsonl has every row.",
                file=sys.stderr,
            )


def open_trackers(names: str | Sequence[str], run: TrackedRun) -> list[BackgroundTracker]:
    """Start the trackers of config.log.trackers. Raises as `find_trackers`."""
    return [BackgroundTracker(name, make, run) for name, make in find_trackers(names).items()]


def close_trackers(trackers: Sequence[BackgroundTracker]) -> None:
    """Let them finish, for CLOSE_SECONDS at most."""
    deadline = time.monotonic() + CLOSE_SECONDS
    for tracker in trackers:
        tracker.finish()
    for tracker in trackers:
        tracker.wait(deadline)
