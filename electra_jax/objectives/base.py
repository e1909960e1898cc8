"""What an objective is: pure functions that the training step calls without knowing which method it runs.
The table of all objectives is registry.py, in which a new one has to be entered (README.md: an example).

Shapes: B batch, L length, P predicted positions.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax

Params = Any
# Metrics as plain sums, by name: two of them merge by addition, on any mesh and over any microbatches.
Sums = dict[str, jax.Array]
# Google's code adds this to every denominator, so that a batch without predictions gives zero instead of NaN.
EPSILON = 1e-6
# The sum that one phase of every objective gives: the number of real tokens of the text, without padding.
# Speed in tokens per second is computed from it.
TOKENS = "tokens"


class Phase(NamedTuple):
    """One update within a training step."""

    name: str
    # Top-level modules of the parameters that this phase updates, with their own optimizer state. The other
    # modules are constants.
    trains: tuple[str, ...]
    # (all params, batch, normalizers, dropout key, carry) → (loss, (sums, carry)).
    # The batch may be a microbatch: losses and sums of microbatches add up to those of the batch. The dropout
    # key is None in evaluation. The carry comes from the phase before (None in the first), for the same
    # microbatch; its leaves are [B, …]. The parameters include the updates of the phases before.
    loss: Callable[
        [Params, Any, dict[str, jax.Array], jax.Array | None, Any], tuple[jax.Array, tuple[Sums, Any]]
    ]


class Objective(NamedTuple):
    """A training method for one model."""

    # (key, sequence length) → parameters with logical axis names attached.
    init: Callable[[jax.Array, int], Params]
    # (key, ids [B, L]) → batch with its noise, any tree whose leaves are all [B, …]. Called on the whole
    # global batch.
    prepare: Callable[[jax.Array, jax.Array], Any]
    # (batch) → denominators of the losses over the whole global batch.
    normalizers: Callable[[Any], dict[str, jax.Array]]
    # Run in this order in every step. Together they train every top-level module exactly once, except the
    # frozen ones. One of them gives the sum TOKENS.
    phases: tuple[Phase, ...]
    # (batch) → (ids [B, P], weights [B, P]) of the tokens that evaluation counts for `unigram_cross_entropy`,
    # the loss of a model that only counts tokens: weight 1 counts, 0 does not.
    targets: Callable[[Any], tuple[jax.Array, jax.Array]]
    # Top-level modules without gradient, weight decay and optimizer state.
    frozen: tuple[str, ...] = ()
    # (batch, share of the run's steps that is done, from 0) → the batch of that step. Evaluations leave it
    # out: they are the same at every step.
    at_progress: Callable[[Any, jax.Array], Any] = lambda batch, progress: batch
