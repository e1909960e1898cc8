"""Tiles of queries and keys, and the gathers between scores by distance and scores by key or by query.

A tile of I queries and a tile of J = I keys span fewer than W = I + J distances. A product with the table's
rows of this window gives a score for each distance; since the distance of query i and key j of the tiles is
j − i (keys' table) or i − j (queries' table), a gather within the tile gives the score of each pair. Each
score belongs to one pair, so the transpose is a gather, too, with zeros where there is no pair.

Shapes: I queries of a tile, J keys of a tile, W distances of a window.
"""

import jax
import jax.numpy as jnp

from electra_jax.models.disentangled_kernels import KernelPlan
from electra_jax.models.gpu.gather import gather


class Plan(KernelPlan):
    """Tiles for a GPU."""

    @property
    def tile(self) -> int:
        """Queries, and keys, of a tile. Larger ones would need more registers and shared memory than GPUs
        have."""
        bytes_of_head = self.head_size * (2 if self.dtype == "bfloat16" else 4)
        return 64 if bytes_of_head <= 128 else 32 if bytes_of_head <= 256 else 16

    @property
    def num_warps(self) -> int:
        """Of a program, 32 threads each. With fewer the registers would overflow into memory."""
        return self.tile // 8

    @property
    def num_tiles(self) -> int:
        """Of a row."""
        return -(-self.length // self.tile)

    @property
    def padded_length(self) -> int:
        return self.num_tiles * self.tile

    @property
    def window(self) -> int:
        """Distances of two tiles, and one more."""
        return 2 * self.tile


def by_key(plan: Plan, x_IW: jax.Array) -> jax.Array:
    """y[i, j] = x[i, I + j − i]: [I, W] → [I, J]."""
    i, j = _iota(plan.tile, plan.tile)
    return _gather(plan, x_IW, plan.tile + j - i, 1)


def by_query(plan: Plan, x_WJ: jax.Array) -> jax.Array:
    """y[i, j] = x[J + i − j, j]: [W, J] → [I, J]."""
    i, j = _iota(plan.tile, plan.tile)
    return _gather(plan, x_WJ, plan.tile + i - j, 0)


def by_distance_to_keys(plan: Plan, y_IJ: jax.Array) -> jax.Array:
    """The transpose of `by_key`: x[i, w] = y[i, w − I + i], or 0."""
    i, w = _iota(plan.tile, plan.window)
    return _gather_or_zero(plan, y_IJ, w - plan.tile + i, 1)


def by_distance_to_queries(plan: Plan, y_IJ: jax.Array) -> jax.Array:
    """The transpose of `by_query`: x[w, j] = y[w − J + j, j], or 0."""
    w, j = _iota(plan.window, plan.tile)
    return _gather_or_zero(plan, y_IJ, w - plan.tile + j, 0)


def _iota(*shape: int) -> list[jax.Array]:
    return [jax.lax.broadcasted_iota(jnp.int32, shape, axis) for axis in (0, 1)]


def _gather(plan: Plan, x: jax.Array, index: jax.Array, axis: int) -> jax.Array:
    return gather(x, index, axis, is_interpreted=plan.is_interpreted)


def _gather_or_zero(plan: Plan, y: jax.Array, index: jax.Array, axis: int) -> jax.Array:
    is_pair = (index >= 0) & (index < plan.tile)
    inside = jnp.clip(index, 0, plan.tile - 1)
    return jnp.where(is_pair, _gather(plan, y, inside, axis), jnp.zeros((), y.dtype))
