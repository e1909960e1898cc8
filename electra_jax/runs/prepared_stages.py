"""The stages of a run with what they need for training: functions that are not compiled yet, and loaders that
have not read yet."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import jax
from jax.sharding import Mesh

from data_pipelines.batch_order import PassedOver
from data_pipelines.loader import EvaluationLoader, Loader
from electra_jax.configuration.stages import schedule_span, stage_errors
from electra_jax.distributed.sharding import batch_sharding
from electra_jax.objectives.base import Objective
from electra_jax.runs.inputs import RunInputs, StageInputs, make_run_objective, model_of_stage, open_stages
from electra_jax.runs.rollbacks import Rollbacks, passed_over
from electra_jax.training.program import Program, make_program


class PreparedStage(NamedTuple):
    """A stage, its functions and its loaders."""

    inputs: StageInputs
    program: Program
    compiled: list[jax.stages.Compiled]  # its training step, as soon as that is compiled
    batches: Loader
    held_out_batches: EvaluationLoader


def prepare_stages(inputs: RunInputs) -> list[PreparedStage]:
    """The stages of a run without rollbacks; call it within `axis_context`.

    Raises:
      ValueError: the mesh does not divide the model or the batches, or there are no held-out batches.
    """
    return [
        PreparedStage(
            stage,
            make_program(
                stage.config,
                _objective_of(stage, inputs),
                inputs.mesh,
                first_step=stage.first_step,
                schedule_span=schedule_span(stage.config, stage.first_step),
            ),
            [],
            *_make_loaders(stage, inputs.mesh),
        )
        for stage in inputs.stages
    ]


def _objective_of(stage: StageInputs, inputs: RunInputs) -> Objective:
    """The run's objective, or another one for a stage that changes its settings or the model's."""
    if all(stage.config[section] == inputs.config[section] for section in ("objective", "model")):
        return inputs.objective
    with stage_errors(stage.stage):
        return make_run_objective(
            stage.config, model_of_stage(stage.config, inputs.model), inputs.stages[0].mixture
        )


def stages_after(
    rollbacks: Rollbacks, stages: Sequence[PreparedStage], inputs: RunInputs, workdir: Path
) -> list[PreparedStage]:
    """The stages with new loaders, which pass over what `rollbacks` left out. A later stage reads on after
    the examples that an earlier one took in their place. Compiled functions stay."""
    left_out = [passed_over(rollbacks, stage.inputs.first_step, stage.inputs.end) for stage in stages]
    opened: Sequence[StageInputs] = inputs.stages
    if len(stages) > 1:
        opened = open_stages(
            [stage.stage for stage in inputs.stages],
            inputs.model,
            workdir,
            [sum(one.batches for one in of_stage) for of_stage in left_out],
        )
    return [
        PreparedStage(one, stage.program, stage.compiled, *_make_loaders(one, inputs.mesh, of_stage))
        for stage, one, of_stage in zip(stages, opened, left_out, strict=True)
    ]


def _make_loaders(
    stage: StageInputs, mesh: Mesh, left_out: Sequence[PassedOver] = ()
) -> tuple[Loader, EvaluationLoader]:
    config, sharding = stage.config, batch_sharding(mesh)
    return (
        Loader(
            stage.mixture,
            batch_size=config["train"]["batch_size"],
            sharding=sharding,
            first_step=stage.first_step,
            prefetch=config["data"]["prefetch"],
            passed_over=left_out,
        ),
        EvaluationLoader(
            stage.held_out,
            batch_size=config["eval"]["batch_size"],
            sharding=sharding,
            max_batches=config["eval"]["max_batches"],
        ),
    )
