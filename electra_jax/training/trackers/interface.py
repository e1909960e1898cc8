"""What a tracker is: a writer of a run's metrics beside metrics.jsonl.

A tracker of your own is a class in a module that Python finds, for example in my_module.py where you start
the command: `--config.log.trackers=my_module:MyWriter`.

    class MyWriter:
        def __init__(self, run): ...            # a TrackedRun; opens what it needs
        def write(self, step, scalars): ...     # one row: {"loss": 6.1, …} or {"eval/mlm_loss": 5.9, …}
        def close(self): ...                    # the run ends or is stopped
"""

import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, Protocol


class TrackedRun(NamedTuple):
    """What a tracker knows of its run."""

    directory: Path  # of the run; of a run in a bucket, its local copy, which is uploaded
    name: str  # the last part of the run directory's name
    config: dict[str, Any]  # the configuration, as in config.json
    start_step: int  # the restored step, 0 for a new run: rows up to it have been written before

    def remembered(self, tracker: str) -> str:
        """An identity of this run for a tracker. It is kept in the run directory, so a run that resumes is
        one run for the tracker, too."""
        path = self.directory / f"{tracker}_run_id.txt"
        if not path.is_file():
            self.directory.mkdir(parents=True, exist_ok=True)
            path.write_text(uuid.uuid4().hex + "\n", encoding="utf-8")
        return path.read_text(encoding="utf-8").strip()


class Tracker(Protocol):
    """Called by one thread, so it may wait for a network. What it raises ends the tracker, not the run."""

    def write(self, step: int, scalars: Mapping[str, float]) -> None:
        """Write the row of a step. Names of evaluations start with "eval/", of probes with "probe/"; values
        may be NaN. Steps do not descend, but an evaluation has the step of the training row before it. After
        a crash, rows beyond `start_step` come again."""

    def close(self) -> None:
        """Finish writing."""


TrackerFactory = Callable[[TrackedRun], Tracker]
