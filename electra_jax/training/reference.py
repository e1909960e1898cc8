"""Reference curves of the shipped recipes: what a healthy run looks like.

Each file in reference_curves/ holds the curves of one recipe, trained from several seeds: the median and the
range over the seeds after the same number of tokens. `python -m electra_jax.compare --suite=reference` writes
such a file (comparison/README.md).
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from flax.traverse_util import flatten_dict

from data_pipelines.json_files import read_json
from electra_jax.training.step_rows import Row

FOLDER = Path(__file__).parent / "reference_curves"
# Metrics that have a curve. They say most about replaced token detection.
METRICS = (
    "loss",
    "mlm_loss",
    "rtd_auc",
    "replaced_rate",
    "eval/mlm_loss",
    "eval/rtd_loss",
    "eval/rtd_auc",
    "eval/replaced_rate",
)
DIGITS = 5  # that are kept of a value


class Band(NamedTuple):
    """A metric of several runs after the same steps. A value that is not finite is None."""

    steps: list[int]
    tokens: list[int]  # ids of rows by then, padding included
    median: list[float | None]
    low: list[float | None]
    high: list[float | None]


class Reference(NamedTuple):
    """The curves of a recipe, seen from a run."""

    recipe: str  # argument of --config
    command: str  # that makes the curves
    seeds: list[int]
    curves: dict[str, Band]  # metric → its band
    differences: list[
        str
    ]  # "key: the recipe has X, the run Y", and one for other text; []: the same training


def find_reference(description: Mapping[str, Any], folder: Path = FOLDER) -> Reference | None:
    """The reference curves for a run: those of the recipe with its objective and model that has the fewest
    other settings. None if there is none.

    Args:
      description: what config.json of the run holds, "config" in today's form and the fingerprints "data".

    Raises:
      OSError, ValueError: a file cannot be read.
    """
    found = []
    for path in sorted(folder.glob("*.json")):
        contents = read_json(path, dict)
        differences = _differences(contents, description)
        if not any(line.startswith(("model.", "objective.name:")) for line in differences):
            found.append((len(differences), path.name, contents, differences))
    if not found:
        return None
    *_, contents, differences = min(found, key=lambda one: one[:2])
    curves = {metric: Band(**curve) for metric, curve in contents["curves"].items()}
    return Reference(contents["recipe"], contents["command"], contents["seeds"], curves, differences)


def _differences(contents: Mapping[str, Any], description: Mapping[str, Any]) -> list[str]:
    # As from JSON, so that tuples are lists.
    run = json.loads(json.dumps(flatten_dict(dict(description["config"]), sep="."), default=dict))
    lines = [
        f"{key}: the recipe has {value!r}, the run {run.get(key)!r}"
        for key, value in contents["settings"].items()
        if run.get(key) != value
    ]
    if list(description["data"]) != contents["corpus"]["fingerprints"]:
        lines.append("data: the run has other text, another tokenizer or other rows")
    return lines


def make_curves(runs: Sequence[Sequence[Row]], tokens_per_step: int) -> dict[str, dict[str, list]]:
    """Metric → its `Band` as a dictionary, at the steps that all runs have.

    Args:
      runs: the rows of metrics of each run.
      tokens_per_step: ids of rows in a step.
    """
    curves = {}
    for metric in METRICS:
        values = [{row["step"]: row[metric] for row in rows if metric in row} for rows in runs]
        steps = sorted(set.intersection(*map(set, values)))
        if steps:
            table = np.array([[run[step] for step in steps] for run in values], np.float64)
            band = Band(
                steps,
                [step * tokens_per_step for step in steps],
                *(_short(reduce(table, axis=0)) for reduce in (np.median, np.min, np.max)),
            )
            curves[metric] = band._asdict()
    return curves


def _short(values: np.ndarray) -> list[float | None]:
    return [float(f"{value:.{DIGITS}g}") if np.isfinite(value) else None for value in values]
