"""What is believed of a training_config.json, which travels with an export and may be anybody's.

A whole configuration names files and code: datasets, the recipe of a probe, trackers. Only model, objective,
optimizer and the row length are read; they are plain values, which are checked as this project's own are.
"""

import re
from pathlib import Path
from typing import Any

from data_pipelines.json_files import Maybe, misread, read_json
from electra_jax.configuration.checks import check_values
from electra_jax.configuration.migration import upgrade_config
from electra_jax.configuration.stages import with_value
from electra_jax.configuration.value_table import LENGTH
from electra_jax.models.config import make_pretraining_config
from electra_jax.objectives.registry import objective_row

SECTIONS = ("model", "objective", "optimizer")
ROW_LENGTH = "data.sequence_length"
FORM = {
    "config": {
        "model": dict,
        "objective": {"name": str, "generator": Maybe(str)},
        "optimizer": {"groups": [list]},
        "data": {"sequence_length": int},
        "stages": Maybe([list]),
    }
}
ADVICE = "Fetch the model again, or remove the file: the settings then come from the recipe."
# Matching may take for ever on a short text: with repetitions of repetitions, or with many of them.
MAX_PATTERN, MAX_REPETITIONS = 200, 3
_REPETITION = re.compile(r"(?<!\\)[*+?{]")


def read_training_settings(path: Path) -> dict[str, Any]:
    """The sections SECTIONS and {"data": {"sequence_length"}} of the run's last stage.

    Raises:
      OSError: the file cannot be read. ValueError: it is of another form, or a value is not allowed.
    """
    config = read_json(path, FORM, advice=ADVICE)["config"]
    try:
        with misread(path, ADVICE):
            last = _last_stage(config)
            upgraded = upgrade_config({section: last[section] for section in SECTIONS})
            settings = {section: upgraded[section] for section in SECTIONS}
            settings |= {"data": {"sequence_length": _row_length(last)}}
            objective_row(settings["objective"])
            check_values(settings)
            make_pretraining_config(settings["model"])
            _check_groups(settings["optimizer"]["groups"])
    except ValueError as error:
        text = str(error)
        raise ValueError(text if text.endswith(ADVICE) else f"{text} {ADVICE}") from error
    return settings


def _last_stage(config: dict[str, Any]) -> dict[str, Any]:
    """SECTIONS and the row length with the changes of all stages, which may be any JSON."""
    last = {name: config[name] for name in SECTIONS}
    last["data"] = {"sequence_length": config["data"]["sequence_length"]}
    for _, changes in config.get("stages", []):
        for key, value in changes.items():
            if key == ROW_LENGTH or key.partition(".")[0] in SECTIONS:
                last = with_value(last, key, value)
    return last


def _row_length(last: dict[str, Any]) -> int:
    length = last["data"]["sequence_length"]
    if not LENGTH.accepts(length):
        raise ValueError(f"config.{ROW_LENGTH}: got {length!r:.60}, expected {LENGTH.expected}.")
    return length


def _check_groups(groups: list[Any]) -> None:
    """Raises ValueError for a pattern of config.optimizer.groups that could take for ever."""
    for pattern, *_ in groups:
        repetitions = list(_REPETITION.finditer(pattern))
        is_nested = any(pattern[: found.start()].endswith(")") for found in repetitions)
        if len(pattern) > MAX_PATTERN or len(repetitions) > MAX_REPETITIONS or is_nested:
            raise ValueError(
                f"config.optimizer.groups: got the pattern {pattern!r:.80}, expected at most {MAX_PATTERN} "
                f"characters, {MAX_REPETITIONS} repetitions, and none of a group."
            )
