"""Several processes on one machine make the run of one process, whatever interrupts them."""

import contextlib
import functools
import json
import os
import shutil
import signal
import socket
import subprocess
import time

import pytest

from data_pipelines.mixture import DatasetSource, make_mixture, make_sequential
from electra_jax.distributed.processes import join_processes
from electra_jax.training.checkpointing import Checkpointer
from electra_jax.training.checksum_item import checksums_of
from electra_jax.training.checksums import read_checksums
from support.commands import run_python
from support.damage import flip_bit, largest_file
from support.forked_process import ForkedProcess
from support.paths import ROOT
from support.run_records import checkpoints, comparable
from support.tiny_run import NUM_STEPS, VALUES, command

BATCH_SIZE, HELD_OUT_BATCHES = (
    VALUES["train.batch_size"],
    VALUES["eval.max_batches"],
)  # the former of evaluation, too
DEVICES = 4  # of all processes together, so that sums have the same order


class Processes:
    """`number` processes that make the tiny run together and record their batches."""

    def __init__(self, number, workdir, data, environment):
        with socket.socket() as free:
            free.bind(("localhost", 0))
            port = free.getsockname()[1]
        one = f"--xla_force_host_platform_device_count={DEVICES // number}"
        environment = environment | {"XLA_FLAGS": f"{environment['XLA_FLAGS']} {one}"}
        self.outputs = [workdir.with_name(f"output_{number}_{index}") for index in range(number)]
        self.records = [path.with_name(f"{path.name}.jsonl") for path in self.outputs]
        self.processes = []
        for index, (output, record) in enumerate(zip(self.outputs, self.records, strict=True)):
            flags = [f"--coordinator=localhost:{port}", f"--num_processes={number}", f"--process_id={index}"]
            words = command(workdir, data, arguments=flags if number > 1 else ())[
                3:
            ]  # without -m electra_jax.pretrain
            with output.open("w") as file:
                self.processes.append(
                    ForkedProcess(
                        ["support.recorded_run", record, *words],
                        environment,
                        stdin=subprocess.DEVNULL,
                        stdout=file,
                        stderr=subprocess.STDOUT,
                    )
                )

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        for process in self.processes:
            process.kill()
            process.wait()

    def when_rows(self, number, workdir):
        """Block until metrics.jsonl has `number` lines."""
        path, deadline = workdir / "metrics.jsonl", time.monotonic() + 400
        while not path.exists() or path.read_bytes().count(b"\n") < number:
            assert time.monotonic() < deadline and all(
                process.poll() is None for process in self.processes
            ), self.text()
            time.sleep(0.01)

    def wait(self, seconds=400):
        """Exit codes."""
        return [process.wait(timeout=seconds) for process in self.processes]

    def text(self):
        return "\n".join(path.read_text(errors="replace") for path in self.outputs)

    def batches(self):
        """(split, number) → rows of every batch of which all shards were recorded."""
        shards = {}
        for record in self.records:
            lines = map(
                json.loads, record.read_text().split("\n")[:-1]
            )  # the last is torn where a process was killed
            own = {(line["split"], line["number"], line["start"]): line["ids"] for line in lines}
            assert not shards.keys() & own.keys()  # no row is on two processes
            shards |= own
        rows = {}
        for split, number, start in sorted(shards):
            rows.setdefault((split, number), []).extend(shards[split, number, start])
        return {key: ids for key, ids in rows.items() if len(ids) == BATCH_SIZE}


@functools.cache
def batches_of_mixtures(data):
    """The same for a whole run, read without a loader."""
    corpus = str(data / "corpus")
    mixtures = {
        "train": (make_mixture([DatasetSource(corpus)], seed=0), NUM_STEPS),
        "eval": (make_sequential([DatasetSource(corpus, split="validation")]), HELD_OUT_BATCHES),
    }
    return {
        (split, number): mixture.read(
            *mixture.rows_at(number * BATCH_SIZE, (number + 1) * BATCH_SIZE)
        ).tolist()
        for split, (mixture, length) in mixtures.items()
        for number in range(length)
    }


def assert_same(rows, expected):
    assert [list(row) for row in rows] == [list(row) for row in expected]
    for row, other in zip(rows, expected, strict=True):
        assert row == {
            key: value if value is None else pytest.approx(value, rel=1e-5, abs=1e-5)
            for key, value in other.items()
        }, row["step"]


def assert_batches(processes, data, first, last):
    """Assert that the batches of steps first … last - 1 and of evaluation 0 hold the rows of the mixtures."""
    batches, expected = processes.batches(), batches_of_mixtures(data)
    assert batches == {key: expected[key] for key in batches}
    assert batches.keys() >= {("eval", 0), *(("train", step) for step in range(first, last))}


@pytest.mark.slow
def test_two_processes_make_the_run_of_one(finished, data, environment, tmp_path):
    workdir = tmp_path / "run"
    with Processes(2, workdir, data, environment) as processes:
        assert processes.wait() == [0, 0], processes.text()
    assert processes.batches() == batches_of_mixtures(data)
    assert_same(comparable(workdir), comparable(finished[0]))


@pytest.mark.slow
def test_four_then_two_then_one_process_make_the_run_of_one(finished, data, environment, tmp_path):
    workdir = tmp_path / "run"
    with Processes(4, workdir, data, environment) as four:
        four.when_rows(6, workdir)  # five windows and an evaluation
        four.processes[2].send_signal(signal.SIGTERM)  # to one of them
        assert four.wait() == [143] * 4, four.text()
        saved = checkpoints(workdir)[-1]
        assert four.text().count(f"step {saved} is saved") == 1  # printed by process 0 alone
    assert 20 <= saved < NUM_STEPS
    assert_batches(four, data, 0, saved)

    with Processes(2, workdir, data, environment) as two:
        two.when_rows((saved + 12) // 4, workdir)
        began = time.monotonic()
        two.processes[1].kill()
        codes = two.wait(60)
        assert time.monotonic() - began < 60
        # Gloo notices the closed connection; or, if one device waits for another of the same process, JAX
        # notices the missing sign of life.
        assert codes in ([1, -signal.SIGKILL], [-signal.SIGABRT, -signal.SIGKILL]), two.text()
        assert {
            1: "Process 0 of 2 exits. If another process failed first",
            -signal.SIGABRT: "most likely indicates that another task died",
        }[codes[0]] in two.text()
    newest = checkpoints(workdir)[-1]
    assert saved <= newest < NUM_STEPS
    assert_batches(two, data, saved, newest)

    with Processes(1, workdir, data, environment) as one:
        assert one.wait() == [0], one.text()
    assert_batches(one, data, newest, NUM_STEPS)
    assert_same(comparable(workdir), comparable(finished[0]))
    assert len((workdir / "sessions.jsonl").read_text().splitlines()) == 3


@pytest.mark.slow
def test_two_processes_fall_back_together(finished, data, environment, tmp_path):
    workdir = shutil.copytree(finished[0], tmp_path / "run")
    flip_bit(largest_file(workdir, NUM_STEPS))
    with Processes(2, workdir, data, environment) as processes:
        assert processes.wait() == [0, 0], processes.text()
    assert processes.text().count("falls back to its checkpoint of this step") == 1
    assert sorted(path.name for path in (workdir / "checkpoints").iterdir()) == [
        str(NUM_STEPS - 10),
        str(NUM_STEPS),
        f"{NUM_STEPS}.damaged",
    ]
    assert_batches(processes, data, NUM_STEPS - 10, NUM_STEPS)
    assert_same(comparable(workdir), comparable(finished[0]))
    # What both have written is covered, and so is what process 0 has made of it.
    with contextlib.closing(Checkpointer(str(workdir / "checkpoints"), keep=None)) as checkpointer:
        inspection = checkpointer.inspect(NUM_STEPS)
        covered = read_checksums(checksums_of(checkpointer.place(NUM_STEPS)))
    assert inspection.has_checksums and not inspection.problem
    for folder in ("ocdbt.process_0", "ocdbt.process_1", "d"):
        assert any(name.startswith(f"state/{folder}/") for name in covered), folder
    assert not list((workdir / "checkpoints" / str(NUM_STEPS) / "verification").glob("process_*"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ("localhost:1234", None, 0),
            r"--num_processes is missing: expected all of --coordinator, --num_processes, --process_id",
        ),
        (("localhost", 2, 0), r"--coordinator: got 'localhost', expected HOST:PORT"),
        (("localhost:1234", 2, 2), r"--process_id: got 2 of 2 processes, expected 0 … 1"),
    ],
)
def test_missing_and_impossible_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        join_processes(*arguments)


@pytest.mark.slow
def test_without_a_cluster_the_error_names_the_flags(data, tmp_path, environment):
    environment = {
        name: value for name, value in environment.items() if not name.startswith(("SLURM_", "OMPI_", "TPU_"))
    }
    outcome = subprocess.run(
        command(tmp_path / "run", data, arguments=["--distributed"]),
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert outcome.returncode == 1 and "Traceback" not in outcome.stderr
    assert (
        "--distributed: cannot find the other processes" in outcome.stderr
        and "--coordinator=…" in outcome.stderr
    )


SLURM = "SLURM_JOB_ID=77 SLURM_STEP_NODELIST=127.0.0.1 SLURM_NTASKS=1 SLURM_PROCID=0 SLURM_LOCALID=0"


@pytest.mark.slow
def test_processes_of_slurm_find_each_other(environment):
    code = (
        "from electra_jax.distributed.processes import join_processes; join_processes(); import jax; "
        "assert jax.distributed.is_initialized() and jax.process_count() == 1"
    )
    variables = dict(word.split("=") for word in SLURM.split())
    outcome = run_python("-c", code, environment=os.environ | environment | variables)
    assert outcome.returncode == 0, outcome.stderr
    assert "process 0 of 1: 1 of 1 devices" in outcome.stderr
