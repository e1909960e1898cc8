"""The lock of a directory in a bucket: an object that names its holder and is rewritten by a thread, since an
object's time cannot be renewed. Both stores create an object only if there is none, when asked to."""

import contextlib
import json
import threading
import time
import uuid

from data_pipelines.buckets import create_object, read_object, remove, write_object
from data_pipelines.lock_holders import (
    HEARTBEAT_SECONDS,
    LEASE_SECONDS,
    Holder,
    Lock,
    held,
    lost,
    parse_holder,
    this_process,
    to_json,
    waiting_line,
)

SETTLE_SECONDS = 2.0  # after a take-over, in which another process may have taken it over, too


class BucketLock(Lock):
    """A lock that is an object.

    Args:
      name: of the directory, for messages.
      url: of the lock's object.
    """

    def __init__(self, name: str, url: str):
        self._name, self._url = name, url
        self._holder: Holder | None = None  # this process, while the lock is held
        self._other: Holder | None = None
        self._seen: tuple[bytes, float] | None = None  # another holder's object, and since when it is so
        self._lost: Exception | None = None
        self._verified = 0.0  # when the object was last known to be this process'
        self._end = threading.Event()
        self._heartbeat: threading.Thread | None = None

    def attempt(self) -> bool:
        if self._create():
            return True
        try:
            data = read_object(self._url)
        except FileNotFoundError:
            return self._create()
        self._other = parse_holder(data.decode("utf-8", "replace"))
        if self._other is not None and self._other.is_gone:
            return self._take_over()
        if self._seen is None:
            self._seen = data, time.monotonic()
        if data != self._seen[0] or (self._other is not None and self._other.is_here):
            raise held(self._name, self._other, self._url)
        return time.monotonic() - self._seen[1] >= LEASE_SECONDS and self._take_over()

    def waiting_line(self) -> str:
        return waiting_line(self._name, self._other)

    def holder(self) -> Holder | None:
        try:
            other = parse_holder(read_object(self._url).decode("utf-8", "replace"))
        except FileNotFoundError:
            return None
        return None if other is None or other.is_gone else other

    def check(self) -> None:
        """As `Lock.check`. It reads the object only if the heartbeat has not done so for a while.

        Raises:
          LostError: another process has taken the lock over, or it was removed.
          OSError: that could not be found out for LEASE_SECONDS.
        """
        if self._lost is None and seconds() - self._verified > 2 * HEARTBEAT_SECONDS:
            try:
                self._verify(self._holder)
            except OSError:
                if seconds() - self._verified > LEASE_SECONDS:
                    raise
        if self._lost is not None:
            raise self._lost

    def release(self) -> None:
        if self._holder is None:
            return
        self._end.set()
        self._heartbeat.join(timeout=HEARTBEAT_SECONDS)
        with contextlib.suppress(OSError):  # a bucket that is gone: the next process waits for the heartbeat
            if self._is_of(self._holder):
                remove(*reversed(self._split()))
        self._holder = None

    def _create(self) -> bool:
        holder = this_process(uuid.uuid4().hex)
        if not create_object(self._url, _encode(holder, 0)):
            return False
        self._holder, self._verified, self._lost = holder, seconds(), None
        self._end = threading.Event()  # the last one is set, if the lock was given back before
        self._heartbeat = threading.Thread(
            target=self._renew_often, args=(holder, self._end), name="bucket-lock", daemon=True
        )
        self._heartbeat.start()
        return True

    def _take_over(self) -> bool:
        with contextlib.suppress(FileNotFoundError):
            remove(*reversed(self._split()))
        self._seen = None
        if not self._create():
            return False
        time.sleep(SETTLE_SECONDS)
        if self._is_of(self._holder):
            return True
        self.release()
        return False

    def _renew_often(self, holder: Holder, end: threading.Event) -> None:
        # A request may hang until the lock was given back, and even taken again: then nothing is this hold's.
        number = 0
        while not end.wait(HEARTBEAT_SECONDS) and self._lost is None:
            number += 1
            with contextlib.suppress(OSError):  # tried again; `check` ends the wait
                if self._verify(holder):
                    write_object(self._url, _encode(holder, number))
                    if end.is_set():  # the request hung; the lock was perhaps removed meanwhile
                        remove(*reversed(self._split()))

    def _verify(self, holder: Holder) -> bool:
        """Whether the lock is still that of `holder`, which is this process; notes what `check` raises if
        the present hold has lost it."""
        now = seconds()
        if not self._is_of(holder):
            if holder is self._holder:
                self._lost = lost(self._name, self._other, self._url)
            return False
        self._verified = now
        return True

    def _is_of(self, holder: Holder) -> bool:
        try:
            self._other = parse_holder(read_object(self._url).decode("utf-8", "replace"))
        except FileNotFoundError:
            self._other = None
        return self._other is not None and self._other.token == holder.token

    def _split(self) -> tuple[list[str], str]:
        parent, _, name = self._url.rpartition("/")
        return [name], parent


def _encode(holder: Holder, number: int) -> bytes:
    return json.dumps(to_json(holder, heartbeat=number)).encode()


def seconds() -> float:
    """A clock that does not stop while the process or its machine is suspended."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))
