"""The backward kernels: weights computed again from the saved logarithms, then the gradients.

Three kernels, since each sums over something else: the queries' over tiles of keys, that of keys and values
over tiles of queries, the tables' over all pairs of tiles that are equally far apart, and rows. No sum is
shared by two programs, so results are the same in every run.

Shapes: B rows, L padded length, H heads, K head dim, T = 2·L distances, N tiles of a row, I queries of a
tile, J keys of a tile, W distances of a window, P parts of the rows, D = 2·N − 1 distances of tiles.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl

from electra_jax.models.gpu.launch import call, tile_of_head
from electra_jax.models.gpu.scores import Head, Operands, Saved, slopes
from electra_jax.models.gpu.tiles import Plan, by_distance_to_keys, by_distance_to_queries

NUM_OPERANDS, NUM_SAVED = len(Operands._fields), len(Saved._fields)
# Programs of the tables' kernel that are enough to fill a GPU; each stores two windows of sums.
ENOUGH_PROGRAMS = 512


def query_gradient(plan: Plan, operands: Operands, saved: Saved) -> jax.Array:
    """Of the queries [B, L, H, K]."""
    (gradient_BLHK,) = _by_tile(plan, _query_kernel, "queries", operands, saved, num_outputs=1, products=9)
    return gradient_BLHK


def key_gradients(plan: Plan, operands: Operands, saved: Saved) -> list[jax.Array]:
    """Of the keys and of the values [B, L, H, K]."""
    return _by_tile(plan, _key_kernel, "keys", operands, saved, num_outputs=2, products=10)


def _by_tile(plan, kernel, name, operands, saved, *, num_outputs, products):
    batch, _, heads, _ = shape = operands.query_BLHK.shape
    return call(
        plan,
        functools.partial(kernel, plan),
        f"disentangled_attention_backward_{name}",
        grid=(plan.num_tiles, heads, batch),
        operands=operands,
        saved=saved,
        outputs=[(tile_of_head(plan), jax.ShapeDtypeStruct(shape, plan.dtype))] * num_outputs,
        products=products,
    )


def _split(refs):
    """Operands, saved arrays and results among a kernel's references."""
    operands, rest = Operands(*refs[:NUM_OPERANDS]), refs[NUM_OPERANDS:]
    return operands, Saved(*rest[:NUM_SAVED]), rest[NUM_SAVED:]


def _query_kernel(plan: Plan, *refs) -> None:
    operands, saved, (gradient_ref,) = _split(refs)
    tile, number, row = map(pl.program_id, range(3))
    head = Head(plan, operands, row, number)
    queries = head.backward_queries(saved, tile)

    def add_keys(number, sums_IK):
        keys, windows = head.keys(number), head.windows(number - tile)
        dscores_IJ = slopes(head, queries, keys, windows).dscores_IJ
        spread_IW = by_distance_to_keys(plan, dscores_IJ)
        sums_IK += plan.multiply("IJ,JK->IK", dscores_IJ, keys.key_JK)
        return sums_IK + plan.multiply("IW,WK->IK", spread_IW, windows.key_WK)

    zeros_IK = jnp.zeros((plan.tile, plan.head_size), jnp.float32)
    gradient_ref[...] = jax.lax.fori_loop(*head.span(tile), add_keys, zeros_IK).astype(plan.dtype)


def _key_kernel(plan: Plan, *refs) -> None:
    operands, saved, (key_ref, value_ref) = _split(refs)
    tile, number, row = map(pl.program_id, range(3))
    head = Head(plan, operands, row, number)
    keys = head.keys(tile)

    def add_queries(number, sums):
        key_JK, value_JK = sums
        queries, windows = head.backward_queries(saved, number), head.windows(tile - number)
        dropped_IJ, dscores_IJ = slopes(head, queries, keys, windows)
        spread_WJ = by_distance_to_queries(plan, dscores_IJ)
        value_JK += plan.multiply("IJ,IK->JK", dropped_IJ, queries.gradient_IK)
        key_JK += plan.multiply("IJ,IK->JK", dscores_IJ, queries.query_IK)
        return key_JK + plan.multiply("WJ,WK->JK", spread_WJ, windows.query_WK), value_JK

    zeros_JK = jnp.zeros((plan.tile, plan.head_size), jnp.float32)
    key_JK, value_JK = jax.lax.fori_loop(*head.span(tile), add_queries, (zeros_JK, zeros_JK))
    key_ref[...] = key_JK.astype(plan.dtype)
    value_ref[...] = (value_JK * (1.0 / plan.keep_prob)).astype(plan.dtype)


class _Parts(NamedTuple):
    """How the rows are cut into parts, one for each program of a head and a distance of tiles."""

    number: int
    rows: int  # of each but the last


def _parts(plan: Plan, batch: int, heads: int) -> _Parts:
    wanted = min(batch, -(-ENOUGH_PROGRAMS // (heads * (2 * plan.num_tiles - 1))))
    rows = -(-batch // wanted)
    return _Parts(-(-batch // rows), rows)


def table_gradients(plan: Plan, operands: Operands, saved: Saved) -> list[jax.Array]:
    """Of the tables of keys and of queries [T, H, K], float32."""
    batch, _, heads, head_size = operands.query_BLHK.shape
    parts, num_distances = _parts(plan, batch, heads), 2 * plan.num_tiles - 1
    shape = (parts.number, heads, num_distances, plan.window, head_size)
    window = pl.BlockSpec(
        (None, None, None, plan.window, head_size), lambda distance, head, part: (part, head, distance, 0, 0)
    )
    sums = call(
        plan,
        functools.partial(_table_kernel, plan, parts, batch),
        "disentangled_attention_backward_tables",
        grid=(num_distances, heads, parts.number),
        operands=operands,
        saved=saved,
        outputs=[(window, jax.ShapeDtypeStruct(shape, jnp.float32))] * 2,
        products=10,
    )
    key_HDWK, query_HDWK = (x.sum(axis=0) for x in sums)
    # The queries' windows descend as the distance of the tiles ascends.
    return [_add_windows(plan, x_HDWK) for x_HDWK in (key_HDWK, query_HDWK[:, ::-1])]


def _table_kernel(plan: Plan, parts: _Parts, batch: int, *refs) -> None:
    operands, saved, (key_ref, query_ref) = _split(refs)
    number, head_number, part = map(pl.program_id, range(3))
    distance = number - (plan.num_tiles - 1)  # tiles of keys less tiles of queries
    first_row = part * parts.rows
    first_tile, num_pairs = jnp.maximum(-distance, 0), plan.num_tiles - jnp.abs(distance)
    windows = Head(plan, operands, first_row, head_number).windows(distance)

    def add_pair(index, sums):
        key_WK, query_WK = sums
        row, tile = first_row + jax.lax.div(index, num_pairs), first_tile + jax.lax.rem(index, num_pairs)
        head = Head(plan, operands, row, head_number)
        queries, keys = head.backward_queries(saved, tile), head.keys(tile + distance)
        dscores_IJ = slopes(head, queries, keys, windows).dscores_IJ
        key_WK += plan.multiply("IW,IK->WK", by_distance_to_keys(plan, dscores_IJ), queries.query_IK)
        return key_WK, query_WK + plan.multiply(
            "WJ,JK->WK", by_distance_to_queries(plan, dscores_IJ), keys.key_JK
        )

    zeros_WK = jnp.zeros((plan.window, plan.head_size), jnp.float32)
    num_rows = jnp.minimum(parts.rows, batch - first_row)
    key_ref[...], query_ref[...] = jax.lax.fori_loop(0, num_rows * num_pairs, add_pair, (zeros_WK, zeros_WK))


def _add_windows(plan: Plan, x_HDWK: jax.Array) -> jax.Array:
    """Sums of the windows, each half of which overlaps a neighbour's: [T, H, K]."""
    heads, num_distances, _, head_size = x_HDWK.shape
    halves = x_HDWK.reshape(heads, num_distances, 2, plan.tile, head_size)
    pad = lambda x, before, after: jnp.pad(x, ((0, 0), (before, after), (0, 0), (0, 0)))
    sums = pad(halves[:, :, 0], 0, 1) + pad(halves[:, :, 1], 1, 0)
    return sums.reshape(heads, -1, head_size).swapaxes(0, 1)
