"""The same command twice in one directory: one of them makes the run, the other one refuses."""

import subprocess
import time

import pytest

from support.fault_runs import CHANGES, flags
from support.faults import EXACT, REFUSED, Ended, Fault, clear
from support.paths import ROOT
from support.tiny_run import command

# Rows of metrics that the first one has written when the second one starts; None: before it has the lock.
ROWS = {"at once": None, "while it compiles": 0, "after a row": 1, "after 5 rows": 5, "after 9 rows": 9}
FAULTS = [Fault(name, allowed=(EXACT,)) for name in ROWS]
SAMPLE, SECONDS = 1, 600


def wait_for(rows, workdir, process):
    """Until the lock is there, and `rows` rows."""
    deadline, metrics = time.monotonic() + SECONDS, workdir / "metrics.jsonl"
    while rows is not None and process.poll() is None and time.monotonic() < deadline:
        found = metrics.read_bytes().count(b"\n") if metrics.exists() else 0
        if found >= rows and (workdir / ".lock").exists():
            return
        time.sleep(0.002)


@pytest.mark.all_faults
def test_one_of_two_makes_the_run(fault, data, environment, forks, settle, record, tmp_path):
    workdir = tmp_path / "run"
    with (
        (tmp_path / "output").open("w") as output,
        subprocess.Popen(
            command(workdir, data, **CHANGES), cwd=ROOT, env=environment, stdout=output, stderr=output
        ) as first,
    ):
        wait_for(ROWS[fault.name], workdir, first)
        second = forks.run("electra_jax.pretrain", *flags(workdir, data))
        first.wait(SECONDS)
    first = Ended(first.returncode, (tmp_path / "output").read_text())
    made, other = (first, second) if first.code == 0 else (second, first)
    # It is EXACT if it came when all was done.
    outcome = EXACT if other.code == 0 else clear(other.code, other.text, "another process writes")
    record(f"{fault.name}, the other one", outcome)
    assert outcome in (EXACT, REFUSED), (first.text, second.text)
    settle(fault, workdir, made)
