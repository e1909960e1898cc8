"""Runs the parts of the check one by one, each in a process of its own with a time limit.

A part that hangs is killed with all processes that it started, and the next one runs. Each part writes its
result itself, so that one that is killed keeps what it had. A second start in the same directory repeats only
the parts that have not passed, or passed under other conditions: device, versions, commit or --data.
"""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from data_pipelines.process_ends import signals_as_exit
from electra_jax.benchmarks.accelerator.parts import Part, log_path, result_path
from electra_jax.benchmarks.accelerator.results import (
    FAILED,
    PASSED,
    RUNNING,
    TIME_LIMIT,
    Result,
    read_result,
    write_result,
)

CHECKOUT = Path(__file__).parents[3]
PROCESS = "electra_jax.benchmarks.accelerator.process"
GRACE_SECONDS = 5.0  # between asking a part to end and killing it
NOTE_CHARACTERS = 400  # of a log's end, in the note of a part that crashed


class Settings(NamedTuple):
    """How to run the check."""

    directory: Path
    data: str = ""  # a dataset for the debug recipe
    again: bool = False  # repeat also the parts that have passed
    limit_factor: float = 1.0  # multiplies all time limits


def part_command(part: Part, settings: Settings) -> list[str]:
    """The command that runs one part."""
    directory = f"--directory={settings.directory}"
    return [sys.executable, "-m", PROCESS, f"--part={part.name}", directory, f"--data={settings.data}"]


def run_parts(
    parts: list[Part],
    settings: Settings,
    make_command: Callable[[Part, Settings], list[str]] = part_command,
) -> list[Result]:
    """Run the parts and print a line of progress for each. The first part finds out what the device is.

    A part may use its own time limit and what the parts before it left of theirs.
    """
    (settings.directory / "parts").mkdir(parents=True, exist_ok=True)
    began = time.perf_counter()
    started: list[Part] = []
    results: list[Result] = []
    for index, part in enumerate(parts):
        conditions = results[0].conditions if results else {}
        kept = read_result(result_path(settings.directory, part.name))
        is_kept = kept is not None and not settings.again and _may_keep(kept, conditions)
        if is_kept:
            result = kept
        else:
            started.append(part)
            limit = settings.limit_factor * _seconds(started, results) - (time.perf_counter() - began)
            result = run_one(part, make_command(part, settings), settings.directory, limit)
            if found := result.figures.get("conditions"):  # the part "device"
                conditions = found | {"data": settings.data}
            result.conditions = conditions
            write_result(result_path(settings.directory, part.name), result)
        results.append(result)
        _report(part, result, parts[index + 1 :], time.perf_counter() - began, is_kept=is_kept)
    return results


def is_failure(part: Part, result: Result) -> bool:
    """Whether a part's result makes the check fail."""
    return result.status == FAILED or (result.status == TIME_LIMIT and not part.is_peer)


def run_one(part: Part, command: list[str], directory: Path, limit: float) -> Result:
    """Run one part to its end, or for at most `limit` seconds; returns what it found."""
    path, log = result_path(directory, part.name), log_path(directory, part.name)
    path.unlink(missing_ok=True)
    began = time.perf_counter()
    with open(log, "wb") as output:
        code = _run_limited(command, output, environment(directory), limit)
    result = read_result(path) or Result(part.name)
    if code is None:
        result.status = TIME_LIMIT
        result.note = f"{result.note} stopped after {limit:.0f} s; {log.name} has what it printed".strip()
    elif result.status == RUNNING:
        result.status = FAILED
        end = log.read_text(encoding="utf-8", errors="replace").strip()[-NOTE_CHARACTERS:]
        result.note = f"{result.note} ended with exit code {code}: {end}".strip()
    result.seconds = time.perf_counter() - began
    return result


def environment(directory: Path, inherited: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Environment variables of a part; those that the user has set are kept."""
    path = os.pathsep.join(filter(None, [str(CHECKOUT), inherited.get("PYTHONPATH", "")]))
    defaults = {
        "JAX_COMPILATION_CACHE_DIR": str(directory / "compiled"),  # later parts and starts compile less
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "TORCHINDUCTOR_CACHE_DIR": str(directory / "compiled" / "torch"),
        "TRITON_CACHE_DIR": str(directory / "compiled" / "triton"),
        "XLA_PYTHON_CLIENT_PREALLOCATE": "false",  # or the memory in use would be that of the reservation
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }
    return {**defaults, **inherited, "PYTHONPATH": path, "PYTHONUNBUFFERED": "1"}


def _seconds(parts: list[Part], results: list[Result]) -> float:
    """The limits of parts together; as on a CPU until the first result says what the device is."""
    on_cpu = not results or results[0].figures.get("platform") == "cpu"
    return sum(part.seconds_on_cpu if on_cpu else part.seconds for part in parts)


def _may_keep(result: Result, conditions: dict[str, Any]) -> bool:
    return result.status == PASSED and bool(conditions) and result.conditions == conditions


def _run_limited(command: list[str], output, variables: dict[str, str], limit: float) -> int | None:
    """Exit code of a command; None if it had to be killed. Nothing that it started in its process group
    outlives it."""
    with signals_as_exit():
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=variables,
            start_new_session=True,
        )
        try:
            return process.wait(timeout=max(limit, 0.0))
        except subprocess.TimeoutExpired:
            return None
        finally:
            _kill_group(process)


def _kill_group(process: subprocess.Popen) -> None:
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError, PermissionError):  # all of them have ended
            os.killpg(process.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):  # a process inside a driver may not even die
            process.wait(timeout=GRACE_SECONDS)


def _report(part: Part, result: Result, later: list[Part], elapsed: float, *, is_kept: bool) -> None:
    """Print how a part ended, the time so far, and what is next."""
    how = (
        "kept, it passed under the same conditions" if is_kept else f"{result.status}, {result.seconds:.0f} s"
    )
    following = f"next: {later[0].name} ({later[0].title})" if later else "this was the last"
    print(f"{part.name}: {how}; {elapsed:.0f} s in all; {following}", flush=True)
    for check in result.failed_checks:
        print(f"    {check['name']}: got {check['got']}, expected {check['expected']}", flush=True)
    if result.note and result.status != PASSED:
        print(f"    {result.note}", flush=True)
