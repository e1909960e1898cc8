"""One command writes a run directory: the second one refuses, and the first is none the worse."""

import contextlib
import json
import signal
import socket
import time
from pathlib import Path

import pytest

from data_pipelines.directory_lock import lock_of_contents
from support.run_records import checkpoints, comparable
from support.tiny_run import NUM_STEPS, running, start

KEPT = [NUM_STEPS - 10, NUM_STEPS]


def contents(directory):
    """Name → bytes of every file below a directory."""
    paths = sorted(path for path in directory.rglob("*") if path.is_file())
    return {str(path.relative_to(directory)): path.read_bytes() for path in paths}


def threads(pid):
    """The states of a process's threads; T: stopped."""
    lines = [path.read_text() for path in Path(f"/proc/{pid}/task").glob("*/stat")]
    return {line.rpartition(")")[2].split()[0] for line in lines}


@contextlib.contextmanager
def stopped_at(rows, workdir, data, environment, **choices):
    """A run that was suspended once it had written `rows` rows."""
    with running(workdir, data, environment, **choices) as process:
        try:
            deadline, path = time.monotonic() + 300, workdir / "metrics.jsonl"
            while not path.exists() or path.read_bytes().count(b"\n") < rows:
                assert process.poll() is None and time.monotonic() < deadline
                time.sleep(0.005)
            process.send_signal(signal.SIGSTOP)
            # The signal is sent, not yet obeyed: until all threads stand still, a save writes on.
            while threads(process.pid) != {"T"}:
                time.sleep(0.005)
            yield process
        finally:
            process.kill()


@pytest.mark.slow
def test_a_second_start_in_mid_run_refuses(finished, data, environment, tmp_path):
    workdir = tmp_path / "run"
    with stopped_at(4, workdir, data, environment) as first:
        before = contents(workdir)
        second = start(workdir, data, environment)
        assert second.returncode == 1 and not second.stdout
        assert f"{workdir}: another process writes this directory: " in second.stderr
        assert f"process {first.pid} on " in second.stderr and f"`kill {first.pid}`" in second.stderr
        assert "Traceback" not in second.stderr and contents(workdir) == before
        first.send_signal(signal.SIGCONT)
        _, err = first.communicate(timeout=300)
    assert first.returncode == 0, err
    assert comparable(workdir) == comparable(finished[0]) and checkpoints(workdir) == KEPT
    assert len((workdir / "sessions.jsonl").read_text().splitlines()) == 1
    assert not list(workdir.glob(".lock*"))


@pytest.mark.slow
def test_of_two_that_start_together_one_makes_the_run(finished, data, environment, tmp_path):
    workdir = tmp_path / "run"
    both = [running(workdir, data, environment) for _ in range(2)]
    errors = [process.communicate(timeout=300)[1] for process in both]
    assert sorted(process.returncode for process in both) == [0, 1], errors
    refused = errors[[process.returncode for process in both].index(1)]
    assert "another process writes this directory" in refused and "Traceback" not in refused
    assert comparable(workdir) == comparable(finished[0]) and checkpoints(workdir) == KEPT


@pytest.mark.slow
def test_a_run_whose_lock_another_host_took_writes_no_more(data, environment, tmp_path):
    workdir = tmp_path / "run"
    with stopped_at(4, workdir, data, environment) as first:
        # What a host leaves that took the lock over while this process was suspended.
        lock, holder = workdir / ".lock", json.loads((workdir / ".lock.json").read_text())
        lines = lock.read_text().replace(holder["token"], "other").splitlines()
        lines = ["host=elsewhere" if line.startswith("host=") else line for line in lines]
        (workdir / "taken").write_text("\n".join(lines) + "\n")
        (workdir / "taken").replace(lock)
        holder |= {"token": "other", "host": "elsewhere", "pid": 4242}
        (workdir / ".lock.json").write_text(json.dumps(holder))
        before = contents(workdir)
        first.send_signal(signal.SIGCONT)
        _, err = first.communicate(timeout=300)
    assert first.returncode == 1 and "Traceback" not in err
    assert "another process has taken its lock over" in err and "process 4242 on elsewhere" in err
    # A save that was under way has been finished.
    outside = lambda files: {
        name: data for name, data in files.items() if not name.startswith("checkpoints/")
    }
    assert outside(contents(workdir)) == outside(before)
    assert checkpoints(workdir) in ([], [10])


@pytest.mark.slow
def test_all_processes_of_a_run_refuse(data, environment, tmp_path):
    workdir = tmp_path / "run"
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    with lock_of_contents(workdir):
        flags = [f"--coordinator=localhost:{port}", "--num_processes=2"]
        both = [
            running(workdir, data, environment, arguments=[*flags, f"--process_id={number}"])
            for number in range(2)
        ]
        errors = [process.communicate(timeout=300)[1] for process in both]
        assert sorted(contents(workdir)) == [".lock", ".lock.json"]
    for process, error in zip(both, errors, strict=True):
        assert process.returncode == 1 and "another process writes this directory" in error, error
        assert "Traceback" not in error
