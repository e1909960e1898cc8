"""What an objective is: a record of pure functions that the training step calls without knowing which method it is."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax

Params = Any
Sums = dict[str, jax.Array]  # metrics as plain sums: two of them merge by addition, on any mesh and over any microbatches


class Objective(NamedTuple):
    """A training method.

    init: (key, sequence_length) → parameters with logical axis names attached.
    prepare: (key, ids [B, L]) → batch with its noise; all leaves [B, …]. Called on the whole global batch.
    normalizers: (batch) → the denominators of the losses over the whole global batch.
    loss: (params, batch, normalizers, dropout key or None for evaluation) → (loss, sums). The batch may be a microbatch:
      losses and sums of microbatches add up to those of the batch.
    """

    init: Callable[[jax.Array, int], Params]
    prepare: Callable[[jax.Array, jax.Array], Any]
    normalizers: Callable[[Any], dict[str, jax.Array]]
    loss: Callable[[Params, Any, dict[str, jax.Array], jax.Array | None], tuple[jax.Array, Sums]]


# Google's code adds this to every denominator, so that a batch without predictions gives zero instead of NaN.
EPSILON = 1e-6
