"""What is kept of a step in numerical trouble: a JSON file for each below RUN/incidents."""

import itertools
import json
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from data_pipelines.json_files import read_json, write_json
from data_pipelines.loader import Loader
from data_pipelines.tokenizers.load import load_tokenizer
from electra_jax.distributed.processes import barrier, is_main_process
from electra_jax.training.state import TrainState
from electra_jax.training.watch import Incident

DIRECTORY = "incidents"
MAX_ROWS = 8  # whose tokens are shown
RowLosses = Callable[..., tuple[jax.Array, jax.Array]]


class Evidence:
    """Keeps what is known of incidents of one stage. Every process must call it.

    Args:
      workdir: of the run.
      batches: of the stage.
      row_losses: (parameters, ids, step from 0) → (loss of each row, ids), on every process whole.
      read_params: () → (parameters of the newest checkpoint, its step), for when those of the run are lost.
      tokenizer: its directory.
    """

    def __init__(
        self,
        workdir: Path,
        batches: Loader,
        row_losses: RowLosses,
        read_params: Callable[[], tuple[Any, int]],
        tokenizer: Path,
    ):
        self._directory, self._batches, self._row_losses = workdir / DIRECTORY, batches, row_losses
        self._read_params, self._tokenizer = read_params, tokenizer

    def __call__(self, incident: Incident, state: TrainState | None) -> str:
        """Write the file of an incident; returns a sentence about it.

        Args:
          state: of the run, later than the incident; None if it is not finite any longer.
        """
        rows = self._batches.rows_at(incident.step - 1)
        found = {
            "step": incident.step,
            "kind": incident.kind,
            "numbers": {name: _finite(value) for name, value in incident.numbers.items()},
            "rows": [[path, row] for path, row in rows],
            **self._measure(incident.step - 1, state, rows),
        }
        name = ""
        if is_main_process():
            name = self._write(f"step_{incident.step}_{incident.kind}", found)
        barrier("incident kept")
        shown = ", ".join(f"{os.path.basename(path)} {row}" for path, row in rows[:4])
        place = f"{DIRECTORY}/{name}" if name else DIRECTORY
        return f"The {len(rows)} rows of its batch are in {place} and begin with {shown}."

    def _measure(self, step: int, state: TrainState | None, rows: list[tuple[str, int]]) -> dict[str, Any]:
        """The losses of the rows, and the tokens of the worst. What fails here must not hide the incident."""
        try:
            params, of_step = self._read_params() if state is None else (state.params, int(state.step))
            batch = self._batches.batch_at(step)["input_ids"]
            losses, ids_BL = jax.device_get(self._row_losses(params, batch, step))
            tokenizer = load_tokenizer(str(self._tokenizer))
        except Exception as error:
            return {"row_losses": None, "not_measured": f"{type(error).__name__}: {error}"}
        badness = np.where(np.isfinite(losses), losses, np.inf)
        spelling = tokenizer.vocabulary()
        return {
            "parameters_of_step": of_step,
            "row_losses": [_finite(loss) for loss in losses],
            "worst_rows": [
                {
                    "dataset": rows[number][0],
                    "row": rows[number][1],
                    "loss": _finite(losses[number]),
                    "text": tokenizer.decode([int(one) for one in ids_BL[number] if one < len(spelling)]),
                    "tokens": [
                        spelling[one] if one < len(spelling) else f"<{one}>" for one in ids_BL[number]
                    ],
                }
                for number in np.argsort(-badness, kind="stable")[:MAX_ROWS].tolist()
            ],
        }

    def _write(self, stem: str, found: dict[str, Any]) -> str:
        """Write under the first free name, unless a file has the same content: a run that resumes meets the
        same incident again."""
        self._directory.mkdir(exist_ok=True)
        names = itertools.chain([f"{stem}.json"], (f"{stem}_{number}.json" for number in itertools.count(2)))
        for path in map(self._directory.joinpath, names):
            if not path.exists():
                write_json(path, found)
                return path.name
            if _is_same(path, found):
                return path.name


def _is_same(path: Path, found: dict[str, Any]) -> bool:
    """Whether a file has this content; a damaged one has not."""
    try:
        return read_json(path) == json.loads(json.dumps(found))
    except (OSError, ValueError):
        return False


def _finite(value: Any) -> float | None:
    return float(value) if math.isfinite(value) else None
