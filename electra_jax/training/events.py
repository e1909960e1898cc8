"""What happened in a run beside its metrics: events.jsonl, one JSON object per line.

An event has "step", the number of updates done by then; "kind", one of KINDS; "message", a sentence;
"advice", what a person can do about it, or ""; and values of its own.
"""

import os
import sys
from pathlib import Path
from typing import Any, TextIO

from data_pipelines.json_files import Maybe, misfit
from electra_jax.training.step_rows import Row, append_row, keep_rows, read_rows, reopened

EVENTS_FILE = "events.jsonl"
# Kind → whether events of later steps than the restored one stay when a run resumes. Others happen again, as
# they follow from the steps that are repeated.
KINDS = {
    "alarm": False,  # the training does not look healthy; "name" tells which alarm
    "spike": False,  # a step whose loss was far above its own past ended the run
    "nonfinite": False,  # a step whose gradients or update were not finite ended the run
    "skipped": False,  # a step whose update was left out
    "rolled_back": True,  # the run returned to an earlier step
    "fell_back": True,  # a damaged checkpoint was set aside, and an earlier one restored
    "rows_lost": True,  # metrics.jsonl lacked rows of steps that were done
}
# Kind → the form of the values that events of it are read for.
FORMS = {
    "alarm": {"name": Maybe(str), "task": Maybe((str, type(None)))},
    "rolled_back": {"to": Maybe(int)},
    "rows_lost": {"ranges": Maybe([[int, int]]), "first": Maybe(int), "last": Maybe(int)},
}


class EventLog:
    """Appends the events of a run, and prints each on stderr.

    Args:
      run_dir: a local or mounted directory.
      start_step: the restored step, 0 for a new run.
      is_writer: False on all processes but one; these write and print nothing.
    """

    def __init__(self, run_dir: str | os.PathLike, *, start_step: int, is_writer: bool = True):
        self._file: TextIO | None = None
        if is_writer:
            path = Path(run_dir) / EVENTS_FILE
            keep_rows(
                path, _check, lambda event: event["step"] <= start_step or KINDS.get(event["kind"], True)
            )
            self._file = path.open("a", encoding="utf-8")

    def record(self, step: int, kind: str, message: str, *, advice: str = "", **values: Any) -> None:
        """Write one event.

        Raises:
          KeyError: a kind that is not in KINDS.
          OSError: the disk is full or gone.
        """
        if self._file is None:
            return
        _ = KINDS[kind]
        append_row(
            self._file, {"step": int(step), "kind": kind, "message": message, "advice": advice, **values}
        )
        print(f"step {step}: {message}{' ' if advice else ''}{advice}", file=sys.stderr, flush=True)

    def reopen(self) -> None:
        """Bring the events to where the file is kept, see `reopened`, which also says what is raised."""
        if self._file is not None:
            file, self._file = self._file, None
            self._file = reopened(file)

    def close(self) -> None:
        """May be called twice."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def __enter__(self) -> "EventLog":
        return self

    def __exit__(self, *exception) -> None:
        self.close()


def read_events(run_dir: str | os.PathLike) -> list[Row]:
    """Events of a run in file order; raises as `read_rows` does."""
    return read_rows(Path(run_dir) / EVENTS_FILE, _check)


def _check(event: Row) -> None:
    """Raises ValueError if an event has not the values that its readers use."""
    form = {"kind": str, "message": Maybe(str), "advice": Maybe(str)}
    if problem := misfit(event, form) or misfit(event, FORMS.get(event["kind"], {})):
        raise ValueError(problem)
