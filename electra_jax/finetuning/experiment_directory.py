"""The directory of an experiment: which settings it belongs to, and its results so far.

The first run that ends claims it: from then on other settings are refused. Before, config.json is replaced.
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from data_pipelines.json_files import Maybe, misread, read_json, write_json
from data_pipelines.tasks.datasets import NUMBER
from data_pipelines.tasks.load import TaskData
from electra_jax.configuration.recipes import FINETUNING
from electra_jax.finetuning.results import RESULTS_FORM, Result, from_json, to_json
from electra_jax.runs.directory import check_run_directory
from electra_jax.runs.result_places import Results

CONFIG_FILE, RESULTS_FILE, MODELS = "config.json", "results.json", "models"
PREDICTIONS, TOKENIZERS, PLOTS = "predictions", "tokenizers", "plots"
RESULTS_PLOT, SWEEP_PLOT = f"{PLOTS}/results.png", f"{PLOTS}/sweep.png"
FINE_TUNING = Results(
    (CONFIG_FILE, RESULTS_FILE, RESULTS_PLOT, SWEEP_PLOT), (MODELS, PREDICTIONS, TOKENIZERS, PLOTS)
)
# Of config.json, for `read_json`; the directory may be that of a run of another kind.
CONFIG_FORM = {"config": Maybe({"task": Maybe({"metrics": Maybe([str])})}), "files": Maybe(dict)}
HELD_OUT_ORDER = "held_out_order"  # in "files" of config.json: the feature that gives it


def read_results(workdir: Path) -> list[Result]:
    """The results that the experiment in `workdir` has so far."""
    path = workdir / RESULTS_FILE
    return from_json(read_json(path, RESULTS_FORM)) if path.is_file() else []


def write_results(workdir: Path, results: Sequence[Result]) -> None:
    """Write results.json."""
    write_json(workdir / RESULTS_FILE, to_json(results))


def recorded_metrics(workdir: Path) -> tuple[str, ...]:
    """config.task.metrics of the experiment in `workdir`, with names in place of ()."""
    with misread(workdir / CONFIG_FILE):
        return tuple(_read_config(workdir)["task"]["metrics"])


def is_claimed(workdir: Path) -> bool:
    """Whether `workdir` has results, models or a run of another kind."""
    if not (workdir / CONFIG_FILE).is_file():
        return False
    models = workdir / MODELS
    has_model = models.is_dir() and any(not path.name.startswith(".") for path in models.iterdir())
    return has_model or bool(read_results(workdir)) or not _is_of_finetuning(workdir)


def with_recorded_metrics(config: dict[str, Any], workdir: Path) -> dict[str, Any]:
    """The configuration; config.task.metrics = () means those of the results that `workdir` has, if any.
    An experiment may be older than today's defaults."""
    if config["task"]["metrics"] or not is_claimed(workdir) or not _is_of_finetuning(workdir):
        return config
    return config | {"task": config["task"] | {"metrics": recorded_metrics(workdir)}}


def check_directory(workdir: Path, description: dict[str, Any]) -> None:
    """Raises ValueError if `workdir` has results of other settings, or a run of another kind. `description`
    as in `check_run_directory`."""
    if is_claimed(workdir):
        check_run_directory(workdir, description)


def held_out_order(data: TaskData) -> dict[str, str]:
    """What config.json says of the order of held-out examples; {} if it is the one in which they are
    stored."""
    is_numbered = any(origin.is_numbered for split, origin in data.origins.items() if split != "train")
    return {HELD_OUT_ORDER: NUMBER} if is_numbered else {}


def check_order(workdir: Path, order: dict[str, str]) -> None:
    """Raises ValueError if `workdir` has results of an older version, with other positions of the held-out
    examples. `order` as of `held_out_order`."""
    if not order or not is_claimed(workdir):
        return
    if HELD_OUT_ORDER not in read_json(workdir / CONFIG_FILE, CONFIG_FORM).get("files", {}):
        raise ValueError(
            f"{workdir} has predictions of an older version, which numbered the held-out examples as the "
            f"dataset stores them, expected their published order (feature {NUMBER!r}): the numbers do not "
            "belong together. Use another --workdir."
        )


def write_description(workdir: Path, description: dict[str, Any]) -> None:
    """Write config.json, in place of that of an experiment without results.

    Raises:
      ValueError: see `check_directory`.
    """
    try:
        check_run_directory(workdir, description)
    except ValueError:
        if is_claimed(workdir):
            raise
        print(f"{workdir}: no run has ended in it, so its settings are replaced.", file=sys.stderr)
    write_json(workdir / CONFIG_FILE, description)


def _is_of_finetuning(workdir: Path) -> bool:
    return all(section in _read_config(workdir) for section in FINETUNING.sections)


def _read_config(workdir: Path) -> dict[str, Any]:
    return read_json(workdir / CONFIG_FILE, CONFIG_FORM).get("config", {})
