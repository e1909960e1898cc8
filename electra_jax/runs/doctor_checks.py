"""The checks of `electra_jax.doctor`: they find what would fail in a run, on whichever process it would fail.

Each check returns a `Finding` on every process. Process 0 collects and prints them.
"""

import contextlib
import functools
import hashlib
import json
import os
import shutil
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from etils import epath
from flax.traverse_util import flatten_dict

from data_pipelines.buckets import bucket_errors, bucket_url, filesystem, is_bucket
from data_pipelines.sample.prepare import PREFIX as SAMPLE_PREFIX
from electra_jax.configuration.recipes import PACKAGE, RECIPES
from electra_jax.distributed.processes import barrier, exchange, is_main_process
from electra_jax.distributed.sharding import axis_context
from electra_jax.runs.bucket_checkpoints import open_checkpoints
from electra_jax.runs.bucket_runs import RunDirectory, bucket_of, local_directory
from electra_jax.runs.changed_length import check_length
from electra_jax.runs.data_sizes import resolve_run
from electra_jax.runs.doctor_rows import check_rows
from electra_jax.runs.doctor_space import bytes_there, how_to_fit, most_at_once
from electra_jax.runs.inputs import RunInputs, open_inputs
from electra_jax.runs.only_writer import describe_writer
from electra_jax.runs.provenance import changed_versions, format_changes, installed_versions
from electra_jax.runs.resuming import check_beginning, find_start
from electra_jax.runs.rollbacks import agreed_undone
from electra_jax.training.plain_paths import check_checkpoint_path
from electra_jax.training.program import make_program
from electra_jax.training.trackers.choose import find_trackers

CODE = (PACKAGE, PACKAGE.parent / "data_pipelines", RECIPES)  # folders that must be the same
NUM_ROWS_READ = 8  # of each dataset
TIMED_OUT = 2  # exit code
# Device file of an accelerator → how to install the JAX that uses it.
ACCELERATOR_FILES = {
    "/dev/nvidia0": "pip install 'jax[cuda13]' ('jax[cuda12]': driver before 580, GPU before Turing)",
    "/dev/accel0": "pip install 'jax[tpu]'",
    "/dev/vfio/0": "pip install 'jax[tpu]'",
}


class Finding(NamedTuple):
    """What a check found on one process."""

    text: str
    problem: str = ""  # what is wrong and what to do; "" if nothing is


class Counts(NamedTuple):
    """How many checks there were; as text, the last line that `doctor` prints."""

    num_passed: int
    num_failed: int
    num_skipped: int

    def __str__(self) -> str:
        if not self.num_failed:
            return f"{self.num_passed} checks passed."
        verb = "was" if self.num_skipped == 1 else "were"
        skipped = f", {self.num_skipped} {verb} skipped" if self.num_skipped else ""
        return f"{self.num_failed} of {sum(self)} checks failed{skipped}."


class Deadline:
    """Context that ends the process with exit code 2 after `seconds`, and reports what it was waiting for."""

    def __init__(self, seconds: float):
        self.waiting_for = "the other processes"
        self._seconds = seconds

    def __enter__(self) -> "Deadline":
        self._start()
        return self

    def renew(self) -> None:
        """Wait for `seconds` from now on: there was a sign of life."""
        self._timer.cancel()
        self._start()

    def _start(self) -> None:
        # A thread, since the main one may be held for ever in a call of JAX.
        self._timer = threading.Timer(self._seconds, self._give_up)
        self._timer.daemon = True
        self._timer.start()

    def __exit__(self, *error) -> None:
        self._timer.cancel()

    def _give_up(self) -> None:
        print(
            f"No answer in {self._seconds} seconds; this process was waiting for: {self.waiting_for}. Check "
            "that the same command is running on every host, that the hosts can reach each other, and that "
            "no other program holds the devices.",
            file=sys.stderr,
            flush=True,
        )
        os._exit(TIMED_OUT)


def run_checks(
    config: dict[str, Any],
    workdir: str | Path,
    expected_devices: int | None,
    deadline: Deadline,
    *,
    changes_length: bool,
    reads_all: bool = False,
) -> Counts:
    """Run all checks, print the findings on process 0, and count the checks. `workdir` may be a URL;
    `changes_length` as for `pretrain`; `reads_all` also checks every row of the datasets."""
    opened: list[RunInputs] = []
    checks: dict[str, Callable[[], Finding]] = {
        "devices": lambda: check_devices(expected_devices),
        "same everywhere": lambda: check_same(config),
        "run directory": lambda: check_workdir(workdir),
        "data": lambda: check_run_inputs(
            config,
            local_directory(str(workdir), may_be_empty=True),
            opened,
            changes_length=changes_length,
        ),
        "checkpoints": lambda: check_checkpoints(
            opened[0], local_directory(str(workdir), may_be_empty=True), deadline.renew
        ),
        "size": lambda: check_sizes(opened[0], workdir),
    }
    if reads_all:
        checks["rows"] = lambda: Finding(check_rows(opened[0], deadline.renew))
    num_passed = num_failed = 0
    for name, check in checks.items():
        deadline.waiting_for = name
        if name in ("checkpoints", "size", "rows") and not all(exchange(bool(opened))):
            continue  # they need the inputs that the check of the data could not open
        findings = collect(check, must_agree=name == "data")
        has_failed = any(finding.problem for finding in findings)
        num_failed, num_passed = num_failed + has_failed, num_passed + (not has_failed)
        if is_main_process():
            print_findings(name, findings)
    return Counts(num_passed, num_failed, len(checks) - num_passed - num_failed)


def collect(check: Callable[[], Finding], *, must_agree: bool) -> list[Finding]:
    """The findings of all processes, by process. With `must_agree`, differing texts are a problem, too."""
    try:
        finding = check()
    except (ValueError, OSError, ImportError) as error:
        finding = Finding("", str(error))
    findings = [Finding(*one) for one in exchange(finding)]
    if must_agree and len(set(findings)) > 1 and not any(one.problem for one in findings):
        problem = "not the same on every process. Copy the datasets again."
        findings = [one._replace(problem=problem) for one in findings]
    return findings


def print_findings(name: str, findings: list[Finding]) -> None:
    """Print one line if all processes found the same, otherwise one line for each process."""
    if len(set(findings)) == 1:
        findings = findings[:1]
    for index, finding in enumerate(findings):
        place = f" [process {index}]" if len(findings) > 1 else ""
        print(f"  {'wrong' if finding.problem else 'ok   '}  {name + place:16s}  {finding.text}", flush=True)
        if finding.problem:
            print("         " + finding.problem.replace("\n", "\n         "), flush=True)


def check_devices(expected: int | None) -> Finding:
    """The devices that JAX sees, on this process and on all processes."""
    text = f"{jax.local_device_count()} of {jax.device_count()} × {jax.devices()[0].device_kind}"
    if expected is not None and jax.device_count() != expected:
        return Finding(
            text,
            f"--expect_devices: got {jax.device_count()}, expected {expected}. Is the command running on "
            "every host, and does each host see all its devices?",
        )
    unused = [path for path in ACCELERATOR_FILES if Path(path).exists() and jax.default_backend() == "cpu"]
    if unused:
        return Finding(
            text,
            f"this machine has {unused[0]}, but JAX uses the CPU: {ACCELERATOR_FILES[unused[0]]}, and check "
            "whether JAX_PLATFORMS is set or another process holds the device.",
        )
    return Finding(text)


def check_same(config: dict[str, Any]) -> Finding:
    """Code, versions and configuration of this process against those of process 0."""
    facts = local_facts(config)
    # The values would be too many bytes to exchange; short hashes show which of them differ.
    hashes = {key: hashlib.sha256(value.encode()).hexdigest()[:8] for key, value in facts.items()}
    first = exchange(hashes)[0]
    keys = sorted(hashes.keys() | first.keys())
    differing = [
        f"{key} (here {facts.get(key, 'missing')})" for key in keys if hashes.get(key) != first.get(key)
    ]
    text = f"code {facts['code']}, jax {facts['jax']}, python {facts['python']}, {len(facts)} values"
    if not differing:
        return Finding(text)
    return Finding(
        text,
        f"not as on process 0: {', '.join(differing)}. Install the same on every host and give the same "
        "command.",
    )


def local_facts(config: dict[str, Any]) -> dict[str, str]:
    """What must be the same on every process: name → value."""
    code = hashlib.sha256()
    for folder in CODE:
        for path in sorted(folder.rglob("*.py")):
            code.update(f"{path.relative_to(folder)}\0".encode() + path.read_bytes())
    settings = {f"config.{key}": json.dumps(value) for key, value in flatten_dict(config, sep=".").items()}
    return {"code": code.hexdigest()[:12], **installed_versions(), **settings}


def check_workdir(workdir: str | Path) -> Finding:
    """Whether all processes write to one and the same run directory, who writes it at present, and which
    versions have changed since the last session of the run in it; leaves it unchanged."""
    if is_bucket(workdir):
        filesystem(bucket_url(workdir))  # an error if its packages are not installed
        workdir = epath.Path(bucket_url(workdir))
        access = functools.partial(bucket_errors, str(workdir), "written")
    else:
        workdir, access = Path(workdir), contextlib.nullcontext
    check_checkpoint_path(str(workdir))
    marks = [workdir.parent / f".{workdir.name}.doctor.{index}" for index in range(jax.process_count())]
    own = marks[jax.process_index()]
    problem = ""
    try:
        with access():
            workdir.parent.mkdir(parents=True, exist_ok=True)
            own.write_text("x", encoding="utf-8")
    except OSError as error:
        problem = f"cannot be written: {error}. Give a --workdir that this user may write to."
    barrier("marks written")
    missing = [index for index, mark in enumerate(marks) if problem or not mark.exists()]
    barrier("marks seen")
    if not problem:
        with contextlib.suppress(OSError):
            own.unlink()
    if not problem and missing:
        problem = (
            f"the files of processes {missing} are not seen here: it must be one directory, on a file "
            "system that all hosts mount (a bucket, NFS)."
        )
    changed = changed_versions(local_directory(str(workdir), may_be_empty=True))
    since = f"; changed since its last session: {format_changes(changed)}" if changed else ""
    writer = describe_writer(str(workdir))
    return Finding(f"{workdir}{since}{'; ' if writer else ''}{writer}", problem)


def check_run_inputs(
    config: dict[str, Any], workdir: Path, opened: list[RunInputs], *, changes_length: bool = False
) -> Finding:
    """The datasets, opened and read as in training; on success the inputs are appended to `opened`."""
    resolved = resolve_run(config, workdir)
    samples = [name for name in resolved.datasets if name.startswith(SAMPLE_PREFIX)]
    if samples and jax.process_count() > 1:
        raise ValueError(
            f"config.data.datasets: got {samples[0]!r} in a run of {jax.process_count()} processes, "
            "expected the directory of a dataset that all of them see."
        )
    if is_main_process():
        find_trackers(resolved.values["log"]["trackers"])
    inputs = open_inputs(resolved, workdir, changes_length=changes_length)
    described = []
    for stage in inputs.stages:
        for mixture in (stage.mixture, stage.held_out):
            mixture.read(*mixture.rows_at(0, min(NUM_ROWS_READ, mixture.num_examples or NUM_ROWS_READ)))
        number = len(stage.mixture.infos)
        if not stage.keeps_datasets:
            start = f"from step {stage.first_step} on " if described else ""
            plural = "s" if number > 1 else ""
            described.append(f"{start}{number} dataset{plural}, rows of {stage.mixture.sequence_length}")
    opened.append(inputs)
    fingerprints = ", ".join(fingerprint[:12] for fingerprint in inputs.description["data"])
    return Finding(f"{'; '.join(described)}: fingerprint {fingerprints}")


def check_checkpoints(inputs: RunInputs, workdir: Path, on_progress: Callable[[], None]) -> Finding:
    """Where a run would resume: all files of the newest checkpoint are read and compared with their
    checksums. `on_progress`: see `Checkpointer`."""
    run = RunDirectory(workdir, bucket_of(workdir), check_writer=lambda: None, is_writer=False)
    with contextlib.closing(open_checkpoints(workdir, keep=None)) as checkpointer:
        checkpointer.on_progress = on_progress
        start = find_start(checkpointer, inputs, run, undone=agreed_undone(workdir, checkpointer))
        check_beginning(start, inputs, run)
    check_length(run.name, start.step, inputs.config["train"]["num_steps"])
    text = f"resumes at step {start.step:,}" if start.step else "none yet"
    rejected = [f"; would set aside that of step {one.step}: {one.reason}" for one in start.rejected]
    return Finding(text + "".join(rejected))


def check_sizes(inputs: RunInputs, workdir: str | Path) -> Finding:
    """Whether the mesh divides the model, and state and checkpoints fit into free memory and disk space."""
    with axis_context(inputs.mesh):
        arrays = jax.tree.leaves(make_program(inputs.config, inputs.objective, inputs.mesh).abstract_state)
    whole = sum(array.size * array.dtype.itemsize for array in arrays)
    on_device = sum(
        int(np.prod(array.sharding.shard_shape(array.shape))) * array.dtype.itemsize for array in arrays
    )
    most = whole * most_at_once(inputs)
    memory = (jax.local_devices()[0].memory_stats() or {}).get("bytes_limit")
    of_memory = f" of {format_bytes(memory)}" if memory else ""
    text = f"state {format_bytes(on_device)} a device{of_memory}, {format_bytes(most)} of checkpoints"
    if memory and on_device > memory:
        return Finding(text, "the state alone does not fit. Raise config.mesh.fsdp, or take a smaller model.")
    if is_bucket(workdir):
        return Finding(text)
    workdir = Path(workdir)
    nearest = next(path for path in (workdir, *workdir.absolute().parents) if path.exists())
    there, free = bytes_there(workdir), shutil.disk_usage(nearest).free
    text += (f", {format_bytes(there)} of them there" if there else "") + f", {format_bytes(free)} free"
    needed = max(most - there, whole)  # the next one is written before an old one goes
    if needed <= free:
        return Finding(text)
    problem = f"the checkpoints do not fit, they need {format_bytes(needed)} more. "
    return Finding(text, problem + how_to_fit(inputs.config))


def format_bytes(number: float) -> str:
    """For example "1.5 KiB"."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if number < 1024:
            return f"{number:,.0f} {unit}" if unit == "B" else f"{number:,.1f} {unit}"
        number /= 1024
    return f"{number:,.1f} TiB"
