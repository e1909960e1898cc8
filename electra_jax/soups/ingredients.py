"""The ingredients of a soup. They can be averaged if they share model, tokenizer and initial parameters."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax

from data_pipelines.command_errors import shorten
from data_pipelines.json_files import read_json
from data_pipelines.tokenizers.load import Tokenizer, load_tokenizer
from electra_jax.configuration.checkpoint_names import parse_checkpoint
from electra_jax.configuration.stages import stage_at
from electra_jax.models.config import PretrainingConfig, make_pretraining_config
from electra_jax.models.inputs import SpecialTokens
from electra_jax.objectives.base import Objective
from electra_jax.objectives.registry import find_row, make_objective, without_teachers
from electra_jax.runs.piece_tables import piece_tables
from electra_jax.runs.trained import (
    dataset_paths,
    differing_settings,
    find_step,
    read_description,
    trained_length,
)
from electra_jax.training.state import abstract_params

SOUP_FILE = "soup.json"
MAX_SHOWN = 6  # parameters that an error names


class Ingredient(NamedTuple):
    """A checkpoint of a run."""

    workdir: Path
    step: int
    config: dict[str, Any]  # of the stage that contains the step, without further stages
    datasets: list[str]  # directories of that stage's data
    model: PretrainingConfig
    tokenizer: Tokenizer
    objective: Objective
    params: Any  # shapes
    start: dict[str, Any] | None  # settings that determined the initial parameters; None: unknown
    trained_length: int  # ids in the longest rows that it was trained on

    @property
    def name(self) -> str:
        """DIR:STEP."""
        return f"{self.workdir}:{self.step}"


def open_ingredients(runs: Sequence[str], *, different_starts: bool) -> list[Ingredient]:
    """Open and check checkpoints, each DIR (its newest) or DIR:STEP. No parameters are read.

    Args:
      runs: the checkpoints.
      different_starts: accept checkpoints whose initial parameters differ or are unknown.
    Raises:
      FileNotFoundError: no run, or no such checkpoint.
      ValueError: fewer than two checkpoints, one of them twice, or they cannot be averaged.
    """
    ingredients = [open_ingredient(*_checkpoint(word)) for word in runs]
    names = [one.name for one in ingredients]
    if len(set(names)) < max(2, len(names)):
        raise ValueError(
            f"--runs: got the checkpoints {names}, expected two or more different ones. Name runs, "
            "DIR1,DIR2, or steps of one run, DIR:STEP,DIR:STEP; config.checkpoint.keep sets how many a run "
            "keeps."
        )
    first, *others = ingredients
    for other in others:
        _check_same_model(first, other)
        if not different_starts:
            _check_same_start(first, other)
    return ingredients


def _checkpoint(word: str) -> tuple[Path, int | None]:
    name = parse_checkpoint(word)
    return Path(name.directory), name.step


def open_ingredient(workdir: Path, step: int | None) -> Ingredient:
    """The checkpoint of `step`, or the newest; no parameter is read.

    Raises:
      FileNotFoundError: no run, or no such checkpoint.
    """
    description = read_description(workdir)
    step = find_step(workdir, step)
    config = without_teachers(stage_at(description["config"], step).config | {"stages": ()})
    model, tokenizer = make_pretraining_config(config["model"]), load_tokenizer(str(workdir / "tokenizer"))
    pieces = piece_tables(config["objective"], workdir / "tokenizer")
    objective = make_objective(config, model, SpecialTokens.from_ids(tokenizer.special), pieces)
    params, _ = abstract_params(objective, config["data"]["sequence_length"])
    return Ingredient(
        workdir,
        step,
        config,
        dataset_paths(workdir, description["config"], step),
        model,
        tokenizer,
        objective,
        params,
        _start_of(workdir, description),
        trained_length(description, step),
    )


def _start_of(workdir: Path, description: dict[str, Any]) -> dict[str, Any] | None:
    """The settings that determined the parameters at step 0; None for a soup of different starts.

    With config.checkpoint.init_from that run alone determines them. The seed then only affects masks and
    dropout, which may differ. But in the second of two stages it also determines the new detection head, as
    do the initial values of config.model. That is assumed of every such run, also of one that continues
    another second stage.
    """
    if (workdir / SOUP_FILE).is_file():
        return read_json(workdir / SOUP_FILE, {"start": (dict, type(None))})["start"]
    if "imported_from" in description:
        return {"imported from": description["imported_from"]}
    config = description["config"]
    start = {}
    if config["checkpoint"]["init_from"]:
        start["config.checkpoint.init_from"] = str(Path(config["checkpoint"]["init_from"]).resolve())
        if find_row(config["objective"]["name"]).first_stage is None:
            return start
    return start | {
        "config.train.seed": config["train"]["seed"],
        **{f"config.model.{key}": config["model"][key] for key in ("initializer", "initializer_range")},
    }


def _check_same_model(first: Ingredient, other: Ingredient) -> None:
    where = f"--runs: {first.name} and {other.name}"
    differing = differing_settings(first.config["model"], other.config["model"])
    if differing:
        lines = "\n".join(
            f"  config.model.{key}: {one!r} and {two!r}" for key, (one, two) in differing.items()
        )
        raise ValueError(f"{where} are different models, expected the same:\n{lines}\nLeave one of them out.")
    one, two = first.tokenizer.fingerprint, other.tokenizer.fingerprint
    if one != two:
        raise ValueError(
            f"{where} have different tokenizers ({one[:16]}… and {two[:16]}…), expected the same: otherwise "
            "rows of different words would be averaged. Leave one of them out."
        )
    one, two = (_shapes(ingredient.params) for ingredient in (first, other))
    differing = [
        f"{name}: {one.get(name)} and {two.get(name)}"
        for name in sorted(one.keys() | two.keys())
        if one.get(name) != two.get(name)
    ]
    if differing:
        lines = "  " + shorten(differing, MAX_SHOWN, separator="\n  ")
        objectives = " and ".join(
            repr(ingredient.config["objective"]["name"]) for ingredient in (first, other)
        )
        raise ValueError(
            f"{where} (config.objective.name {objectives}) have different parameters, expected the same "
            f"names and shapes:\n{lines}\nLeave one of them out."
        )


def _check_same_start(first: Ingredient, other: Ingredient) -> None:
    if first.start is None or first.start != other.start:
        one, two = (start or {"of a soup": "several starts"} for start in (first.start, other.start))
        lines = "\n".join(
            f"  {key}: {one.get(key)!r} and {two.get(key)!r}"
            for key in sorted(one.keys() | two.keys())
            if one.get(key) != two.get(key) or first.start is None
        )
        raise ValueError(
            f"--runs: {first.name} and {other.name} started from different or unknown parameters, expected "
            f"the same:\n{lines}\nIndependently initialised models use their hidden units differently; their "
            "average is meaningless. Train them from the same config.train.seed or the same "
            "config.checkpoint.init_from (two_stage: both). If you know that they started alike, give "
            "--different_starts."
        )


def _shapes(params: Any) -> dict[str, tuple[int, ...]]:
    leaves, _ = jax.tree_util.tree_flatten_with_path(params)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf.shape for path, leaf in leaves}
