"""What a run directory holds: its configuration, its model, and the parameters of a checkpoint."""

import contextlib
import json
from pathlib import Path
from typing import Any, NamedTuple

from electra_jax.distributed.mesh import make_mesh
from electra_jax.models.config import PretrainingConfig, make_pretraining_config
from electra_jax.pretrain import make_objective
from electra_jax.training.checkpointing import Checkpointer
from electra_jax.training.program import make_program


class TrainedRun(NamedTuple):
    """`config` is the run's whole configuration; `params` are those after `step` steps."""

    config: dict[str, Any]
    model: PretrainingConfig
    step: int
    params: Any


def load_run(workdir: Path, step: int | None = None) -> TrainedRun:
    """The newest checkpoint of a run, or that of `step`; replicated on the devices at hand, whatever mesh it was trained on.

    Raises:
      FileNotFoundError: `workdir` is not a run directory, or has no such checkpoint; names those it has.
      OSError: the checkpoint is damaged.
    """
    path = workdir / "config.json"
    if not path.is_file():
        raise FileNotFoundError(f"{workdir}: expected a run directory of electra_jax.pretrain, but it has no config.json.")
    config = json.loads(path.read_text())["config"] | {"mesh": {"data": -1, "fsdp": 1, "tensor": 1}}
    model = make_pretraining_config(config["model"])
    objective, _ = make_objective(config, model)
    program = make_program(config, objective, make_mesh(config["mesh"]))
    with contextlib.closing(Checkpointer(str(workdir / "checkpoints"), keep=config["checkpoint"]["keep"])) as checkpointer:
        steps = checkpointer.all_steps()
        if not steps or (step is not None and step not in steps):
            wanted = "any step" if step is None else f"step {step}"
            raise FileNotFoundError(f"{workdir}: expected a checkpoint of {wanted}, found those of {steps}.")
        step = steps[-1] if step is None else step
        return TrainedRun(config, model, step, checkpointer.restore(step, program.abstract_state).params)
