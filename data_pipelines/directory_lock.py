"""One writer of a directory at a time: a lock file that names its holder and shows that it lives.

The lock is a lease of the library filelock: a file that is created exclusively, which NFS does atomically,
and whose time a thread renews. The lock of a process that has ended is taken over at once on the same
machine. Elsewhere it is taken over once it was not renewed for LEASE_SECONDS by the waiting process' own
clock. A JSON file beside it has what the lease does not record, for messages: command and time. Commands that
only read take no lock.
"""

import contextlib
import errno
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from filelock import LeaseSettingsMismatch, SoftFileLease, Timeout

from data_pipelines.bucket_lock import BucketLock
from data_pipelines.buckets import is_bucket
from data_pipelines.json_files import write_json
from data_pipelines.lock_holders import (
    HEARTBEAT_SECONDS,
    LEASE_SECONDS,
    NOT_HERE,
    Holder,
    Lock,
    held,
    lost,
    read_holder,
    this_process,
    to_json,
    waiting_line,
)

LOCK_FILE = ".lock"  # in a directory that several commands write; beside one that appears whole, .NAME.lock
HOLDER_SUFFIX = ".json"
PATIENCE = LEASE_SECONDS + 15  # seconds, after which a lock without a holder that can be told is given up


class DirectoryLock(Lock):
    """A lock that is a file.

    Args:
      name: of the directory, for messages.
      path: of the lock file. Missing directories above it are made, and removed again if they stay empty.
    """

    def __init__(self, name: str, path: Path):
        self._name, self._path = name, path
        self._holder_path = path.with_name(path.name + HOLDER_SUFFIX)
        # Checked and released by other threads than the one that takes it.
        self._lease = SoftFileLease(
            path, lease_duration=LEASE_SECONDS, heartbeat_interval=HEARTBEAT_SECONDS, thread_local=False
        )
        self._token: str | None = None  # while it is held
        self._made: list[Path] = []  # directories, the innermost first
        self._beat: tuple[int, int] | None = None  # of another holder, when first seen
        self._began = time.monotonic()

    def attempt(self) -> bool:
        self._make_directory()
        for _ in range(2):  # some file systems need one attempt to remove a dead process' lock
            try:
                self._lease.acquire(blocking=False)
            except (Timeout, LeaseSettingsMismatch):
                continue
            except OSError as error:
                raise self._not_writable(error) from error
            if not self._is_published():
                self._lease.release()
                continue
            self._record()
            return True
        self._check_other()
        return False

    def waiting_line(self) -> str:
        return waiting_line(self._name, self._other())

    def holder(self) -> Holder | None:
        other = self._other()
        return None if other is None or other.is_gone else other

    def check(self) -> None:
        """As `Lock.check`. It reads the lock file."""
        owner = self._lease.owner
        if owner is None:  # missing, exchanged just now, or not readable for the moment
            try:
                os.lstat(self._path)
                time.sleep(0.1)
                owner = self._lease.owner
            except FileNotFoundError:
                pass
            except OSError:
                return
        if owner is None or owner.token != self._token:
            raise lost(self._name, self._other(), str(self._path))
        if self._lease.compromise is not None:  # the disk was gone for a while, but nobody took the lock
            self._lease.release()
            with contextlib.suppress(Timeout):
                self._lease.acquire(blocking=False)
            if not self._lease.is_locked:
                raise lost(self._name, self._other(), str(self._path))
            self._record()

    def release(self) -> None:
        if self._token is not None:
            owner = self._lease.owner
            if owner is not None and owner.token == self._token:
                with contextlib.suppress(OSError):
                    self._holder_path.unlink(missing_ok=True)
            self._token = None
            with contextlib.suppress(OSError):  # the disk is gone: the next process waits for a heartbeat
                self._lease.release()
        for directory in self._made:
            with contextlib.suppress(OSError):  # something was written there
                directory.rmdir()
        self._made = []

    def _make_directory(self) -> None:
        parent = self._path.parent
        missing = [one for one in (parent, *parent.parents) if not one.exists()]
        try:
            parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise self._not_writable(error) from error
        self._made += missing

    def _is_published(self) -> bool:
        """Bring the lock file to its disk. gcsfuse shows a new file to other machines, and finds out that one
        of them was faster, only then."""
        descriptor = os.open(self._path, os.O_WRONLY)
        try:
            os.fsync(descriptor)
        except OSError as error:
            return error.errno != errno.ESTALE
        finally:
            os.close(descriptor)
        return True

    def _record(self) -> None:
        self._token = self._lease.token
        try:
            holder = this_process(self._token, os.stat(self._path).st_ino)
            write_json(self._holder_path, to_json(holder))
        except OSError as error:
            self.release()
            raise self._not_writable(error) from error

    def _other(self) -> Holder | None:
        """The holder, as far as the two files tell. One that has just taken the lock still writes the
        second."""
        for _ in range(10):
            owner = self._lease.owner
            if owner is None:
                return None
            recorded = read_holder(self._holder_path)
            if recorded is not None and recorded.token == owner.token:
                return self._seen_from_here(recorded)
            time.sleep(0.1)
        return Holder(
            owner.hostname, owner.pid, NOT_HERE, "", "an unknown time", "a command", owner.token or ""
        )

    def _seen_from_here(self, recorded: Holder) -> Holder:
        """The holder, as one of elsewhere if the lock is a copy, made with its directory, of the file that it
        holds: it lives, but gives no sign of life here. Some file systems change the number of a file, so
        that is waited for nevertheless."""
        try:
            is_copy = recorded.inode not in (0, os.stat(self._path).st_ino)
        except OSError:
            return recorded
        return recorded._replace(namespace=NOT_HERE) if is_copy and not recorded.is_gone else recorded

    def _check_other(self) -> None:
        """Raises HeldError if another holder is known to live, or there is no sense in more waiting."""
        try:
            stat = os.stat(self._path)
        except FileNotFoundError:
            return  # it has been released just now
        beat, other = (stat.st_ino, stat.st_mtime_ns), self._other()
        self._beat = self._beat or beat
        # On this machine the lease would have been taken over if the process were gone.
        if (other is not None and other.is_here) or beat != self._beat:
            raise held(self._name, other, str(self._path))
        if time.monotonic() - self._began > PATIENCE:
            raise held(self._name, other, str(self._path))

    def _not_writable(self, error: OSError) -> OSError:
        if isinstance(error, PermissionError) and (other := self._other()) is not None:
            return held(self._name, other, str(self._path))
        return OSError(
            f"{self._name} cannot be written: its lock {self._path} could not be made: {error}. Check the "
            "permissions and the space on that disk, or use another directory."
        )


def lock_of_contents(place: str | os.PathLike) -> Lock:
    """The lock of a directory that is written over time, such as a run, or of its URL in a bucket. It lies
    in the directory."""
    if is_bucket(place):
        return BucketLock(str(place), f"{place}/{LOCK_FILE}")
    return DirectoryLock(str(place), Path(place, LOCK_FILE))


@contextlib.contextmanager
def only_maker(place: str | os.PathLike) -> Iterator[Callable[[], None]]:
    """Context in which no other command makes `place`, a directory that appears whole, or its URL in a
    bucket. The lock lies beside it; a directory that exists needs none.

    Gives `check` of the lock.

    Raises:
      HeldError, OSError: see `Lock.attempt`.
    """
    if is_bucket(place):
        parent, _, name = str(place).rstrip("/").rpartition("/")
        lock: Lock = BucketLock(str(place), f"{parent}/.{name}{LOCK_FILE}")
    else:
        path = Path(os.path.abspath(place))
        if path.exists():
            yield lambda: None
            return
        lock = DirectoryLock(str(place), path.with_name(f".{path.name}{LOCK_FILE}"))
    with lock:
        yield lock.check
