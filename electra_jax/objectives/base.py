"""What an objective is: a record of pure functions that the training step calls without knowing which method
it is."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax

Params = Any
Sums = dict[
    str, jax.Array
]  # metrics as plain sums: two of them merge by addition, on any mesh and over any microbatches


class Phase(NamedTuple):
    """A part of the step with an update of its own.

    trains: top-level modules of the parameters that it updates, with an optimizer state of their own; the
    others are constants.
    loss: (all params, batch, normalizers, dropout key or None for evaluation, carry of the phase before or
      None) → (loss, (sums, carry)). The batch may be a microbatch: losses and sums of microbatches add up to
      those of the batch. The carry's leaves are [B, …]; the next phase gets it beside the same microbatch,
      and the parameters already updated.
    """

    name: str
    trains: tuple[str, ...]
    loss: Callable[
        [Params, Any, dict[str, jax.Array], jax.Array | None, Any], tuple[jax.Array, tuple[Sums, Any]]
    ]


class Objective(NamedTuple):
    """A training method.

    init: (key, sequence_length) → parameters with logical axis names attached.
    prepare: (key, ids [B, L]) → batch with its noise; all leaves [B, …]. Called on the whole global batch.
    normalizers: (batch) → the denominators of the losses over the whole global batch.
    phases: run in order in every step; together they train every top-level module that is not frozen exactly
    once.
    frozen: top-level modules that stay as they are: no gradient, no weight decay, no optimizer state.
    """

    init: Callable[[jax.Array, int], Params]
    prepare: Callable[[jax.Array, jax.Array], Any]
    normalizers: Callable[[Any], dict[str, jax.Array]]
    phases: tuple[Phase, ...]
    frozen: tuple[str, ...] = ()


# Google's code adds this to every denominator, so that a batch without predictions gives zero instead of NaN.
EPSILON = 1e-6
