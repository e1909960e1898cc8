"""The loss of every row of a batch, computed once more outside the training step.

Shapes: B batch, L length.
"""

from collections.abc import Callable

import jax

from electra_jax.distributed.sharding import BATCH_AXES, data_shard_context
from electra_jax.objectives.base import Objective
from electra_jax.training.step import BatchOf


def make_row_losses(objective: Objective, batch_of: BatchOf) -> Callable[..., tuple[jax.Array, jax.Array]]:
    """(params, ids [B, L], step) → (losses [B], ids [B, L]).

    The step gives noise and dropout, which are those of the training step (from 0). The losses of a batch add
    up to its loss, if no phase before changes the parameters that a phase reads.
    """

    def row_losses(params, ids_BL: jax.Array, step: jax.Array) -> tuple[jax.Array, jax.Array]:
        batch, dropout_key = batch_of(step, ids_BL)
        normalizers = objective.normalizers(batch)
        dropout_key = jax.random.fold_in(dropout_key, 0)  # as gradients.py

        def of_row(row) -> jax.Array:
            total, carry = 0.0, None
            with data_shard_context():
                for phase in objective.phases:
                    loss, (_, carry) = phase.loss(params, row, normalizers, dropout_key, carry)
                    total += loss
            return total

        rows = jax.tree.map(lambda leaf: leaf[:, None], batch)
        return jax.vmap(of_row, spmd_axis_name=BATCH_AXES)(rows), ids_BL

    return row_losses
