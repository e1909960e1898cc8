"""Which checkpoint of another run a run starts from (config.checkpoint.init_from): chosen once and written
down, since the newest checkpoint is another one later. And whether it is still there, for a run that returns
to its beginning."""

from pathlib import Path
from typing import Any

from electra_jax.configuration.checkpoint_names import is_same_checkpoint, parse_checkpoint
from electra_jax.distributed.processes import exchange
from electra_jax.runs.bucket_runs import local_directory
from electra_jax.runs.teachers import KEY, takes_teachers
from electra_jax.runs.trained import check_checkpoint, find_step, read_description


def with_start_step(config: dict[str, Any], workdir: Path) -> dict[str, Any]:
    """The configuration with DIR:STEP in config.checkpoint.init_from if it names DIR alone: the step that the
    run in `workdir` began with, whatever is newest by now, or for a new run the newest. All processes of a
    run call it.

    A run of an older version did not record its step; its name stays as given.

    Raises:
      FileNotFoundError: DIR has no checkpoint.
    """
    initial = config["checkpoint"]["init_from"]
    name = parse_checkpoint(initial)
    if not initial or name.step is not None:
        return config
    if (workdir / "config.json").is_file():
        recorded = _config_of(workdir).get("checkpoint", {}).get("init_from", "")
        step = parse_checkpoint(recorded).step if is_same_checkpoint(recorded, initial) else None
    else:
        directory = local_directory(initial)
        if "objective" not in _config_of(directory):
            return config  # no run of pre-training: an error with all others, later
        step = find_step(directory, None)
    # Another process may see another file system, or a checkpoint that has been completed since.
    name = name._replace(step=exchange(step)[0])
    return config | {"checkpoint": config["checkpoint"] | {"init_from": str(name)}}


def started_from(config: dict[str, Any], step: int) -> dict[str, Any]:
    """What sessions.jsonl keeps of a start at `step`: "init_from", if the run begins from another one."""
    initial = config["checkpoint"]["init_from"]
    return {"init_from": initial} if initial and not step else {}


def start_problem(config: dict[str, Any]) -> str:
    """What is wrong with a checkpoint of another run that the state before the first step is made from
    (config.checkpoint.init_from, config.objective.teachers); "" if all are whole. All processes of a run call
    it and get the same answer."""
    return next(filter(None, exchange(_first_problem(config))), "")


def _first_problem(config: dict[str, Any]) -> str:
    """`start_problem` as this process sees it."""
    sources = dict.fromkeys(config["objective"]["teachers"] if takes_teachers(config) else (), KEY)
    if initial := config["checkpoint"]["init_from"]:
        sources[initial] = "config.checkpoint.init_from"
    for source, key in sources.items():
        name = parse_checkpoint(source)
        try:
            check_checkpoint(local_directory(name.directory), name.step)
        except (OSError, ValueError) as error:
            return f"{key}: {error} The beginning of the run needs it: put it back."
    return ""


def _config_of(directory: Path) -> dict[str, Any]:
    """The configuration of a run; {} of something else."""
    try:
        return read_description(directory)["config"]
    except (FileNotFoundError, KeyError):
        return {}
