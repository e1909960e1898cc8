"""Files of JSON lines as they are found: a report leaves out what it cannot read, and counts it."""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from data_pipelines.json_files import parse_json

MAX_LINE = 4 * 2**20  # bytes; no row of a run is nearly as long


class RowFile:
    """The rows of a file, one at a time, so that a long run's fit into memory.

    Attributes:
      num_damaged: lines so far that are no object, too long, or lack a whole "step" where one is needed. An
        incomplete last line does not count: a running run may be writing it.
      error: why the file could not be read to its end, "" if it could.
    """

    def __init__(self, path: Path, *, has_steps: bool = True):
        self.path, self.num_damaged, self.error = path, 0, ""
        self._has_steps = has_steps

    def __iter__(self) -> Iterator[dict[str, Any]]:
        try:
            with self.path.open("rb") as file:
                while line := file.readline(MAX_LINE):
                    if not line.endswith(b"\n") and len(line) == MAX_LINE:
                        while (rest := file.readline(MAX_LINE)) and not rest.endswith(b"\n"):
                            pass
                        self.num_damaged += 1
                    elif (row := _parse(line, self._has_steps)) is not None:
                        yield row
                    elif line.endswith(b"\n"):
                        self.num_damaged += 1
        except OSError as error:
            self.error = error.strerror or str(error)

    def problem(self) -> str:
        """A sentence about what was not read; "" if everything was."""
        if not self.path.exists():
            return f"{self.path.name} is missing."
        if self.error:
            return f"{self.path.name} could not be read: {self.error}."
        count = f"{self.num_damaged:,} line{'s' * (self.num_damaged > 1)}"
        return f"{self.path.name}: {count} could not be read." if self.num_damaged else ""


def number(value: Any) -> float:
    """A value from JSON as a float; NaN for everything that is not a finite number."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return math.nan
    try:
        value = float(value)
    except OverflowError:
        return math.nan
    return value if math.isfinite(value) else math.nan


def _parse(line: bytes, has_steps: bool) -> dict[str, Any] | None:
    try:
        row = parse_json(line, dict, "a row")
    except ValueError:
        return None
    if has_steps:
        step = number(row.get("step"))
        if not (step >= 0 and step == int(step)):
            return None
        row["step"] = int(step)
    return row
