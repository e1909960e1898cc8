"""What a part of the check found: its checks, figures and status, written to a file as they come."""

import dataclasses
import time
from pathlib import Path
from typing import Any

from data_pipelines.json_files import read_json, write_json

RUNNING, PASSED, FAILED, NOT_RUN, TIME_LIMIT = "running", "passed", "failed", "not run", "time limit"


class CannotRunError(Exception):
    """A part that needs something which is not here; the message names it."""


@dataclasses.dataclass
class Result:
    """The result of one part, as its file holds it."""

    part: str
    status: str = RUNNING
    note: str = ""  # why it failed, was not run, or what its figures leave out
    seconds: float = 0.0
    conditions: dict[str, Any] = dataclasses.field(default_factory=dict)  # device, versions, code
    checks: list[dict[str, Any]] = dataclasses.field(default_factory=list)  # name, passed, got, expected
    figures: dict[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def failed_checks(self) -> list[dict[str, Any]]:
        return [check for check in self.checks if not check["passed"]]


class Recorder:
    """Writes the result of a part each time something is added, so that a part that is stopped loses nothing.

    Args:
      path: of the result's file.
      part: its name.
    """

    def __init__(self, path: Path, part: str):
        self._path, self._start = path, time.perf_counter()
        self.result = Result(part)
        self._write()

    def check(self, name: str, passed: bool, *, got: Any, expected: Any) -> None:
        """Record whether something is as it should be."""
        entry = {"name": name, "passed": bool(passed), "got": str(got), "expected": str(expected)}
        self.result.checks.append(entry)
        print(f"{'ok    ' if passed else 'FAILED'} {name}: got {got}, expected {expected}", flush=True)
        self._write()

    def add(self, **figures: Any) -> None:
        """Record figures by name; a name that is there already gets the new value."""
        self.result.figures |= figures
        print(*(f"{name} {value}" for name, value in figures.items()), sep="\n", flush=True)
        self._write()

    def remark(self, note: str) -> None:
        """Record something that the figures leave out."""
        self.result.note = f"{self.result.note} {note}".strip()
        self._write()

    def finish(self, status: str) -> None:
        """Record how the part ended."""
        self.result.status = status
        self._write()

    def _write(self) -> None:
        self.result.seconds = time.perf_counter() - self._start
        write_result(self._path, self.result)


def read_result(path: Path) -> Result | None:
    """The result in a file; None if there is none that can be read."""
    try:
        return Result(**read_json(path, dict))
    except (OSError, ValueError, TypeError):
        return None


def write_result(path: Path, result: Result) -> None:
    """Write a result in one go."""
    write_json(path, dataclasses.asdict(result))
