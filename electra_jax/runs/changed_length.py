"""A run that resumes with another length than before (`pretrain --change_num_steps`)."""

import sys
from pathlib import Path
from typing import Any

from absl import flags

from electra_jax.configuration.stages import make_stages, schedule_span
from electra_jax.objectives.registry import find_row, own_settings
from electra_jax.runs.trained import read_description
from electra_jax.training.schedules import make_schedule


def define_length_flag() -> None:
    """Define --change_num_steps."""
    text = "Let a run that resumes have another config.train.num_steps (electra_jax/runs/README.md#length)."
    flags.DEFINE_boolean("change_num_steps", False, text)


def check_length(name: str, num_done: int, num_steps: int) -> None:
    """Raises ValueError if a run has already done more steps than it shall have."""
    if num_done > num_steps:
        raise ValueError(
            f"config.train.num_steps: got {num_steps}, expected {num_done} or more: {name} has a checkpoint "
            f"of step {num_done}. Give that number to end the run there."
        )


def recorded_length(workdir: Path) -> int | None:
    """config.train.num_steps of the run in `workdir` until now; None if there is no run yet."""
    if not (workdir / "config.json").is_file():
        return None
    return read_description(workdir)["config"]["train"]["num_steps"]


def describe_new_length(
    workdir: Path, num_done: int, config: dict[str, Any], left_out: int = 0
) -> dict[str, Any]:
    """Print how the length of the run in `workdir` changes, and return it for sessions.jsonl; {} if it does
    not, or if there is no run yet.

    Args:
      num_done: steps that are done.
      config: the configuration from now on.
      left_out: steps among them whose updates were left out.
    """
    old, new = recorded_length(workdir), config["train"]["num_steps"]
    if old in (None, new):
        return {}
    before, after = (learning_rate(config, num_steps, num_done, left_out) for num_steps in (old, new))
    print(
        f"{workdir}: {num_done:,} steps are done; the run now has {new:,} instead of {old:,}. The last "
        f"learning-rate schedule now ends at step {new:,}: the rate is {after:.3g} at this step instead of "
        f"{before:.3g}.{_describe_schedules(config, old, new, num_done)}",
        file=sys.stderr,
    )
    return {"num_steps": [old, new]}


def learning_rate(config: dict[str, Any], num_steps: int, step: int, left_out: int = 0) -> float:
    """The learning rate at a step of a run with `num_steps` steps, after `left_out` steps without an
    update."""
    stages = make_stages(config | {"train": config["train"] | {"num_steps": num_steps}})
    stage = next((stage for stage in stages if step < stage.end), stages[-1])
    start, end = schedule_span(stage.config, stage.first_step)
    return float(make_schedule(stage.config["optimizer"], end - start, start)(step - left_out))


def _describe_schedules(config: dict[str, Any], old: int, new: int, step: int) -> str:
    """Sentences about what else in the objective follows the length of the run, at a step; "" if nothing
    does."""
    objective, text = own_settings(config["objective"]), ""
    for name, schedule in find_row(objective["name"]).schedules.items():
        before, after = (float(schedule(objective, step / num_steps)) for num_steps in (old, new))
        text += f" The {name} follows the new length, too: it is {after:.4g} at this step "
        text += f"instead of {before:.4g}."
    return text
