"""The teachers of a run (config.objective.teachers): their names made complete and written down, checked
before anything is written, and read once, when the run starts."""

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from data_pipelines.buckets import absolute_place
from data_pipelines.json_files import read_json
from data_pipelines.problems import Problems
from electra_jax.configuration.checkpoint_names import CheckpointName, is_same_checkpoint, parse_checkpoint
from electra_jax.configuration.migration import upgrade_config
from electra_jax.configuration.stages import Stage, stage_at, stage_errors
from electra_jax.distributed.processes import exchange
from electra_jax.objectives.registry import OBJECTIVES, find_row, parameter_form
from electra_jax.objectives.teachers import OWN_START, TEACHERS, teacher_names
from electra_jax.runs.bucket_runs import local_directory
from electra_jax.runs.trained import (
    RUN_FORM,
    check_tokenizer,
    checkpoint_fingerprint,
    find_step,
    read_description,
    restore_params,
)
from electra_jax.training.state import TrainState, start_from

KEY = "config.objective.teachers"


def takes_teachers(config: dict[str, Any]) -> bool:
    """Whether the objective of a configuration, which may not exist, has teachers."""
    name = config["objective"].get("name")
    return isinstance(name, str) and name in OBJECTIVES and bool(OBJECTIVES[name].teachers_of)


def with_teacher_models(config: dict[str, Any], workdir: Path | None = None) -> dict[str, Any]:
    """The configuration with DIR:STEP for every teacher, DIR an absolute path, and the teachers' models in
    config.objective.teacher_models.

    A run that resumes keeps the teachers that it began with. Their directories may be gone, since its
    checkpoints hold them; where they are still there, they must be the same.

    Args:
      workdir: of the run, all of whose processes call this; None: only plan.

    Raises:
      ValueError: there is no teacher, one is the run itself, is no run of pre-training, has another
        objective than a teacher can have, or has changed.
      FileNotFoundError: a teacher, or its checkpoint, is missing.
    """
    if not takes_teachers(config):
        return config
    given = config["objective"].get("teachers", ())
    names = given.split(",") if isinstance(given, str) else given
    if not isinstance(names, list | tuple) or not all(isinstance(name, str) for name in names):
        return config  # an error of the table of values, later
    names = [_place_of(name, config) for name in names if name]
    if not names:
        raise ValueError(
            f"{KEY}: got none, expected the directories of the runs to learn from. Train them first, then "
            f"pass --{KEY}=DIR, or DIR,DIR for several (DIR:STEP for a checkpoint that is not the newest)."
        )
    _check_names(names, workdir)
    recorded = _recorded(workdir) if workdir is not None else None
    if recorded is not None and _are_same(recorded["teachers"], names):
        _check_unchanged(recorded)
        found = {"teachers": recorded["teachers"], "teacher_models": recorded["teacher_models"]}
    else:
        found = _describe(names, config["objective"]["name"], is_run=workdir is not None)
    return config | {"objective": {**config["objective"], **found}}


def _place_of(name: str, config: dict[str, Any]) -> str:
    if name != OWN_START:
        return absolute_place(name)
    if not (initial := config["checkpoint"]["init_from"]):
        raise ValueError(
            f"{KEY}: got {OWN_START!r}, the run that this one starts from, but config.checkpoint.init_from "
            "is ''. Pass --config.checkpoint.init_from=DIR, or name the teachers."
        )
    return absolute_place(initial)


def _check_names(names: Sequence[str], workdir: Path | None) -> None:
    for number, name in enumerate(names):
        if any(is_same_checkpoint(name, other) for other in names[:number]):
            raise ValueError(
                f"{KEY}: got {name} twice, expected different runs: all teachers count the same. Remove one."
            )
        if workdir is not None and is_same_checkpoint(parse_checkpoint(name).directory, str(workdir)):
            raise ValueError(
                f"{KEY}: got {name}, the directory of this run itself. Give the runs to learn from, or "
                "another --workdir."
            )


def _recorded(workdir: Path) -> dict[str, Any] | None:
    """config.objective of the run in a directory, if that has teachers."""
    path = workdir / "config.json"
    config = read_json(path, RUN_FORM).get("config", {}) if path.is_file() else {}
    if "objective" not in config or not takes_teachers(config):
        return None
    return upgrade_config(config)["objective"]


def _are_same(recorded: Sequence[str], names: Sequence[str]) -> bool:
    return len(recorded) == len(names) and all(map(is_same_checkpoint, recorded, names))


def _describe(names: Sequence[str], objective: str, *, is_run: bool) -> dict[str, Any]:
    problems, checkpoints, models = Problems(), [], []
    steps = [None for _ in names]
    for number, name in enumerate(names):
        with problems.kept():
            steps[number] = _newest(name).step
    problems.report()
    if is_run:  # another process may see a checkpoint that has been completed since
        steps = exchange(steps)[0]
    for name, step in zip(names, steps, strict=True):
        checkpoint = parse_checkpoint(name)._replace(step=step)
        with problems.kept():
            checkpoints.append(str(checkpoint))
            models.append(_describe_one(checkpoint, objective))
    problems.report()
    return {"teachers": tuple(checkpoints), "teacher_models": tuple(models)}


def _newest(name: str) -> CheckpointName:
    """The name with the step of the newest checkpoint, if it has none."""
    checkpoint = parse_checkpoint(name)
    directory = local_directory(checkpoint.directory)
    try:
        if "objective" not in read_description(directory)["config"]:
            raise ValueError(
                f"{KEY}: got {name}, a fine-tuning, expected a run of pre-training or an imported model."
            )
        return checkpoint._replace(step=find_step(directory, checkpoint.step))
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{KEY}: {error}") from error


def _describe_one(checkpoint: CheckpointName, objective: str) -> dict[str, Any]:
    directory = local_directory(checkpoint.directory)
    theirs = stage_at(read_description(directory)["config"], checkpoint.step).config
    _check_form(checkpoint, theirs["objective"], objective)
    return {
        "form": parameter_form(theirs["objective"]),
        "model": theirs["model"],
        "checksum": checkpoint_fingerprint(directory, checkpoint.step),
    }


def _check_form(checkpoint: CheckpointName, theirs: dict[str, Any], objective: str) -> None:
    """Raises ValueError if a run with config.objective `theirs` can be no teacher of the objective."""
    if parameter_form(theirs) in (known := find_row(objective).teachers_of):
        return
    generator = "" if theirs["generator"] == "model" else f" and generator {theirs['generator']!r}"
    raise ValueError(
        f"{KEY}: {checkpoint} was trained with objective {theirs['name']!r}{generator}, expected a run with "
        f"the models of {' or '.join(map(repr, known))}, since config.objective.name is {objective!r}. Name "
        "such a run, or choose another objective in the recipe's argument, --config=FILE.py:objective=NAME."
    )


def _check_unchanged(recorded: dict[str, Any]) -> None:
    """Raises ValueError if a teacher that is still there has other parameters than when the run began."""
    for name, model in zip(recorded["teachers"], recorded["teacher_models"], strict=True):
        checkpoint = parse_checkpoint(name)
        try:
            directory = local_directory(checkpoint.directory)
            now = checkpoint_fingerprint(directory, checkpoint.step)
        except FileNotFoundError:
            continue
        if now != model["checksum"]:
            raise ValueError(
                f"{KEY}: {name} has other parameters (checksum {now[:16]}…) than when this run began "
                f"({model['checksum'][:16]}…). Restore that checkpoint, or move it away: a run that has a "
                "checkpoint keeps its teachers in it. For other teachers, use another --workdir."
            )


def check_teachers(
    config: dict[str, Any], stages: Sequence[Stage], tokenizer_fingerprint: str, *, is_new: bool
) -> None:
    """Check that a run with `config` can learn from its teachers.

    Args:
      config: resolved; see `with_teacher_models`.
      is_new: whether the run has not begun. If it has, it has been checked.

    Raises:
      ValueError: a teacher has another vocabulary or tokenizer, or shorter rows.
    """
    if not takes_teachers(config) or not is_new:
        return
    problems = Problems()
    for name in config["objective"]["teachers"]:
        with problems.kept():
            _check_teacher(name, config, tokenizer_fingerprint)
    for stage in stages:
        for name, one in _teachers_of(config):
            with problems.kept(), stage_errors(stage):
                _check_length(name, one["model"], stage.config["data"]["sequence_length"])
    problems.report()


def _teachers_of(config: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    objective = config["objective"]
    return zip(objective["teachers"], objective["teacher_models"], strict=True)


def _check_teacher(name: str, config: dict[str, Any], tokenizer_fingerprint: str) -> None:
    checkpoint = parse_checkpoint(name)
    directory = local_directory(checkpoint.directory)
    theirs = stage_at(read_description(directory)["config"], checkpoint.step).config
    check_tokenizer(KEY, name, directory, tokenizer_fingerprint)
    one, other = theirs["model"]["vocab_size"], config["model"]["vocab_size"]
    if one != other:
        raise ValueError(
            f"config.model.vocab_size: got {other}, expected {one}, that of the teacher {name}: both "
            f"have the same words. Pass --config.model.vocab_size={one}."
        )


def _check_length(name: str, model: dict[str, Any], length: int) -> None:
    if length > model["max_position_embeddings"]:
        raise ValueError(
            f"{KEY}: {name} has {model['max_position_embeddings']} positions, expected at least the row "
            f"length {length}. Train on shorter rows, or choose another teacher."
        )


def with_loaded_teachers(state: TrainState, shapes: dict[str, Any], config: dict[str, Any]) -> TrainState:
    """The state before the first step with the teachers' parameters, sharded like the student's; unchanged
    for an objective without teachers.

    Args:
      shapes: shapes and shardings of all parameters.

    Raises:
      FileNotFoundError, OSError: see `restore_params`.
    """
    if TEACHERS not in shapes:
        return state
    objective, loaded = config["objective"], {}
    for module, name in zip(teacher_names(objective), objective["teachers"], strict=True):
        checkpoint = parse_checkpoint(name)
        directory = local_directory(checkpoint.directory)
        try:
            _, loaded[module] = restore_params(directory, checkpoint.step, shapes[TEACHERS][module])
        except FileNotFoundError as error:
            raise FileNotFoundError(
                f"{KEY}: {error} This run has no checkpoint and needs its teachers: restore that one, or "
                "begin with another --workdir."
            ) from error
    print(f"learning from {', '.join(objective['teachers'])}", file=sys.stderr)
    return start_from(state, {**state.params, TEACHERS: loaded})


def describe_teachers(config: dict[str, Any], step: int) -> dict[str, Any]:
    """What sessions.jsonl keeps of a start at `step`: "teachers", if the run begins with some."""
    return {"teachers": config["objective"]["teachers"]} if takes_teachers(config) and not step else {}
