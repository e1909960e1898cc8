"""The lock of a directory, held by real processes that are killed, suspended, or pretend to be elsewhere."""

import contextlib
import errno
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time

import pytest

from data_pipelines.directory_lock import lock_of_contents, only_maker
from data_pipelines.lock_holders import LEASE_SECONDS, HeldError
from support.paths import ROOT

LEASE, HEARTBEAT = 3.0, 0.5
SCRIPT = "tests/support/hold_lock.py"


class Process:
    """A process that holds the lock of a directory, or tries to."""

    def __init__(self, directory):
        self.process = subprocess.Popen(
            [sys.executable, SCRIPT, str(directory), str(LEASE), str(HEARTBEAT)],
            cwd=ROOT,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            text=True,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        self.pid = self.process.pid

    def line(self):
        return self.process.stdout.readline().strip()

    def check(self):
        """What `check` of its lock answers."""
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        return self.line()

    def end(self):
        """Let it release the lock; what it wrote on stderr."""
        return self.process.communicate(timeout=60)[1]


@contextlib.contextmanager
def process(directory):
    started = Process(directory)
    try:
        yield started
    finally:
        started.process.kill()
        started.process.communicate()


def forge(directory, *, host="another-host", pid=4242, start=1, heartbeat_of=LEASE):
    """Write the two files of a lock whose holder is elsewhere, or was here under another PID."""
    marker = f"filelock/2\npid={pid}\nhost={host}\nmode=lease\ntoken=forged\nduration={heartbeat_of!r}\n"
    temporary = directory / "forged"
    temporary.write_text(f"{marker}start={start}\n")
    temporary.replace(directory / ".lock")
    holder = {"host": host, "pid": pid, "namespace": 1, "started": "boot 1", "since": "2026-01-02T03:04:05Z"}
    more = {"command": "python -m elsewhere", "token": "forged"}
    (directory / ".lock.json").write_text(json.dumps(holder | more))


def files(directory):
    return {path.name: path.read_bytes() for path in directory.iterdir()}


def test_the_second_refuses_and_names_the_first(tmp_path):
    (tmp_path / "metrics.jsonl").write_text("{}\n")
    with process(tmp_path) as first:
        assert first.line().startswith("held")
        before = files(tmp_path)
        began = time.monotonic()
        with pytest.raises(HeldError) as error, lock_of_contents(tmp_path):
            pass
        assert time.monotonic() - began < 1
        text = str(error.value)
        assert f"process {first.pid} on {os.uname().nodename}, since 20" in text and SCRIPT in text
        assert f"`kill {first.pid}`" in text and "Nothing was touched" in text
        assert files(tmp_path) == before
        assert first.check() == "ok"
        first.end()
    assert set(files(tmp_path)) == {"metrics.jsonl"}


def test_who_holds_it_is_told_without_taking_it(tmp_path):
    assert lock_of_contents(tmp_path).holder() is None
    forge(tmp_path)
    before = files(tmp_path)
    holder = lock_of_contents(tmp_path).holder()
    assert (holder.host, holder.pid, holder.since) == ("another-host", 4242, "2026-01-02T03:04:05Z")
    assert files(tmp_path) == before


def test_of_many_that_start_together_one_holds_it(tmp_path):
    with contextlib.ExitStack() as stack:
        started = [stack.enter_context(process(tmp_path)) for _ in range(6)]
        lines = [one.line() for one in started]
        assert sorted(line.split()[0] for line in lines) == ["HeldError:"] * 5 + ["held"], lines
        (winner,) = [one for one, line in zip(started, lines, strict=True) if line.startswith("held")]
        assert winner.check() == "ok"
        assert all(f"process {winner.pid} " in line for line in lines if not line.startswith("held"))


def test_a_killed_process_is_followed_at_once(tmp_path):
    for _ in range(3):
        with process(tmp_path) as one:
            assert float(one.line().split()[2]) < LEASE - 1
            one.process.send_signal(signal.SIGKILL)
            one.process.wait()
            assert (tmp_path / ".lock").exists()
    with lock_of_contents(tmp_path) as lock:
        lock.check()


def test_a_pid_that_is_used_again_is_another_process(tmp_path):
    with process(tmp_path) as one:  # as a lock that this very machine wrote
        one.line()
        marker, holder = (tmp_path / ".lock").read_text(), json.loads((tmp_path / ".lock.json").read_text())
        one.end()
    marker = re.sub(r"pid=\d+", f"pid={os.getppid()}", marker)  # lives, and started at another moment
    (tmp_path / ".lock").write_text(re.sub("duration=.*", f"duration={LEASE_SECONDS}", marker))
    (tmp_path / ".lock.json").write_text(json.dumps(holder | {"pid": os.getppid()}))
    began = time.monotonic()
    with lock_of_contents(tmp_path):
        assert time.monotonic() - began < 1


def test_a_silent_host_is_waited_for_then_followed(tmp_path):
    forge(tmp_path)
    with process(tmp_path) as one:
        assert LEASE <= float(one.line().split()[2]) < LEASE + 5
        assert one.check() == "ok"
        assert "pid=4242" not in (tmp_path / ".lock").read_text()
        (line,) = one.end().splitlines()
    assert "python -m elsewhere (process 4242 on another-host, since 2026-01-02T03:04:05Z)" in line
    assert "Waiting up to 3 seconds" in line


def test_a_host_that_gives_signs_of_life_keeps_its_lock(tmp_path):
    forge(tmp_path)
    ended = threading.Event()

    def beat():
        while not ended.wait(HEARTBEAT):
            os.utime(tmp_path / ".lock")

    thread = threading.Thread(target=beat)
    thread.start()
    try:
        with process(tmp_path) as one:
            line = one.line()
    finally:
        ended.set()
        thread.join()
    assert line.startswith("HeldError") and "`kill 4242` on another-host" in line
    assert "token=forged" in (tmp_path / ".lock").read_text()


def test_a_suspended_holder_keeps_the_lock_on_its_machine(tmp_path):
    with process(tmp_path) as first:
        first.line()
        first.process.send_signal(signal.SIGSTOP)
        time.sleep(LEASE + 1)
        with process(tmp_path) as second:
            assert second.line().startswith("HeldError")
        first.process.send_signal(signal.SIGCONT)
        assert first.check() == "ok"


def test_a_copy_of_a_locked_directory_is_followed_after_a_while(tmp_path):
    original, copy, older = (tmp_path / name for name in ("original", "copy", "older"))
    with process(original) as first:
        first.line()
        shutil.copytree(original, copy)
        assert not lock_of_contents(copy).holder().is_here and lock_of_contents(original).holder().is_here
        shutil.copytree(original, older)
        holder = json.loads((older / ".lock.json").read_text())
        holder.pop("inode", None)  # as an earlier version wrote it
        (older / ".lock.json").write_text(json.dumps(holder))
        with process(older) as one:
            assert one.line().startswith("HeldError")
        with process(copy) as second:
            assert LEASE <= float(second.line().split()[2]) < LEASE + 5
            assert first.check() == second.check() == "ok"
            assert "Waiting up to 3 seconds" in second.end()
        assert not files(copy)


def test_a_copy_of_a_locked_directory_is_followed_at_once_when_the_holder_has_ended(tmp_path):
    original, copy = tmp_path / "original", tmp_path / "copy"
    with process(original) as first:
        first.line()
        shutil.copytree(original, copy)
        first.end()
    assert lock_of_contents(copy).holder() is None
    with process(copy) as second:
        assert float(second.line().split()[2]) < LEASE - 1


def test_a_locked_directory_stays_locked_when_it_is_moved(tmp_path):
    with process(tmp_path / "before") as first:
        first.line()
        (tmp_path / "before").rename(tmp_path / "after")
        with process(tmp_path / "after") as second:
            assert f"`kill {first.pid}`" in second.line()


@pytest.mark.parametrize("is_removed", [False, True])
def test_a_holder_that_lost_its_lock_writes_no_more(tmp_path, is_removed):
    with process(tmp_path) as first:
        first.line()
        first.process.send_signal(signal.SIGSTOP)
        if is_removed:
            (tmp_path / ".lock").unlink()
        else:
            forge(tmp_path)
        first.process.send_signal(signal.SIGCONT)
        answer = first.check()
        first.end()
    assert answer.startswith("LostError") and "stops before it writes anything more" in answer
    assert ("was removed or overwritten" if is_removed else "process 4242 on another-host") in answer
    assert (tmp_path / ".lock").exists() != is_removed  # that of the other stays


def test_a_lock_that_names_nobody_is_an_error_in_the_end(tmp_path, monkeypatch):
    monkeypatch.setattr("data_pipelines.directory_lock.PATIENCE", 0.5)
    (tmp_path / ".lock").touch()
    with (
        pytest.raises(HeldError, match=r"does not tell by whom.*remove that file"),
        lock_of_contents(tmp_path),
    ):
        pass


def test_the_lock_outlives_a_disk_that_is_gone_for_a_while(tmp_path, monkeypatch):
    monkeypatch.setattr("data_pipelines.directory_lock.LEASE_SECONDS", 0.6)
    monkeypatch.setattr("data_pipelines.directory_lock.HEARTBEAT_SECONDS", 0.1)
    utime, calls = os.utime, []

    def fails(*arguments, **choices):
        calls.append(arguments)
        raise OSError(errno.EIO, "Input/output error")

    with lock_of_contents(tmp_path) as lock:
        with monkeypatch.context() as patch:
            patch.setattr(os, "utime", fails)
            time.sleep(1.5)
        assert calls
        lock.check()
        before, until = (tmp_path / ".lock").stat().st_mtime_ns, time.monotonic() + 20
        while (tmp_path / ".lock").stat().st_mtime_ns == before:  # until it shows again that it lives
            assert time.monotonic() < until
            time.sleep(0.05)
        lock.check()
    assert os.utime is utime and not files(tmp_path)


def test_directories_that_stay_empty_are_removed(tmp_path):
    with pytest.raises(ValueError, match="wrong"), lock_of_contents(tmp_path / "a" / "b"):
        raise ValueError("wrong settings")
    assert not files(tmp_path)


def test_what_appears_whole_is_locked_beside_it(tmp_path):
    out = tmp_path / "new" / "out"
    with only_maker(out) as check:
        assert sorted(os.listdir(tmp_path / "new")) == [".out.lock", ".out.lock.json"] and not out.exists()
        with pytest.raises(HeldError), only_maker(f"{out}/"):
            pass
        out.mkdir()
        with only_maker(out):  # nothing is left to make
            pass
        check()
    assert os.listdir(tmp_path / "new") == ["out"]
