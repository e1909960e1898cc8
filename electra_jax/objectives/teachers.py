"""Teachers: finished runs whose models stay as they are while another one, the student, learns from them.

config.objective.teachers names them, DIR or DIR:STEP; several are an ensemble, whose probabilities are
averaged. Before a run starts, runs/teachers.py writes their steps and their models into the configuration.
Their parameters are the frozen module "teachers" of the training state: sharded as the student's are, without
gradient, weight decay and optimizer state, and kept in checkpoints, so that a run that resumes does not read
its teachers again.

Without teachers an objective has the student's modules alone. That is how a run is read for fine-tuning,
exports and predictions (`registry.without_teachers`); no run trains so.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from electra_jax.models.config import PretrainingConfig, make_pretraining_config
from electra_jax.models.inputs import EncoderInputs, SpecialTokens, derive_inputs
from electra_jax.objectives.base import Objective

# Top-level modules that the student alone does not have: the teachers, and linear maps from the student's
# states to theirs. Neither comes from the run that a student starts from.
TEACHERS, HIDDEN_MAPS = "teachers", "hidden_maps"
BESIDE_THE_STUDENT = (TEACHERS, HIDDEN_MAPS)
# A name among config.objective.teachers: the run that the student itself starts from.
OWN_START = "init_from"
TEACHER_SETTINGS: Mapping[str, Any] = {
    "teachers": (),  # DIR or DIR:STEP of runs, or "init_from"
    # For each teacher {"form": `parameter_form` of its run, "model": its config.model, "checksum": of its
    # parameters}; filled in at the start.
    "teacher_models": (),
    "teacher_weight": 0.5,  # of the loss against the teachers' probabilities
}


def teacher_names(objective: Mapping[str, Any]) -> list[str]:
    """The modules within TEACHERS."""
    return [f"teacher_{number}" for number, _ in enumerate(objective["teachers"])]


def teacher_configs(config: PretrainingConfig, objective: Mapping[str, Any]) -> dict[str, PretrainingConfig]:
    """Name within TEACHERS → the teacher's model, which computes in the student's dtype and layers.

    Raises:
      ValueError: config.objective.teacher_models does not describe the teachers.
    """
    names, models = objective["teachers"], objective["teacher_models"]
    if len(names) != len(models):
        raise ValueError(
            f"config.objective.teachers: got {len(names)} teachers, but config.objective.teacher_models "
            f"describes {len(models)}. `pretrain`, `plan` and `doctor` fill it in; other commands take no "
            "teachers: pass --config.objective.teachers=."
        )
    dtype = config.discriminator.dtype
    return {
        name: make_pretraining_config({**one["model"], "dtype": dtype}, config.execution)
        for name, one in zip(teacher_names(objective), models, strict=True)
    }


def with_teachers(
    objective: Objective, inits: Mapping[str, Callable[[jax.Array, int], Any]], modules: Sequence[str] = ()
) -> Objective:
    """The student's objective with the frozen module TEACHERS, zeros until the teachers are loaded.

    Args:
      inits: name within TEACHERS → initialiser of a teacher's parameters, as `Objective.init`.
      modules: the top-level modules of a teacher that are used; (): all.
    """

    def shapes_of(name: str, length: int) -> dict[str, Any]:
        shapes = jax.eval_shape(lambda: inits[name](jax.random.key(0), length))
        return {module: tree for module, tree in shapes.items() if not modules or module in modules}

    def init(key: jax.Array, sequence_length: int) -> dict[str, Any]:
        teachers = {name: shapes_of(name, sequence_length) for name in inits}
        zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), teachers)
        return {**objective.init(key, sequence_length), TEACHERS: zeros}

    return objective._replace(init=init, frozen=(*objective.frozen, TEACHERS)) if inits else objective


def apply_teacher(model: nn.Module, params: Any, *args: Any, method: str) -> Any:
    """A teacher's forward pass, without dropout and without any gradient."""
    return jax.lax.stop_gradient(model.apply({"params": params}, *args, is_training=False, method=method))


def teacher_inputs(
    inputs: EncoderInputs, ids_BL: jax.Array, special: SpecialTokens, student: int, teacher: int
) -> EncoderInputs:
    """The inputs of a batch for a teacher; `student` and `teacher` are their numbers of token types."""
    if student == teacher:
        return inputs
    types_BL = derive_inputs(ids_BL, special, teacher).token_types_BL
    return inputs._replace(token_types_BL=types_BL)
