"""The state that a run needs to resume: arrays only. Random keys and data positions follow from the step."""

from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax
from flax import linen as nn

from electra_jax.objectives.base import Objective
from electra_jax.training.trouble import Guard, init_guard


@flax.struct.dataclass
class TrainState:
    """Step (int32 scalar), parameters, optimizer state of each phase, and the metric sums of the current
    logging window.

    The window is part of the state so that a run restored in the middle of one logs the same averages.
    """

    step: jax.Array
    params: Any
    opt_state: Any
    window: dict[str, jax.Array]


@flax.struct.dataclass
class AveragedTrainState(TrainState):
    """A state that also holds the moving average of the parameters (config.train.ema_decay), of all modules
    that are trained."""

    ema: dict[str, Any]


@flax.struct.dataclass
class GuardedTrainState(TrainState):
    """A state that also holds what decides whether a step is left out (config.trouble; trouble.py)."""

    guard: Guard


@flax.struct.dataclass
class AveragedGuardedTrainState(AveragedTrainState, GuardedTrainState):
    """A state with both."""


def with_guard(state: TrainState, guard: Guard) -> TrainState:
    """The state with a guard, which it does not have yet."""
    kind = AveragedGuardedTrainState if isinstance(state, AveragedTrainState) else GuardedTrainState
    return kind(**vars(state), guard=guard)


def without_guard(state: TrainState) -> TrainState:
    """The state without its guard."""
    values = {name: value for name, value in vars(state).items() if name != "guard"}
    return (AveragedTrainState if "ema" in values else TrainState)(**values)


def abstract_params(objective: Objective, sequence_length: int) -> tuple[Any, Any]:
    """Shapes of the parameters, and their logical axes (PartitionSpecs of names); nothing is computed."""
    boxed = jax.eval_shape(lambda: objective.init(jax.random.key(0), sequence_length))
    return unbox(boxed), nn.get_partition_spec(boxed)


def unbox(boxed: Any) -> Any:
    """Parameters without their logical axis names. Flax's `unbox` would also constrain shardings, which
    distributed/sharding.py does, and which fails on abstract arrays."""
    is_box = lambda leaf: isinstance(leaf, nn.Partitioned)
    return jax.tree.map(lambda leaf: leaf.value if is_box(leaf) else leaf, boxed, is_leaf=is_box)


def init_state(
    key: jax.Array,
    objective: Objective,
    optimizers: dict[str, optax.GradientTransformation],
    sequence_length: int,
    window: dict[str, jax.ShapeDtypeStruct],
    *,
    ema_decay: float,
    is_guarded: bool = False,
) -> TrainState:
    """State before the first step; `window` gives the shapes of the metric sums. A moving average starts as
    the parameters."""
    params = unbox(objective.init(key, sequence_length))
    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), window)
    opt_state = {
        phase.name: optimizers[phase.name].init({name: params[name] for name in phase.trains})
        for phase in objective.phases
    }
    state = TrainState(jnp.zeros([], jnp.int32), params, opt_state, zeros)
    if ema_decay:
        trained = {name: module for name, module in params.items() if name not in objective.frozen}
        state = AveragedTrainState(**vars(state), ema=trained)
    return with_guard(state, init_guard()) if is_guarded else state


def start_from(state: TrainState, params: Any) -> TrainState:
    """The state before the first step, with other parameters; a moving average starts as those."""
    state = state.replace(params=params)
    if not isinstance(state, AveragedTrainState):
        return state
    # A copy, since a training step donates both.
    return state.replace(ema=jax.tree.map(jnp.copy, {name: params[name] for name in state.ema}))


def num_left_out(state: TrainState) -> int:
    """Number of steps whose updates were left out, whatever config.trouble has been meanwhile: the learning
    rate's schedule counts updates, and is behind the step by that number. 0 without a schedule."""
    is_schedule = lambda part: isinstance(part, optax.ScaleByScheduleState)
    parts = jax.tree.leaves(state.opt_state, is_leaf=is_schedule)
    # Each phase has one, all with the same count.
    counts = (part.count for part in parts if is_schedule(part))
    return int(state.step) - int(next(counts, state.step))


def measured_params(state: TrainState) -> Any:
    """The parameters that evaluations and probes measure: the moving average if the state has one."""
    return state.params | state.ema if isinstance(state, AveragedTrainState) else state.params
