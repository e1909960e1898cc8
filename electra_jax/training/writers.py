"""Where metrics go: always to metrics.jsonl, on request to the terminal (progress.py) and to trackers/.

metrics.jsonl holds one JSON object per line. A training row of step n describes the n-th update (1 …
num_steps). An evaluation row of step n, whose names start with "eval/", and a probe's, "probe/", describe the
parameters after n updates. JSON has no NaN or infinity: a value that is not finite is written as null.
"""

import contextlib
import json
import math
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

from electra_jax.distributed.processes import exchange
from electra_jax.training.progress import RunProgress
from electra_jax.training.trackers.background import BackgroundTracker, close_trackers

METRICS_FILE = "metrics.jsonl"

Row = dict[str, Any]


class MetricWriters:
    """Writes the scalars of a run.

    When a run resumes, the rows of lost steps, beyond `start_step`, are removed, and so is a last line that a
    crash left incomplete. Thus no step appears twice.

    Args:
      run_dir: a local or mounted directory; created if missing.
      trackers: also get every new row; closed with the writers.
      progress: also show progress on stderr.
      total_steps: steps of the whole run.
      start_step: the restored step, 0 for a new run.
      is_writer: False on all processes but one; these write and show nothing.

    Raises:
      ValueError: a remote `run_dir`, a start beyond the end, or a metrics.jsonl that is damaged before its
        last line.
    """

    def __init__(
        self,
        run_dir: str | os.PathLike,
        *,
        progress: bool,
        total_steps: int,
        start_step: int,
        trackers: Sequence[BackgroundTracker] = (),
        is_writer: bool = True,
    ):
        if not 0 <= start_step <= total_steps:
            raise ValueError(
                f"start_step: got {start_step}, expected 0 … config.train.num_steps={total_steps}."
            )
        self._file: TextIO | None = None
        self._progress, self._trackers = None, trackers
        # Rows of the restored step that the file has already, which must not be repeated. `has_row` decides
        # whether all processes run an evaluation together, so what process 0 reads holds for all: a shared
        # file system may show the others an older file.
        restored = [row for row in read_metrics(run_dir) if row["step"] == start_step]
        rows_in_file = exchange([(row["step"], _common_prefix(row)) for row in restored])[0]
        self._rows_in_file = {(step, prefix) for step, prefix in rows_in_file}
        if not is_writer:
            return
        run_dir = _local(run_dir)
        run_dir.mkdir(parents=True, exist_ok=True)
        path = run_dir / METRICS_FILE
        _remove_rows_after(path, start_step)
        self._progress = RunProgress(sys.stderr, start_step, total_steps) if progress else None
        self._file = path.open("a", encoding="utf-8")

    def write(self, step: int, scalars: Mapping[str, float], prefix: str = "") -> None:
        """Write one row. `prefix` goes before every name: "eval/" for evaluations, "probe/" for probes.

        Raises:
          ValueError: a scalar named "step".
          TypeError: a value that is not a number.
          OSError: the disk is full or gone.
        """
        if self._file is None:
            return
        scalars = {prefix + name: float(value) for name, value in scalars.items()}
        if "step" in scalars:
            raise ValueError('a metric may not be named "step", the key of the row\'s step. Rename it.')
        row = {
            "step": int(step),
            **{name: value if math.isfinite(value) else None for name, value in scalars.items()},
        }
        if (row["step"], _common_prefix(row)) not in self._rows_in_file:
            # One write per row: a crash leaves at most the last line incomplete, which the next start drops.
            try:
                self._file.write(json.dumps(row, allow_nan=False) + "\n")
                self._file.flush()
            except OSError as error:
                raise self._write_error(error) from error
            for tracker in self._trackers:
                tracker.write(step, scalars)
        if self._progress is not None:
            self._progress.show(step, scalars)

    def show(self, step: int, scalars: Mapping[str, float]) -> None:
        """Show the mean so far of a logging window that is not full. Nothing is written to a file."""
        if self._progress is not None:
            self._progress.show(step, scalars, always=True)

    def has_row(self, step: int, prefix: str = "") -> bool:
        """Whether the file had this row when it was opened: its metrics need not be computed again."""
        return (step, prefix) in self._rows_in_file

    def close(self) -> None:
        """Flush and close everything. May be called twice."""
        for sink in (self._file, self._progress):
            if sink is not None:
                sink.close()
        close_trackers(self._trackers)
        self._file, self._progress, self._trackers = None, None, ()

    def _write_error(self, error: OSError) -> OSError:
        name, file, self._file = self._file.name, self._file, None
        with contextlib.suppress(OSError):  # closing tries to write the row again
            file.close()
        return OSError(
            f"{name}: a row could not be written: {error}. Free disk space and run the same command again: "
            "it resumes from the newest checkpoint."
        )

    def __enter__(self) -> "MetricWriters":
        return self

    def __exit__(self, *exception) -> None:
        self.close()


def read_metrics(run_dir: str | os.PathLike) -> list[Row]:
    """Rows of run_dir/metrics.jsonl in file order, without an incomplete last line; [] without a file.

    Raises:
      ValueError: a damaged line before the last one; names it.
    """
    path = _local(run_dir) / METRICS_FILE
    return _parse(path)[0] if path.exists() else []


def _local(run_dir: str | os.PathLike) -> Path:
    if "://" in os.fspath(run_dir):
        raise ValueError(
            f"run directory: got {os.fspath(run_dir)!r}, expected a local or mounted path: metrics.jsonl "
            "grows by appending, and object stores cannot append. Mount the bucket, or copy afterwards."
        )
    return Path(run_dir)


def _parse(path: Path) -> tuple[list[Row], bool]:
    """Rows of the file, and whether its last line lacks its newline. That line is left out unless it is a
    complete row."""
    lines = path.read_bytes().split(b"\n")
    is_incomplete = lines[-1] != b""
    rows = []
    for number, line in enumerate(lines if is_incomplete else lines[:-1], start=1):
        try:
            row = json.loads(line)
            row["step"] = int(row["step"])
        except (ValueError, TypeError, KeyError) as error:
            if number == len(lines):  # an incomplete last line
                break
            raise ValueError(
                f'{path}, line {number}: expected an object with a "step", got {line[:80]!r}. Repair '
                "the file or move it away; the run itself can still be resumed."
            ) from error
        rows.append(row)
    return rows, is_incomplete


def _remove_rows_after(path: Path, start_step: int) -> None:
    """Remove rows of later steps and an incomplete last line; a crash leaves the old file or the new one."""
    if not path.exists():
        return
    rows, is_incomplete = _parse(path)
    kept = [row for row in rows if row["step"] <= start_step]
    if is_incomplete or len(kept) < len(rows):
        rewritten = path.with_name(path.name + ".tmp")
        with rewritten.open("w", encoding="utf-8") as file:
            file.writelines(json.dumps(row) + "\n" for row in kept)
            file.flush()
            os.fsync(file.fileno())
        rewritten.replace(path)


def _common_prefix(row: Row) -> str:
    """The prefix that all names of a row have in common, "" for training rows. It and the step identify a
    row."""
    prefixes = {name.partition("/")[0] + "/" if "/" in name else "" for name in row if name != "step"}
    return prefixes.pop() if len(prefixes) == 1 else ""
