"""Is everything ready for a run? `python -m electra_jax.doctor`, with the arguments of
`electra_jax.pretrain`.

On several hosts it is given on all of them, with --distributed as there. Without training anything it checks,
on each: its devices; that code, versions and configuration are those of the first; that all write to one run
directory; that the datasets can be read and are the same; that the mesh divides the model, and that its state
and checkpoints fit. Prints a line a check, and of what is wrong what to do. Exit code 0: all is well; 1:
something is wrong; 2: no answer in --timeout seconds.
"""

import contextlib
import hashlib
import importlib.metadata
import json
import os
import platform
import shutil
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from absl import app, flags
from jax.experimental import multihost_utils

from data_pipelines.sample.prepare import PREFIX as SAMPLE_PREFIX
from electra_jax.configuration import flags as command_line
from electra_jax.configuration.flags import define_flags, parse_flags
from electra_jax.configuration.resolve import resolve
from electra_jax.distributed.processes import (
    barrier,
    define_process_flags,
    exit_process,
    is_main_process,
    join_by_flags,
)
from electra_jax.distributed.sharding import axis_context
from electra_jax.pretrain import silence_libraries
from electra_jax.runs.directory import flatten
from electra_jax.runs.inputs import RunInputs, open_inputs
from electra_jax.training.program import make_program

PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy")
ROOT, CODE = Path(__file__).parent.parent, ("electra_jax", "data_pipelines", "configs")
MESSAGE_BYTES = 1 << 16  # of a process, exchanged at once
# Of a machine with accelerators, which JAX may still not see.
ACCELERATOR_FILES = {
    "/dev/nvidia0": "pip install 'jax[cuda12]'",
    "/dev/accel0": "pip install 'jax[tpu]'",
    "/dev/vfio/0": "pip install 'jax[tpu]'",
}


class Finding(NamedTuple):
    """What a check found on one process; `problem` says what is wrong and what to do, "" when nothing is."""

    text: str
    problem: str = ""


def check_devices(expected: int | None) -> Finding:
    """Devices that JAX sees, here and in all."""
    text = f"{jax.local_device_count()} of {jax.device_count()} × {jax.devices()[0].device_kind}"
    if expected is not None and jax.device_count() != expected:
        return Finding(
            text,
            f"--expect_devices: got {jax.device_count()}, expected {expected}. Is the command running on "
            "every host, and does each see all its devices?",
        )
    unused = [path for path in ACCELERATOR_FILES if Path(path).exists() and jax.default_backend() == "cpu"]
    if unused:
        return Finding(
            text,
            f"this machine has {unused[0]}, but JAX uses the CPU: {ACCELERATOR_FILES[unused[0]]}, and look "
            "whether JAX_PLATFORMS is set or another process holds the device.",
        )
    return Finding(text)


def local_facts(config: dict[str, Any]) -> dict[str, str]:
    """What must be the same on every process: key → value."""
    code = hashlib.sha256()
    for path in sorted(path for package in CODE for path in (ROOT / package).rglob("*.py")):
        code.update(f"{path.relative_to(ROOT)}\0".encode() + path.read_bytes())
    versions = {name: importlib.metadata.version(name) for name in PACKAGES}
    return {
        "code": code.hexdigest()[:12],
        "python": platform.python_version(),
        **versions,
        **{f"config.{key}": json.dumps(value) for key, value in flatten(config).items()},
    }


def check_same(config: dict[str, Any]) -> Finding:
    """Code, versions and configuration of this process against those of the first."""
    mine = local_facts(config)
    # The values themselves would be too many to send: a short hash of each says which differ.
    hashes = {key: hashlib.sha256(value.encode()).hexdigest()[:8] for key, value in mine.items()}
    first = exchange(hashes)[0]
    differing = [
        f"{key} (here {mine.get(key, 'missing')})"
        for key in sorted(hashes.keys() | first.keys())
        if hashes.get(key) != first.get(key)
    ]
    text = f"code {mine['code']}, jax {mine['jax']}, python {mine['python']}, {len(mine)} values"
    return Finding(
        text,
        f"other than on process 0: {', '.join(differing)}. Install the same on every host and give the same "
        "command."
        if differing
        else "",
    )


def check_run_inputs(config: dict[str, Any], workdir: Path, opened: list[RunInputs]) -> Finding:
    """The datasets, as training would open them; the inputs are appended to `opened` when they fit
    together."""
    resolved = resolve(config)
    samples = [name for name in resolved.datasets if name.startswith(SAMPLE_PREFIX)]
    if samples and jax.process_count() > 1:
        raise ValueError(
            f"config.data.datasets: got {samples[0]!r} in a run of {jax.process_count()} processes, "
            "expected the directory of a dataset that all of them see."
        )
    inputs = open_inputs(resolved, workdir)
    described = []
    for stage in inputs.stages:
        for held in (stage.mixture, stage.held_out):
            held.read(*held.rows_at(0, min(8, held.num_examples or 8)))
        number = len(stage.mixture.infos)
        if not stage.reads_on:
            described.append(
                (f"from step {stage.first_step} on " if described else "")
                + f"{number} dataset{'s' if number > 1 else ''}, rows of {stage.mixture.sequence_length}"
            )
    opened.append(inputs)
    return Finding(
        f"{'; '.join(described)}: "
        + hashlib.sha256("".join(inputs.description["data"]).encode()).hexdigest()[:12]
    )


def check_workdir(workdir: Path) -> Finding:
    """Whether all processes write to one and the same run directory, which is left as it was."""
    marks = [workdir.parent / f".{workdir.name}.doctor.{index}" for index in range(jax.process_count())]
    own = marks[jax.process_index()]
    problem = ""
    try:
        workdir.parent.mkdir(parents=True, exist_ok=True)
        own.write_text("")
    except OSError as error:
        problem = f"cannot be written: {error}. Give a --workdir that this user may write to."
    barrier("marks")
    missing = [index for index, mark in enumerate(marks) if not mark.exists()]
    barrier("marks seen")
    with contextlib.suppress(OSError):
        own.unlink()
    if not problem and missing:
        problem = (
            f"the files of processes {missing} are not seen here: it must be one directory, on a file "
            "system that all hosts mount (a bucket, NFS)."
        )
    return Finding(str(workdir), problem)


def check_sizes(inputs: RunInputs, workdir: Path) -> Finding:
    """The mesh against the model; the state of a device and the checkpoints against what is free."""
    with axis_context(inputs.mesh):
        arrays = jax.tree.leaves(make_program(inputs.config, inputs.objective, inputs.mesh).abstract_state)
    whole = sum(array.size * array.dtype.itemsize for array in arrays)
    share = sum(
        int(np.prod(array.sharding.shard_shape(array.shape))) * array.dtype.itemsize for array in arrays
    )
    needed = whole * (inputs.config["checkpoint"]["keep"] + 1)  # one more is written before the oldest goes
    nearest = next(path for path in (workdir, *workdir.absolute().parents) if path.exists())
    free = shutil.disk_usage(nearest).free
    memory = (jax.local_devices()[0].memory_stats() or {}).get("bytes_limit")
    text = (
        f"state {size(share)} a device{f' of {size(memory)}' if memory else ''}, {size(needed)} of "
        f"checkpoints, {size(free)} free"
    )
    if memory and share > memory:
        return Finding(text, "the state alone does not fit. Raise config.mesh.fsdp, or take a smaller model.")
    if needed > free:
        return Finding(text, "the checkpoints do not fit. Free space, or lower config.checkpoint.keep.")
    return Finding(text)


def size(number: float) -> str:
    """Bytes for people."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if number < 1024:
            return f"{number:,.0f} {unit}" if unit == "B" else f"{number:,.1f} {unit}"
        number /= 1024
    return f"{number:,.1f} TiB"


def exchange(value: Any) -> list[Any]:
    """The JSON values of all processes, by process."""
    data = json.dumps(value).encode()
    if len(data) > MESSAGE_BYTES:
        raise ValueError(f"{len(data)} bytes are too many to exchange.")
    row = np.zeros(MESSAGE_BYTES, np.uint8)
    row[: len(data)] = np.frombuffer(data, np.uint8)
    rows = multihost_utils.process_allgather(row).reshape(-1, MESSAGE_BYTES)
    return [json.loads(bytes(one[one != 0])) for one in rows]


def examine(
    config: dict[str, Any], workdir: Path, expected: int | None, waits_for: Callable[[str], None]
) -> bool:
    """Run all checks and print them on the first process; whether all is well. `waits_for` hears what is
    being done."""
    opened: list[RunInputs] = []
    checks: dict[str, Callable[[], Finding]] = {
        "devices": lambda: check_devices(expected),
        "same everywhere": lambda: check_same(config),
        "run directory": lambda: check_workdir(workdir),
        "data": lambda: check_run_inputs(config, workdir, opened),
        "size": lambda: check_sizes(opened[0], workdir),
    }
    is_well = True
    for name, check in checks.items():
        waits_for(name)
        if name == "size" and not all(exchange(bool(opened))):
            continue  # what it needs is what the check before found wrong
        try:
            finding = check()
        except (ValueError, OSError, ImportError) as error:
            finding = Finding("", str(error))
        findings = [Finding(*one) for one in exchange(finding)]
        if (
            name == "data"
            and len({one.text for one in findings}) > 1
            and not any(one.problem for one in findings)
        ):
            findings = [
                one._replace(problem="not the same on every process. Copy the datasets again.")
                for one in findings
            ]
        is_well &= not any(one.problem for one in findings)
        if is_main_process():
            print_findings(name, findings)
    return is_well


def print_findings(name: str, findings: list[Finding]) -> None:
    """A line where all processes found the same, otherwise one each."""
    if len(set(findings)) == 1:
        findings = findings[:1]
    for index, finding in enumerate(findings):
        place = f" [process {index}]" if len(findings) > 1 else ""
        print(f"  {'wrong' if finding.problem else 'ok   '}  {name + place:16s}  {finding.text}", flush=True)
        if finding.problem:
            print("         " + finding.problem.replace("\n", "\n         "), flush=True)


def main(argv: list[str]) -> None:
    """Command line of this module."""
    del argv
    silence_libraries()
    place = ["the other processes"]

    def give_up() -> None:
        print(
            f"No answer in {flags.FLAGS.timeout} seconds; this process was waiting for: {place[0]}. Is the "
            "same command running on every host, can they reach each other, and does no other program hold "
            "the devices?",
            file=sys.stderr,
            flush=True,
        )
        os._exit(2)  # from a thread of its own, since the main one may be held in a call for ever

    timer = threading.Timer(flags.FLAGS.timeout, give_up)
    timer.daemon = True
    timer.start()
    try:
        join_by_flags()
        is_well = examine(
            flags.FLAGS.config.to_dict(),
            Path(flags.FLAGS.workdir),
            flags.FLAGS.expect_devices,
            lambda name: place.__setitem__(0, name),
        )
    except (
        ValueError,
        OSError,
        RuntimeError,
    ) as error:  # JAX's own of a device or a process that is gone among them
        exit_process(f"{type(error).__name__}: {error}")
    timer.cancel()
    if is_main_process():
        print("All is well." if is_well else "Something is wrong; see above.")
    sys.exit(0 if is_well else 1)


if __name__ == "__main__":
    define_flags()
    # Here and not above, since importing a command must not define its flags.
    define_process_flags()
    flags.DEFINE_integer(
        "expect_devices", None, "How many devices all hosts together must have.", lower_bound=1
    )
    flags.DEFINE_integer(
        "timeout", 90, "Seconds after which it ends and says what it was waiting for.", lower_bound=1
    )
    flags.adopt_module_key_flags(command_line)  # so that --help shows them
    app.run(main, flags_parser=parse_flags)
