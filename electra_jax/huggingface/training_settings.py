"""What is believed of a training_config.json, which travels with an export and may be anybody's.

A whole configuration names files and code: datasets, the recipe of a probe, trackers. Only model, objective,
optimizer, the row length and the step are read; they are plain values, which are checked as this project's
own are.
"""

import math
import re
from pathlib import Path
from typing import Any

from data_pipelines.json_files import Maybe, misread, read_json
from electra_jax.configuration.checks import check_values
from electra_jax.configuration.migration import upgrade_config
from electra_jax.configuration.stages import with_implied, with_value
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
    },
    "step": Maybe(int),
}
ADVICE = "Fetch the model again, or remove the file: the settings then come from the recipe."
# Matching may take for ever on a short text: with repetitions of repetitions, or with many of them.
MAX_PATTERN, MAX_REPETITIONS = 200, 3
_REPETITION = re.compile(r"(?<!\\)[*+?{]")


def read_training_settings(path: Path) -> dict[str, Any]:
    """The sections SECTIONS and {"data": {"sequence_length"}} of the stage of the exported step, which older
    exports do not name: of the last stage then.

    Raises:
      OSError: the file cannot be read. ValueError: it is of another form, or a value is not allowed.
    """
    training = read_json(path, FORM, advice=ADVICE)
    try:
        with misread(path, ADVICE):
            stage = _stage_at(training["config"], training.get("step", math.inf))
            upgraded = upgrade_config({section: stage[section] for section in SECTIONS})
            settings = {section: upgraded[section] for section in SECTIONS}
            settings |= {"data": {"sequence_length": _row_length(stage)}}
            objective_row(settings["objective"])
            check_values(settings)
            make_pretraining_config(settings["model"])
            _check_groups(settings["optimizer"]["groups"])
    except ValueError as error:
        text = str(error)
        raise ValueError(text if text.endswith(ADVICE) else f"{text} {ADVICE}") from error
    return settings


def _stage_at(config: dict[str, Any], num_done: float) -> dict[str, Any]:
    """SECTIONS and the row length with the changes of the stages that begin before the last of `num_done`
    steps (as configuration/stages.py: stage_at). The stages may be any JSON."""
    stage = {name: config[name] for name in SECTIONS}
    stage["data"] = {"sequence_length": config["data"]["sequence_length"]}
    for first_step, changes in config.get("stages", []):
        if first_step >= num_done:
            break
        for key, value in with_implied(changes).items():
            if key == ROW_LENGTH or key.partition(".")[0] in SECTIONS:
                stage = with_value(stage, key, value)
    return stage


def _row_length(stage: dict[str, Any]) -> int:
    length = stage["data"]["sequence_length"]
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
