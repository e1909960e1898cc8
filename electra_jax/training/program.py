"""The jitted functions of a run on a mesh: initialisation, training step and evaluation step; and how the
state is sharded."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
from jax.sharding import Mesh

from electra_jax.distributed.processor import lacks_bfloat16
from electra_jax.distributed.sharding import batch_sharding, param_shardings, replicated, state_shardings
from electra_jax.objectives.base import Objective
from electra_jax.training.checkpointing import with_shardings
from electra_jax.training.embedding_tables import table_comparison
from electra_jax.training.gradients import make_accumulation
from electra_jax.training.optimizer import make_optimizers
from electra_jax.training.row_losses import make_row_losses
from electra_jax.training.state import TrainState, abstract_params, init_state
from electra_jax.training.step import abstract_window, make_evaluation_step, make_train_step, training_batch
from electra_jax.training.trouble import make_detector


class Program(NamedTuple):
    """The jitted functions of a run; call them within `axis_context(mesh)`."""

    abstract_state: TrainState  # shapes and shardings
    logical_axes: Any  # of the parameters: PartitionSpecs of names
    init: Callable[[], TrainState]  # creates the state sharded
    train_step: Callable[..., Any]  # (state, ids) → (state, metric sums of the logging window so far)
    evaluation_step: Callable[..., Any]  # (parameters, ids, index of the batch) → metric sums
    row_losses: Callable[..., Any]  # (parameters, ids, step from 0) → (loss of each row, ids)
    schedule: Callable[[Any], Any]  # step → learning rate
    compare_tables: Callable[[Any], dict[str, Any]]  # parameters → metrics (embedding_tables.py)


def make_program(
    config: dict[str, Any],
    objective: Objective,
    mesh: Mesh,
    *,
    first_step: int = 0,
    schedule_span: tuple[int, int] | None = None,
) -> Program:
    """The functions for `config`, not yet compiled; call it within `axis_context(mesh)`.

    In a run with stages they are those of the stage that begins with `first_step`. The state is the same in
    all stages.

    Args:
      schedule_span: first step and end of the learning-rate schedule; None: it spans the run.

    Raises:
      ValueError: the mesh does not divide a parameter, or the optimizer groups do not cover the parameters.
    """
    train, length = config["train"], config["data"]["sequence_length"]
    params, logical_axes = abstract_params(objective, length)
    optimizers, schedule = _optimizers_of(config, objective, params, schedule_span)
    window = abstract_window(objective, params, train["batch_size"], length)
    detector = make_detector(config["trouble"])
    init = functools.partial(_first_state, config, objective, optimizers, window, detector is not None)
    abstract = jax.eval_shape(init)
    of_params = param_shardings(params, logical_axes, mesh)
    trains = {phase.name: phase.trains for phase in objective.phases}
    shardings = state_shardings(abstract, of_params, optimizers, trains, mesh)
    rows, everywhere = batch_sharding(mesh), replicated(mesh)
    batch_of = functools.partial(training_batch, objective, train["seed"], train["num_steps"])
    train_step = make_train_step(
        objective,
        optimizers,
        batch_of=batch_of,
        window_steps=config["log"]["every"],
        first_step=first_step,
        ema_decay=train["ema_decay"],
        accumulation=make_accumulation(train, mesh),
        detector=detector,
    )
    evaluation_step = make_evaluation_step(
        objective, seed=config["eval"]["seed"], vocab_size=config["model"]["vocab_size"]
    )
    measure = functools.partial(
        jax.jit, in_shardings=(shardings.params, rows, everywhere), out_shardings=everywhere
    )
    return Program(
        abstract_state=with_shardings(abstract, shardings),
        logical_axes=logical_axes,
        init=jax.jit(init, out_shardings=shardings),
        train_step=jax.jit(
            train_step,
            in_shardings=(shardings, rows),
            out_shardings=(shardings, everywhere),
            donate_argnums=0,
        ),
        evaluation_step=measure(evaluation_step),
        row_losses=measure(make_row_losses(objective, batch_of)),
        schedule=schedule,
        compare_tables=_jitted_comparison(params, shardings.params, mesh),
    )


def _first_state(
    config: dict[str, Any],
    objective: Objective,
    optimizers: dict[str, Any],
    window: dict[str, jax.ShapeDtypeStruct],
    is_guarded: bool,
) -> TrainState:
    train = config["train"]
    return init_state(
        jax.random.key(train["seed"]),
        objective,
        optimizers,
        config["data"]["sequence_length"],
        window,
        ema_decay=train["ema_decay"],
        is_guarded=is_guarded,
    )


def _optimizers_of(
    config: dict[str, Any], objective: Objective, params: Any, schedule_span: tuple[int, int] | None
) -> tuple[dict[str, Any], Any]:
    """The optimizer of each phase, and their schedule."""
    start, end = schedule_span or (0, config["train"]["num_steps"])
    return make_optimizers(
        config["optimizer"],
        end - start,
        params,
        objective.phases,
        objective.frozen,
        first_step=start,
        dtype=config["model"]["dtype"],
    )


def _jitted_comparison(params: Any, sharding: Any, mesh: Mesh) -> Callable[[Any], dict[str, Any]]:
    compare = table_comparison(params)
    if not compare:
        return lambda params: {}
    return jax.jit(compare, in_shardings=(sharding,), out_shardings=replicated(mesh))


def dtype_note(dtype: str, mesh: Mesh) -> str:
    """A sentence for the user of a run that computes in the slower dtype: in float32 on an accelerator, or in
    bfloat16 on a processor without instructions for it; "" for another run."""
    platform = mesh.devices.flat[0].platform
    if dtype == "float32" and platform != "cpu":
        return (
            f"config.model.dtype=float32: matrix products are exact and slow on this {platform}. "
            "--config.model.dtype=bfloat16 is several times faster."
        )
    if dtype == "bfloat16" and platform == "cpu" and lacks_bfloat16():
        return (
            "config.model.dtype=bfloat16: this processor has no instructions for it. "
            "--config.model.dtype=float32, in a new run, is probably faster."
        )
    return ""
