"""What a report shows of a run directory. Missing and damaged files become sentences, not errors."""

import functools
import math
import operator
import time
from pathlib import Path
from typing import Any, NamedTuple

from data_pipelines.json_files import check_form, misread, parse_json, read_bytes
from electra_jax.configuration.migration import upgrade_config, upgrade_datasets
from electra_jax.reports.curves import Curve, read_curves
from electra_jax.reports.recipe_difference import RecipeDifference, difference_to_recipe
from electra_jax.reports.rows import RowFile
from electra_jax.runs.bucket_runs import bucket_of, local_directory
from electra_jax.runs.lost_rows import describe, lost_rows, untold
from electra_jax.runs.provenance import SESSIONS_FILE
from electra_jax.training.events import EVENTS_FILE
from electra_jax.training.reference import Reference, find_reference
from electra_jax.training.writers import METRICS_FILE

MAX_JSON = 64 * 2**20  # bytes
EXPECTED = (
    "expected a directory of electra_jax.pretrain, of `electra_jax.convert import` or of electra_jax.soup"
)

ROW_SIZES = ("train.batch_size", "data.sequence_length")


class RunView(NamedTuple):
    """A run, for a report."""

    place: str  # as given
    path: Path  # the directory, or a local copy of a bucket's small files
    config: dict[str, Any]  # {} if unknown
    curves: dict[str, Curve]
    events: list[dict[str, Any]]
    sessions: list[dict[str, Any]]
    datasets: list[dict[str, Any]]
    recipe: RecipeDifference
    parameters: str  # the totals of parameters.txt
    num_steps: int | None  # of the whole run; None if unknown
    mesh: dict[str, Any] | None  # config.mesh; None if unknown
    tokens_per_step: int | None  # ids of rows; None if unknown, or not the same in all stages
    written: str  # UTC time of the newest row of metrics; "" without metrics, and of a copy
    problems: list[str]  # what is missing or damaged
    reference: Reference | None = None  # runs of its recipe to compare with

    @property
    def is_local(self) -> bool:
        """Whether the directory is the run itself, not a copy of it."""
        return bucket_of(self.path) is None

    @property
    def step(self) -> int:
        """The newest step with metrics."""
        return max((int(curve.steps[-1]) for curve in self.curves.values()), default=0)


def read_run(place: str) -> RunView:
    """Read a run directory, or its URL in a bucket.

    Raises:
      FileNotFoundError: it is no directory, or has neither a configuration nor metrics.
      ValueError: it holds something else, such as a fine-tuning or an export.
    """
    path = local_directory(place)
    if not path.is_dir():
        raise FileNotFoundError(f"RUN: {place} is not a directory, {EXPECTED}.")
    problems: list[str] = []
    description = _read_json(path / "config.json", dict, problems)
    config = _config(place, path, description, problems)
    metrics = RowFile(path / METRICS_FILE)
    curves = read_curves(metrics)
    sessions = _rows(path / SESSIONS_FILE, problems, has_steps=False)
    events = _rows(path / EVENTS_FILE, problems) if (path / EVENTS_FILE).exists() else []
    written = ""
    if metrics.path.exists() and bucket_of(path) is None:
        written = time.strftime("%Y-%m-%d %H:%M", time.gmtime(metrics.path.stat().st_mtime))
    problems += filter(None, [metrics.problem(), _lost_rows(config, curves, sessions, events)])
    command = sessions[0].get("command") if sessions else None
    return RunView(
        place,
        path,
        config,
        curves,
        events,
        sessions,
        _datasets(path, config, problems),
        difference_to_recipe(config, command if isinstance(command, list) else []),
        _last_line(path / "parameters.txt", problems),
        _setting(config, "train.num_steps", int, problems),
        _setting(config, "mesh", dict, problems),
        _tokens_per_step(config, problems),
        written,
        problems,
        _reference(config, description.get("data"), problems),
    )


def _lost_rows(
    config: dict[str, Any],
    curves: dict[str, Curve],
    sessions: list[dict[str, Any]],
    events: list[dict[str, Any]],
) -> str:
    """A sentence about rows that are missing between others; "" if none is, an event tells it, or it cannot
    be told."""
    steps = {step for name, curve in curves.items() if "/" not in name for step in curve.steps.tolist()}
    try:
        ranges = untold(lost_rows(steps, max(steps), config, sessions), events) if steps and config else []
    except (KeyError, TypeError, ValueError, AttributeError, ZeroDivisionError):  # values of another form
        return ""
    return describe(ranges) if ranges else ""


def _config(place: str, path: Path, description: dict[str, Any], problems: list[str]) -> dict[str, Any]:
    """The configuration; {} if config.json lacks it and the directory has metrics all the same."""
    config = description.get("config")
    if isinstance(config, dict) and "task" in config:
        raise ValueError(
            f"RUN: got {place}, a fine-tuning, {EXPECTED}. The results of a fine-tuning are in its "
            "results.md, and its encoder's run can be reported."
        )
    if not isinstance(config, dict):
        if description or not (path / METRICS_FILE).is_file():
            what = "config.json of something else" if description else "neither config.json nor metrics.jsonl"
            raise FileNotFoundError(f"RUN: {place} has {what}, {EXPECTED}.")
        return {}
    try:
        with misread("config.json", ""):
            return upgrade_config(config)
    except ValueError as error:
        problems.append(str(error).strip())
        return {}


def _setting(config: dict[str, Any], key: str, form: type, problems: list[str]) -> Any:
    """A value of the configuration; None, and a problem, if it is missing or of another form."""
    if not config:  # which is a problem already
        return None
    names = key.split(".")
    nested = functools.reduce(lambda inner, name: {name: inner}, reversed(names), form)
    try:
        check_form(config, nested, "config.json", "")
    except ValueError as error:
        problems.append(str(error).strip())
        return None
    return functools.reduce(operator.getitem, names, config)


def _tokens_per_step(config: dict[str, Any], problems: list[str]) -> int | None:
    sizes = [_setting(config, key, int, problems) for key in ROW_SIZES]
    return math.prod(sizes) if all(sizes) and not config["stages"] else None


def _reference(config: dict[str, Any], data: Any, problems: list[str]) -> Reference | None:
    """The reference curves for a run; None, and a problem, if they cannot be compared with it."""
    try:
        fingerprints = data if isinstance(data, list) else []
        return find_reference({"config": config, "data": fingerprints}) if config else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        problems.append(f"The reference curves could not be read: {error!r}.")
        return None


def _read_json(path: Path, kind: type, problems: list[str]) -> Any:
    """The value of a JSON file; an empty one of its kind, and a problem, if it cannot be read."""
    try:
        return parse_json(read_bytes(path, MAX_JSON, ""), kind, path.name, "")
    except FileNotFoundError:
        problems.append(f"{path.name} is missing.")
    except (OSError, ValueError) as error:
        problems.append(f"{path.name} could not be read: {str(error).strip()}")
    return kind()


def _rows(path: Path, problems: list[str], *, has_steps: bool = True) -> list[dict[str, Any]]:
    file = RowFile(path, has_steps=has_steps)
    rows = list(file)
    problems += filter(None, [file.problem()])
    return rows


def _datasets(path: Path, config: dict[str, Any], problems: list[str]) -> list[dict[str, Any]]:
    entries = _read_json(path / "datasets.json", list, problems)
    try:
        with misread("datasets.json", ""):
            entries = upgrade_datasets(entries, config)
    except ValueError as error:
        problems.append(str(error).strip())
    return [entry for entry in entries if isinstance(entry, dict)]


def _last_line(path: Path, problems: list[str]) -> str:
    try:
        with path.open(encoding="utf-8", errors="replace") as file:
            return file.read(MAX_JSON).rstrip().rpartition("\n")[2]
    except OSError:
        problems.append(f"{path.name} is missing.")
        return ""
