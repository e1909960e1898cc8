"""SIGTERM at random moments of a real run, in every phase: it saves, exits with 143, and resumes without
loss."""

import json
import random
import signal
import subprocess
import sys
import time
from typing import NamedTuple

import pytest

from support.forked_process import ForkedProcess
from support.paths import ROOT
from support.run_records import checkpoints, comparable
from support.tiny_run import command

# With --all_faults; without, one signal in each phase.
NUM_NOTICES, OF_EACH = 20, 2
MOST_NOTICES = 40
# (steps, steps between probes): more steps than pass before the last of the signals.
LENGTH, LENGTH_OF_ALL = (100, 25), (160, 40)
SECONDS = 30  # from a notice to the end, on a machine that has much else to do
# Phase → how many of its beginnings may pass first, and within how many seconds of the next one the signal is
# sent. The order matters: "compile" must come before compiled programs are on disk.
START_UP = {"imports": (0, 1.0), "opening": (0, 1.5), "compile": (1, 1.5)}
LOOP = {"data": (5, 0.15), "step": (5, 0.003), "save": (1, 0.03), "evaluation": (0, 0.15), "probe": (0, 1.5)}
PHASES = START_UP | LOOP
ANYWHERE = 10.0  # seconds from the start


class Notice(NamedTuple):
    """A signal and its consequences."""

    phase: str  # that the signal met
    code: int  # exit code
    seconds: float  # from the signal to the exit
    before: int  # newest checkpoint before the process started
    after: int  # newest checkpoint after it exited
    num_dispatched: int  # steps dispatched in between


class Run:
    """A run that can be started many times, and is too long to end before that."""

    def __init__(self, root, data, environment, length):
        self.workdir, self.marks, self.output, self.environment = (
            root / "run",
            root / "marks",
            root / "output",
            environment,
        )
        probe = {
            "train": data / "probe.jsonl",
            "validation": data / "probe.jsonl",
            "text": "text",
            "label": "label",
            "every": length[1],
            "num_epochs": 1,
        }
        self.command = command(
            self.workdir,
            data,
            train__num_steps=length[0],
            eval__every=10,
            checkpoint__every=5,
            **{f"probe__{key}": value for key, value in probe.items()},
        )

    def start(self, words, is_forked=True):
        """A process of `python -m WORDS`. A forked one has imported everything before."""
        streams = {"stdin": subprocess.DEVNULL, "stderr": subprocess.STDOUT}
        with self.output.open("w") as output:
            if is_forked:
                return ForkedProcess(words, self.environment, stdout=output, **streams)
            variables = self.environment | {"PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"}
            return subprocess.Popen(
                [sys.executable, "-m", *words], cwd=ROOT, env=variables, stdout=output, **streams
            )

    def finish(self):
        """Run it to the end."""
        with self.start(self.command[2:]) as process:
            assert process.wait(timeout=400) == 0, self.output.read_text()

    def notify(self, phase, visit, delay):
        """Start it, and send SIGTERM `delay` seconds after `phase` began for the `visit`-th time."""
        before = self.newest_checkpoint()
        self.marks.unlink(missing_ok=True)
        words = ["support.watched_run", self.marks, *self.command[3:]]  # for -m electra_jax.pretrain
        with self.start(words, is_forked=phase != "imports") as process:
            deadline = time.monotonic() + 400
            while [name for _, name in self.begun()].count(phase) < visit:
                assert process.poll() is None and time.monotonic() < deadline, self.output.read_text()
                time.sleep(0.003)
            time.sleep(delay)
            sent = time.monotonic_ns()
            process.send_signal(signal.SIGTERM)
            code = process.wait(timeout=400)
        seconds, begun = (time.monotonic_ns() - sent) / 1e9, self.begun()
        return Notice(
            [name for moment, name in begun if moment <= sent][-1],
            code,
            seconds,
            before,
            self.newest_checkpoint(),
            [name for _, name in begun].count("step"),
        )

    def begun(self):
        """(moment, phase) of all phases that have begun."""
        lines = self.marks.read_text().split("\n")[:-1] if self.marks.exists() else []
        return [(int(moment), phase) for moment, phase in map(str.split, lines)]

    def newest_checkpoint(self):
        return max(checkpoints(self.workdir), default=0)


def check(notice, output):
    """Assert that every dispatched step is saved."""
    assert notice.after == notice.before + notice.num_dispatched, (notice, output)
    assert notice.seconds < SECONDS, (notice, output)
    if notice.phase in LOOP:
        assert (
            notice.code == 128 + signal.SIGTERM and f"Told to stop: step {notice.after} is saved" in output
        ), (notice, output)
    else:  # ended by the signal, for which a shell shows 143, too; and before the first step
        assert notice.code in (-signal.SIGTERM, 128 + signal.SIGTERM) and not notice.num_dispatched, (
            notice,
            output,
        )


@pytest.fixture
def runs(data, environment, tmp_path, request):
    """Two equal runs, with a small task for probes."""
    texts = [" ".join(line.split()[:4]) for line in (data / "train.txt").read_text().splitlines() if line][
        :40
    ]
    rows = [json.dumps({"text": text, "label": ("odd", "even")[len(text) % 2]}) for text in texts]
    (data / "probe.jsonl").write_text("\n".join(rows) + "\n")
    length = LENGTH_OF_ALL if request.config.getoption("--all_faults") else LENGTH
    for name in ("whole", "stopped"):
        (tmp_path / name).mkdir()
    return [Run(tmp_path / name, data, environment, length) for name in ("whole", "stopped")]


@pytest.mark.slow
def test_signals_in_all_phases_lose_nothing(runs, request):
    is_whole = request.config.getoption("--all_faults")
    num_notices, of_each = (NUM_NOTICES, OF_EACH) if is_whole else (len(PHASES), 1)
    whole, stopped = runs
    source, met = random.Random(0), []
    while len(met) < num_notices or any(met.count(phase) < of_each for phase in PHASES):
        assert len(met) < MOST_NOTICES, met
        missing = [phase for phase in PHASES if met.count(phase) < of_each]
        aim, (skipped, seconds) = (missing[0], PHASES[missing[0]]) if missing else ("imports", (0, ANYWHERE))
        notice = stopped.notify(aim, 1 + source.randint(0, skipped), source.uniform(0, seconds))
        print(notice)  # what pytest shows of a failure
        check(notice, stopped.output.read_text())
        met.append(notice.phase)
    stopped.finish()
    whole.finish()
    assert comparable(stopped.workdir) == comparable(whole.workdir)
