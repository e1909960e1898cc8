"""Scores, mask, dropout and slopes of a tile of queries and a tile of keys, which all kernels compute.

Shapes: B rows, L padded length, H heads, K head dim, N tiles of a row, T = 2·L distances, I queries of a
tile, J keys of a tile, W distances of a window.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl

from electra_jax.models.disentangled_kernels import MASKED
from electra_jax.models.gpu.tiles import Plan, by_key, by_query


class Operands(NamedTuple):
    """What all kernels read: arrays outside the kernels, references to those of one head inside."""

    numbers: Any  # uint32 [3 + B]: two words of the dropout's key, the first head, the number of each row
    # int32 [B, 2, N]: the first tile of keys that a tile of queries attends to, and the one behind the last;
    # the same holds for the queries that attend to a tile of keys
    spans_B2N: Any
    segments_BL: Any  # int32; −1 where the length is padded
    query_BLHK: Any  # scaled
    key_BLHK: Any
    value_BLHK: Any
    key_THK: Any  # the projected table, a row for each distance j − i = t − L
    query_THK: Any  # scaled; a row for each distance i − j = t − L


class Saved(NamedTuple):
    """What the kernels of the backward pass read in addition."""

    gradient_BLHK: Any  # of the context
    logsumexp_BHL: Any
    mean_BHL: Any  # of the weights' gradients, with the weights


def specs_of_operands(operands: Operands) -> list[pl.BlockSpec]:
    """The whole arrays, of one head where there are heads, whose number is the grid's second axis."""
    whole = lambda x: pl.BlockSpec(x.shape, lambda *_: (0,) * x.ndim)
    return [*map(whole, operands[:3]), *(_of_head(x, x.ndim - 2) for x in operands[3:])]


def specs_of_saved(saved: Saved) -> list[pl.BlockSpec]:
    """As `specs_of_operands`."""
    return [
        _of_head(saved.gradient_BLHK, 2),
        *(_of_head(x, 1) for x in saved[1:]),
    ]


def _of_head(x: jax.Array, axis: int) -> pl.BlockSpec:
    place = lambda _, head, __: tuple(head if n == axis else 0 for n in range(x.ndim))
    return pl.BlockSpec(tuple(None if n == axis else size for n, size in enumerate(x.shape)), place)


class Queries(NamedTuple):
    """A tile of queries."""

    number: Any  # of the tile
    segments_I: jax.Array
    query_IK: jax.Array


class BackwardQueries(NamedTuple):
    """The same in the backward pass."""

    number: Any
    segments_I: jax.Array
    query_IK: jax.Array
    gradient_IK: jax.Array
    logsumexp_I: jax.Array
    mean_I: jax.Array


class Keys(NamedTuple):
    """A tile of keys."""

    number: Any
    segments_J: jax.Array
    key_JK: jax.Array
    value_JK: jax.Array


class Windows(NamedTuple):
    """The tables' rows of all distances between two tiles."""

    key_WK: jax.Array
    query_WK: jax.Array


class Head(NamedTuple):
    """One head of one row."""

    plan: Plan
    operands: Operands  # references
    row: Any  # its number in the shard
    head: Any  # its number in the shard

    def queries(self, number: Any) -> Queries:
        """The tile of queries with this number."""
        return Queries(number, *self._tiles(number, self.operands.segments_BL, self.operands.query_BLHK))

    def backward_queries(self, saved: Saved, number: Any) -> BackwardQueries:
        """The same with what the backward pass needs."""
        return BackwardQueries(*self.queries(number), *self._tiles(number, *saved))

    def keys(self, number: Any) -> Keys:
        """The tile of keys with this number."""
        operands = self.operands
        of_tile = self._tiles(number, operands.segments_BL, operands.key_BLHK, operands.value_BLHK)
        return Keys(number, *of_tile)

    def windows(self, distance: Any) -> Windows:
        """`distance`: the number of the keys' tile less that of the queries'."""
        plan, operands = self.plan, self.operands
        rows = lambda tiles: pl.ds((plan.num_tiles + tiles - 1) * plan.tile, plan.window)
        return Windows(operands.key_THK[rows(distance), :], operands.query_THK[rows(-distance), :])

    def span(self, number: Any) -> tuple[jax.Array, jax.Array]:
        """The first tile that meets the tile with this number, and the one behind the last."""
        return tuple(self.operands.spans_B2N[self.row, end, number] for end in (0, 1))

    def _tiles(self, number: Any, *refs: Any) -> list[jax.Array]:
        places = pl.ds(number * self.plan.tile, self.plan.tile)
        return [ref[(self.row, places, *(slice(None),) * (len(ref.shape) - 2))] for ref in refs]


def masked_scores(plan: Plan, queries: Queries | BackwardQueries, keys: Keys, windows: Windows) -> jax.Array:
    """Scores [I, J]."""
    content_IJ = plan.multiply("IK,JK->IJ", queries.query_IK, keys.key_JK)
    to_position_IW = plan.multiply("IK,WK->IW", queries.query_IK, windows.key_WK)
    from_position_WJ = plan.multiply("WK,JK->WJ", windows.query_WK, keys.key_JK)
    scores_IJ = content_IJ + by_key(plan, to_position_IW) + by_query(plan, from_position_WJ)
    return jnp.where(queries.segments_I[:, None] == keys.segments_J[None], scores_IJ, MASKED)


def drop(head: Head, query_tile: Any, key_tile: Any, *arrays_IJ: jax.Array) -> list[jax.Array]:
    """`KernelPlan.drop` of two tiles."""
    plan, numbers = head.plan, head.operands.numbers
    iota = lambda axis: jax.lax.broadcasted_iota(jnp.int32, (plan.tile, plan.tile), axis)
    query_IJ, key_IJ = query_tile * plan.tile + iota(0), key_tile * plan.tile + iota(1)
    number = numbers[2] + jnp.asarray(head.head, jnp.int32).astype(jnp.uint32)
    words = numbers[0], numbers[1]
    return plan.drop(words, numbers[3 + head.row], number, query_IJ, key_IJ, *arrays_IJ)


class Slopes(NamedTuple):
    """What the gradients are products of, in the plan's dtype."""

    dropped_IJ: jax.Array  # weights after dropout, not scaled
    dscores_IJ: jax.Array


def slopes(head: Head, queries: BackwardQueries, keys: Keys, windows: Windows) -> Slopes:
    """Weights, computed again, and the gradients of the scores."""
    plan = head.plan
    scores_IJ = masked_scores(plan, queries, keys, windows)
    weights_IJ = jnp.exp(scores_IJ - queries.logsumexp_I[:, None])
    slopes_IJ = plan.multiply("IK,JK->IJ", queries.gradient_IK, keys.value_JK)
    dropped_IJ, slopes_IJ = drop(head, queries.number, keys.number, weights_IJ, slopes_IJ)
    dscores_IJ = weights_IJ * (slopes_IJ * (1.0 / plan.keep_prob) - queries.mean_I[:, None])
    return Slopes(dropped_IJ.astype(plan.dtype), dscores_IJ.astype(plan.dtype))
