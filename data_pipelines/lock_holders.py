"""Locks of directories: what both kinds have in common, the record of a holder, whether it is gone, and the
errors."""

import abc
import os
import shlex
import socket
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple, Self

from data_pipelines.json_files import Maybe, parse_json

# A holder shows every HEARTBEAT_SECONDS that it lives. One on another machine that has not done so for
# LEASE_SECONDS has lost its lock. NFS and gcsfuse may show another machine a file's time a minute late. All
# versions must agree on the second, see filelock.SoftFileLease.
HEARTBEAT_SECONDS, LEASE_SECONDS = 10.0, 90.0
SECONDS_BETWEEN_ATTEMPTS = 1.0
NOT_HERE = -1  # in place of a PID namespace: the PID says nothing here
MAX_COMMAND = 300  # letters of a command that a message shows


class HeldError(OSError):
    """Another process writes the directory. This one has touched nothing."""


class LostError(OSError):
    """Another process has taken the lock over, so that this one may write nothing more."""


class Holder(NamedTuple):
    """A process that holds a lock."""

    host: str
    pid: int
    namespace: int  # of its PID: containers of one host count their processes separately
    started: str  # the boot of its host and the moment of its start, since PIDs are used again; "": unknown
    since: str  # when it took the lock, UTC
    command: str
    token: str  # of this hold of the lock
    inode: int = 0  # number of the lock's file; 0: unknown, or the lock is an object

    @property
    def is_here(self) -> bool:
        """Whether its process is, or was, on this machine, where its PID means the same."""
        return (self.host, self.namespace) == (socket.gethostname(), _namespace())

    @property
    def is_gone(self) -> bool:
        """Whether its process is known to have ended. False on another machine."""
        return self.is_here and bool(self.started) and _started(self.pid) != self.started

    def describe(self) -> str:
        """For messages: "python -m … (process 12 on host, since …)"."""
        shown = "".join(letter if letter.isprintable() else "?" for letter in self.command)
        shown = shown if len(shown) <= MAX_COMMAND else f"{shown[:MAX_COMMAND]} …"
        return f"{shown} (process {self.pid} on {self.host}, since {self.since})"


class Lock(abc.ABC):
    """The lock of a directory. Not held before `attempt` or `acquire`."""

    @abc.abstractmethod
    def attempt(self) -> bool:
        """Try to take the lock; whether it is held now. False: its holder may have ended; call again after
        SECONDS_BETWEEN_ATTEMPTS.

        Raises:
          HeldError: a process that lives holds it.
          OSError: the lock cannot be read or written.
        """

    @abc.abstractmethod
    def waiting_line(self) -> str:
        """What to print when `attempt` returns False."""

    @abc.abstractmethod
    def check(self) -> None:
        """Return if the lock is still held; call it before each write.

        Raises:
          LostError: another process has taken it over, or it was removed.
        """

    @abc.abstractmethod
    def release(self) -> None:
        """Give the lock back if it is held. May be called twice."""

    @abc.abstractmethod
    def holder(self) -> Holder | None:
        """Who holds the lock; None if nobody does, or a process that is known to have ended. It takes and
        changes nothing. Raises OSError if the lock cannot be read."""

    def acquire(self) -> None:
        """Take the lock, and wait at most LEASE_SECONDS if its holder may have ended. Raises as
        `attempt`."""
        announced = False
        while not self.attempt():
            if not announced:
                print(self.waiting_line(), file=sys.stderr, flush=True)
                announced = True
            time.sleep(SECONDS_BETWEEN_ATTEMPTS)

    def __enter__(self) -> Self:
        try:
            self.acquire()
        except BaseException:
            self.release()
            raise
        return self

    def __exit__(self, *exception) -> None:
        self.release()


def this_process(token: str, inode: int = 0) -> Holder:
    """The record of this process; arguments as of `Holder`."""
    now, pid = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), os.getpid()
    command = shlex.join(sys.orig_argv)
    return Holder(socket.gethostname(), pid, _namespace(), _started(pid), now, command, token, inode)


def parse_holder(text: str) -> Holder | None:
    """The record in a file or an object; None if it is damaged or of another form."""
    try:
        # An earlier version recorded no inode.
        values = parse_json(text, Holder.__annotations__ | {"inode": Maybe(int)}, "a lock")
    except ValueError:
        return None
    return Holder(**{name: values[name] for name in Holder._fields if name in values})


def held(name: str, holder: Holder | None, lock: str) -> HeldError:
    """The error of a command that finds the directory `name` locked.

    Args:
      holder: None if the lock does not tell.
      lock: the path of the lock.
    """
    if holder is None:
        return HeldError(
            f"{name}: locked by {lock}, which does not tell by whom. Nothing was touched. If no process "
            "writes this directory, remove that file."
        )
    if holder.is_gone:  # but its file is another user's, and stays
        return HeldError(
            f"{name}: locked by a process that has ended, {holder.describe()}, and this user may not take "
            f"its lock over. Nothing was touched. Remove {lock}, or let its owner do so."
        )
    where = "" if holder.is_here else f" on {holder.host}"
    return HeldError(
        f"{name}: another process writes this directory: {holder.describe()}. Nothing was touched. Wait "
        f"until it ends, stop it (`kill {holder.pid}`{where}), or use another directory."
    )


def lost(name: str, holder: Holder | None, lock: str) -> LostError:
    """The error of a process that finds its lock taken; arguments as of `held`, whose holder is the new
    one."""
    what = (
        f"its lock {lock} was removed or overwritten while this process held it"
        if holder is None
        else f"another process has taken its lock over, {holder.describe()}, as after {LEASE_SECONDS:.0f} "
        "seconds without a sign of life of this one (was it suspended, or cut off from its disk?)"
    )
    return LostError(
        f"{name}: {what}. This process stops before it writes anything more. What it had saved is kept; the "
        "same command resumes once no other process writes the directory."
    )


def waiting_line(name: str, holder: Holder | None) -> str:
    """What is printed before the wait for a lock that may be of a process that has ended."""
    who = "a process that cannot be named" if holder is None else holder.describe()
    return (
        f"{name}: locked by {who}. Waiting up to {LEASE_SECONDS:.0f} seconds for a sign of life from there; "
        "without one the lock is taken over."
    )


def read_holder(path: Path) -> Holder | None:
    """`parse_holder` of a file; None without one."""
    try:
        return parse_holder(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def to_json(holder: Holder, **more: Any) -> dict[str, Any]:
    """What `parse_holder` reads, and `more`."""
    return holder._asdict() | more


def _namespace() -> int:
    """Number of the PID namespace; 0 where the system has none."""
    try:
        return os.stat("/proc/self/ns/pid").st_ino
    except OSError:
        return 0


def _started(pid: int) -> str:
    """The boot of this machine and the clock ticks from it to the start of a process (proc(5), field 22 of
    stat); "" if there is no such process, or the system does not tell."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
        return f"{boot} {int(fields[19])}"
    except (OSError, ValueError, IndexError):
        return ""
