"""The memory that a compiled training step needs on each device."""

import math
from typing import Any, NamedTuple

import jax

from electra_jax.training.state import AveragedTrainState, TrainState


class Memory(NamedTuple):
    """Bytes on each device."""

    parameters: int
    optimizer: int  # the optimizer's state and, if kept, the moving average of the parameters
    batch_and_metrics: int
    temporary: int  # while the step runs: gradients and activations above all
    program: int  # the generated code

    @property
    def total(self) -> int:
        return sum(self)


def memory_of(compiled: jax.stages.Compiled, state: TrainState) -> Memory:
    """The memory that a compiled step needs. `state`: shapes and shardings of the state that it updates."""
    stats = compiled.memory_analysis()
    parameters, optimizer = state_bytes(state)
    return Memory(
        parameters,
        optimizer,
        stats.argument_size_in_bytes - parameters - optimizer,
        stats.temp_size_in_bytes + stats.output_size_in_bytes - stats.alias_size_in_bytes,
        stats.generated_code_size_in_bytes,
    )


def state_bytes(state: TrainState) -> tuple[int, int]:
    """(parameters, optimizer) in bytes on each device, as in `Memory`, from shapes and shardings."""
    parameters, optimizer = (_bytes_of(tree) for tree in (state.params, state.opt_state))
    if isinstance(state, AveragedTrainState):
        optimizer += _bytes_of(state.ema)
    return parameters, optimizer


def _bytes_of(tree: Any) -> int:
    """Bytes on one device of arrays, or of shapes with shardings."""
    return sum(
        leaf.dtype.itemsize * math.prod(leaf.sharding.shard_shape(leaf.shape))
        for leaf in jax.tree.leaves(tree)
    )
