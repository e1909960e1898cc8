"""The space that the checkpoints of a run take, for `electra_jax.doctor`."""

from pathlib import Path
from typing import Any

from electra_jax.runs.bucket_runs import CHECKPOINTS
from electra_jax.runs.inputs import RunInputs
from electra_jax.runs.rollbacks import reach_of
from electra_jax.training.kept_checkpoints import most_kept


def most_at_once(inputs: RunInputs) -> int:
    """The largest number of checkpoints that a run has at once, with the one that is being written."""
    checkpoint, ends = inputs.config["checkpoint"], [stage.end for stage in inputs.stages]
    steps = sorted({*range(checkpoint["every"], ends[-1], checkpoint["every"]), *ends})
    return most_kept(steps, checkpoint["keep"], reach_of(inputs.config["trouble"])) + 1


def bytes_there(workdir: Path) -> int:
    """Bytes of the checkpoints in a run directory. Those that were set aside are not counted: they stay,
    and take room besides."""
    steps = [path for path in (workdir / CHECKPOINTS).glob("*") if path.name.isdecimal()]
    return sum(path.stat().st_size for step in steps for path in step.rglob("*") if path.is_file())


def how_to_fit(config: dict[str, Any]) -> str:
    """What helps where the checkpoints do not fit."""
    text = "Free space, or lower config.checkpoint.keep"
    if reach_of(config["trouble"]):
        text += (
            " or config.trouble.rollback_steps, or raise config.checkpoint.every: checkpoints that a "
            "rollback may need are kept, too"
        )
    return f"{text}."
