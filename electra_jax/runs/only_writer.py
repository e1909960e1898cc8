"""One writer of a run directory at a time; of a run of several processes only process 0 holds the lock."""

import contextlib
import os
import sys
import time
from collections.abc import Callable, Iterator

import jax

from data_pipelines.directory_lock import Lock, lock_of_contents
from data_pipelines.lock_holders import LEASE_SECONDS, SECONDS_BETWEEN_ATTEMPTS, HeldError, Holder
from electra_jax.distributed.processes import exchange, is_main_process
from electra_jax.distributed.stopping import before_exit
from electra_jax.runs.result_places import Results, check_result_places

Check = Callable[[], None]


@contextlib.contextmanager
def only_writer(place: str | os.PathLike, results: Results) -> Iterator[Check]:
    """Context in which no other command writes the run or fine-tuning in `place`, a directory or its URL.
    All processes of a run enter it together, before they read or write anything there. `results`: what the
    command writes there in the end.

    Gives a function to call before each write; on all processes but the first it does nothing. It raises
    LostError if another process has taken the lock over, while this one gave no sign of life.

    Raises:
      HeldError: another process writes the directory.
      OSError: the lock cannot be written, or something is in the way of results (`check_result_places`).
    """
    check_result_places(place, results)
    if not jax.distributed.is_initialized():
        with lock_of_contents(place) as lock:
            before_exit.append(lock.release)  # otherwise a start on another host would wait
            try:
                yield lock.check
            finally:
                before_exit.remove(lock.release)
        return
    lock = lock_of_contents(place) if is_main_process() else None
    try:
        _acquire_together(lock)
        yield lock.check if lock else lambda: None
    finally:
        if lock:
            lock.release()


def describe_writer(place: str | os.PathLike) -> str:
    """A sentence about the process that writes the run in `place`, a directory or its URL, at present; ""
    without one. All processes must call this, and get the same answer."""
    told = ""
    if is_main_process():  # which would take the lock: its host decides whether a start waits
        with contextlib.suppress(OSError):  # it cannot be read: another check tells that
            holder = lock_of_contents(place).holder()
            told = "" if holder is None else _told_of(holder)
    return exchange(told)[0]


def _told_of(holder: Holder) -> str:
    if holder.is_here:
        return f"another process writes it: {holder.describe()}; a start is refused until that one ends"
    return (
        f"locked by {holder.describe()}; a start waits up to {LEASE_SECONDS:.0f} seconds for a sign of life "
        "from there"
    )


def _acquire_together(lock: Lock | None) -> None:
    """Let process 0 take its `lock`; the others wait for it, and raise what it raises."""
    is_announced = False
    while True:
        answer = exchange(None if lock is None else _attempt(lock))[0]
        if answer is True:
            return
        if answer:
            raise HeldError(answer)
        if lock is not None and not is_announced:
            print(lock.waiting_line(), file=sys.stderr, flush=True)
            is_announced = True
        time.sleep(SECONDS_BETWEEN_ATTEMPTS)


def _attempt(lock: Lock) -> bool | str:
    """`Lock.attempt`; an error as its text, which all processes then have."""
    try:
        return lock.attempt()
    except OSError as error:
        return str(error)
