"""Where metrics go: always to metrics.jsonl, on request to the terminal (progress.py) and to trackers/.

metrics.jsonl holds one JSON object per line. A training row of step n describes the n-th update (1 …
num_steps). An evaluation row of step n, whose names start with "eval/", and a probe's, "probe/", describe the
parameters after n updates. JSON has no NaN or infinity: a value that is not finite is written as null.
"""

import math
import os
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TextIO

from electra_jax.distributed.processes import exchange
from electra_jax.training.progress import RunProgress
from electra_jax.training.step_rows import Row, append_row, keep_rows, read_rows, reopened
from electra_jax.training.trackers.background import BackgroundTracker, close_trackers

METRICS_FILE = "metrics.jsonl"


class MetricWriters:
    """Writes the scalars of a run.

    When a run resumes, the rows of lost steps, beyond `start_step`, are removed, and so is a last line that a
    crash left incomplete. So no step appears twice.

    Args:
      run_dir: a local or mounted directory; created if missing.
      trackers: also get every new row; closed with the writers.
      progress: also show progress on stderr.
      total_steps: steps of the whole run.
      start_step: the restored step, 0 for a new run.
      is_writer: False on all processes but one; these write and show nothing.
      check: called before each row is written; raises an OSError if another process writes the run now.

    `observe`, if set, is called with every row that has just been written (health.py).

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
        check: Callable[[], None] = lambda: None,
    ):
        if not 0 <= start_step <= total_steps:
            raise ValueError(
                f"start_step: got {start_step}, expected 0 … config.train.num_steps={total_steps}."
            )
        self._file: TextIO | None = None
        self._progress, self._trackers, self._check = None, trackers, check
        self.observe: Callable[[Row], None] | None = None
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
        keep_rows(path, _check_numbers, lambda row: row["step"] <= start_step)
        self._progress = RunProgress(sys.stderr, start_step, total_steps) if progress else None
        self._file = path.open("a", encoding="utf-8")

    def write(self, step: int, scalars: Mapping[str, float], prefix: str = "") -> None:
        """Write one row. `prefix` goes before every name: "eval/" for evaluations, "probe/" for probes.

        Raises:
          ValueError: a scalar named "step".
          TypeError: a value that is not a number.
          OSError: the disk is full or gone, or another process writes the run.
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
            self._check()
            try:
                append_row(self._file, row)
            except OSError:
                self._file = None
                raise
            for tracker in self._trackers:
                tracker.write(step, scalars)
            if self.observe is not None:
                self.observe(row)
        if self._progress is not None:
            self._progress.show(step, scalars)

    def show(self, step: int, scalars: Mapping[str, float]) -> None:
        """Show the mean so far of a logging window that is not full. Nothing is written to a file."""
        if self._progress is not None:
            self._progress.show(step, scalars, always=True)

    def advance(self, step: int) -> None:
        """Show that this step has been dispatched. Nothing is written to a file."""
        if self._progress is not None:
            self._progress.advance(step)

    def has_row(self, step: int, prefix: str = "") -> bool:
        """Whether the file had this row when it was opened: its metrics are known."""
        return (step, prefix) in self._rows_in_file

    def reopen(self) -> None:
        """Bring the rows to where the file is kept, see `reopened`, which also says what is raised."""
        if self._file is not None:
            file, self._file = self._file, None
            self._file = reopened(file)

    def close(self) -> None:
        """Flush and close everything. May be called twice."""
        for sink in (self._file, self._progress):
            if sink is not None:
                sink.close()
        close_trackers(self._trackers)
        self._file, self._progress, self._trackers = None, None, ()

    def __enter__(self) -> "MetricWriters":
        return self

    def __exit__(self, *exception) -> None:
        self.close()


def read_metrics(run_dir: str | os.PathLike) -> list[Row]:
    """Rows of run_dir/metrics.jsonl in file order, without an incomplete last line; [] without a file.

    Raises:
      ValueError: a damaged line before the last one, or a value that is neither a number nor null; names the
        line.
    """
    return read_rows(_local(run_dir) / METRICS_FILE, _check_numbers)


def _check_numbers(row: Row) -> None:
    for name, value in row.items():
        if type(value) not in (float, int, type(None)):
            raise ValueError(f"got {value!r} as {name!r}, expected a number or null")


def training_rows(rows: Iterable[Row]) -> list[Row]:
    """Rows of training steps, which have names without a prefix."""
    return [row for row in rows if any("/" not in name for name in row if name != "step")]


def _local(run_dir: str | os.PathLike) -> Path:
    if "://" in os.fspath(run_dir):
        raise ValueError(
            f"run directory: got {os.fspath(run_dir)!r}, expected a local or mounted path: metrics.jsonl "
            "grows by appending, and object stores cannot append. Mount the bucket, or copy afterwards."
        )
    return Path(run_dir)


def _common_prefix(row: Row) -> str:
    """The prefix that all names of a row have in common, "" for training rows. It and the step identify a
    row."""
    prefixes = {name.partition("/")[0] + "/" if "/" in name else "" for name in row if name != "step"}
    return prefixes.pop() if len(prefixes) == 1 else ""
