"""Disentangled attention on TPUs: two kernels, forward and backward, in place of
models/disentangled_attention.py's scores and models/attention_weights.py's softmax.

    score[i, j] = q_i·k_j + q_i·Kr[δ(i − j)] + Qr[δ(i − j)]·k_j,   softmax over the keys j of i's own segment

q and Qr are scaled already. δ, the row of DeBERTa's relative table (log buckets, both terms with one index),
depends on the distance alone, so both tables are expanded to one row for each distance before the kernels.
Nothing of [L, M] or [L, T] leaves the chip: the backward pass computes the weights again from the logarithm
of each row's sum. The dropout's mask is the same as without the kernels, element by element.

Each shard of a mesh computes its own rows and heads; only the tables' gradients are summed over the network,
also in the plain form.

Shapes: B batch, L length, H heads, K head dim, R reachable rows of the relative table, T = 2 · padded length
distances.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.ad_checkpoint import checkpoint_name
from jax.sharding import PartitionSpec

from electra_jax.models.attention_form import are_interpreted, mesh_axes_of
from electra_jax.models.config import EncoderConfig
from electra_jax.models.inputs import EncoderInputs
from electra_jax.models.layers import CONTEXT_NAME
from electra_jax.models.tpu.backward import Saved, backward
from electra_jax.models.tpu.forward import forward
from electra_jax.models.tpu.scores import Operands
from electra_jax.models.tpu.tiles import LANES, Plan, multiply


def make_plan(config: EncoderConfig, length: int, keep_prob: float) -> Plan:
    """The plan for rows of `length` tokens; `keep_prob` 1: no dropout."""
    return Plan(length, config.num_heads, config.head_size, keep_prob, config.dtype, are_interpreted())


class Call(NamedTuple):
    """What is static: the kernels' plan, and the mesh axes that cut rows and heads."""

    plan: Plan
    is_on_mesh: bool
    batch_axes: tuple[str, ...]
    head_axes: tuple[str, ...]


class Rows(NamedTuple):
    """What the kernels know of the rows and of the dropout."""

    words: jax.Array  # uint32 [2], the dropout's key
    segments_BL: jax.Array
    rows_B: jax.Array  # uint32


class Arrays(NamedTuple):
    """What has a gradient."""

    query_BLHK: jax.Array
    key_BLHK: jax.Array
    value_BLHK: jax.Array
    key_THK: jax.Array  # a row for each distance j − i = t − T/2
    query_THK: jax.Array  # a row for each distance i − j = t − T/2


def attend_disentangled(
    plan: Plan,
    content: tuple[jax.Array, jax.Array, jax.Array],
    tables: tuple[jax.Array, jax.Array],
    index_T: np.ndarray,
    inputs: EncoderInputs,
    key: jax.Array | None,
) -> jax.Array:
    """Context [B, L, H, K] in `plan.dtype`; that of padding is not defined.

    Args:
      content: queries, scaled, keys and values [B, L, H, K], in `plan.dtype`.
      tables: the projected relative rows as queries, scaled, and as keys, [R, H, K].
      index_T: [2L − 1], the row of distance i − j = t − (L − 1) (`RelativeRows`).
      inputs: segments and row numbers; queries attend in both directions.
      key: of the dropout; None: no dropout.
    """
    query_RHK, key_RHK = tables
    half = plan.padded_length
    rows_of = lambda distance_T: index_T[
        np.clip(distance_T, 1 - plan.length, plan.length - 1) + plan.length - 1
    ]
    ascending_T = np.arange(-half, half)
    expand = functools.partial(_expand, plan)
    arrays = Arrays(*content, expand(key_RHK, rows_of(-ascending_T)), expand(query_RHK, rows_of(ascending_T)))
    words = jnp.zeros(2, jnp.uint32) if key is None else jax.random.key_data(key).astype(jnp.uint32).ravel()
    return _attend(_make_call(plan), Rows(words[:2], inputs.segments_BL, inputs.rows_B), arrays)


def _expand(plan: Plan, table_RHK: jax.Array, index_T: np.ndarray) -> jax.Array:
    """One row for each distance: a product with ones, so that its gradient is one, too, and scatters
    nothing."""
    one_hot_TR = index_T[:, None] == jnp.arange(table_RHK.shape[0])[None]
    return multiply(plan, "TR,RHK->THK", one_hot_TR.astype(plan.dtype), table_RHK).astype(plan.dtype)


def _make_call(plan: Plan) -> Call:
    is_on_mesh = not jax.sharding.get_abstract_mesh().empty
    return Call(plan, is_on_mesh, mesh_axes_of("batch"), mesh_axes_of("heads"))


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _attend(call: Call, rows: Rows, arrays: Arrays) -> jax.Array:
    return _forward(call, rows, arrays)[0]


def _forward(call, rows, arrays):
    context_BLHK, logsumexp = _on_shards(call, _forward_of_shard, rows, arrays)
    context_BLHK = checkpoint_name(context_BLHK, CONTEXT_NAME)
    return context_BLHK, (rows, arrays, context_BLHK, checkpoint_name(logsumexp, CONTEXT_NAME))


def _backward(call, residuals, gradient_BLHK):
    rows, arrays, context_BLHK, logsumexp = residuals
    gradients = _on_shards(call, _backward_of_shard, rows, arrays, context_BLHK, logsumexp, gradient_BLHK)
    return None, gradients


_attend.defvjp(_forward, _backward)


def _on_shards(call: Call, function: Callable, rows: Rows, arrays: Arrays, *saved: jax.Array):
    """`function(call, first head, rows, arrays, *saved)` of each shard's rows and heads."""
    if not call.is_on_mesh:
        return function(call, jnp.uint32(0), rows, arrays, *saved)
    spec = PartitionSpec
    content = spec(call.batch_axes, None, call.head_axes, None)
    logsumexp, table = spec(call.batch_axes, call.head_axes), spec(None, call.head_axes, None)
    of_rows = Rows(spec(), spec(call.batch_axes), spec(call.batch_axes))
    of_arrays = Arrays(content, content, content, table, table)
    is_forward = not saved

    def of_shard(rows, arrays, *saved):
        first = jax.lax.axis_index(call.head_axes) if call.head_axes else 0
        first_head = jnp.uint32(first * arrays.query_BLHK.shape[2])
        return function(call, first_head, rows, arrays, *saved)

    return jax.shard_map(
        of_shard,
        in_specs=(of_rows, of_arrays, *(() if is_forward else (content, logsumexp, content))),
        out_specs=(content, logsumexp) if is_forward else of_arrays,
        check_vma=False,
    )(rows, arrays, *saved)


def _forward_of_shard(call, first_head, rows, arrays):
    context_BLF, logsumexp = forward(call.plan, _operands(call.plan, first_head, rows, arrays))
    return _from_blocks(call.plan, context_BLF, arrays.query_BLHK), logsumexp


def _backward_of_shard(call, first_head, rows, arrays, context_BLHK, logsumexp, gradient_BLHK):
    plan = call.plan
    saved = Saved(_to_blocks(plan, context_BLHK), logsumexp, _to_blocks(plan, gradient_BLHK))
    gradients = backward(plan, _operands(plan, first_head, rows, arrays), saved)
    content = [_from_blocks(plan, x_BLF, arrays.query_BLHK) for x_BLF in gradients[:3]]
    tables = [_from_blocks(plan, x_FT.T[None], arrays.key_THK[None])[0] for x_FT in gradients[3:]]
    if call.batch_axes:
        tables = jax.lax.psum(tables, call.batch_axes)
    return Arrays(*content, *(table.astype(plan.dtype) for table in tables))


def _operands(plan: Plan, first_head: jax.Array, rows: Rows, arrays: Arrays) -> Operands:
    missing = plan.padded_length - plan.length
    segments_BL = jnp.pad(rows.segments_BL, ((0, 0), (0, missing)), constant_values=-1)
    tables = [_to_blocks(plan, table_THK[None])[0] for table_THK in arrays[3:]]
    return Operands(
        jnp.concatenate([rows.words, first_head[None], rows.rows_B.astype(jnp.uint32)])[None],
        segments_BL[:, None],
        *(_to_blocks(plan, x_BLHK) for x_BLHK in arrays[:3]),
        *tables,
    )


def _to_blocks(plan: Plan, x_BLHK: jax.Array) -> jax.Array:
    """[B, L, H, K] → [B, L padded to whole registers, F], whole blocks of heads."""
    _, length, heads, _ = x_BLHK.shape
    x_BLHK = jnp.pad(x_BLHK, ((0, 0), (0, -length % LANES), (0, -heads % plan.block_heads), (0, 0)))
    return x_BLHK.reshape(*x_BLHK.shape[:2], -1)


def _from_blocks(plan: Plan, x_BLF: jax.Array, like_BLHK: jax.Array) -> jax.Array:
    """The inverse of `_to_blocks`, of the shape of `like_BLHK`."""
    _, length, heads, head_size = like_BLHK.shape
    return x_BLF[:, :length, : heads * head_size].reshape(like_BLHK.shape)
