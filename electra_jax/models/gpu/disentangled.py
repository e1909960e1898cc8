"""Disentangled attention on GPUs: kernels in place of models/disentangled_attention.py's scores and
models/attention_weights.py's softmax.

Nothing of [L, M] or [L, T] is in the GPU's memory. What GPUs share with TPUs is in
models/disentangled_kernels.py.

Shapes: B batch, L length, H heads, K head dim, N tiles of a row, T = 2 · padded length distances.
"""

import jax
import jax.numpy as jnp

from electra_jax.models.attention_shards import Rows
from electra_jax.models.config import EncoderConfig
from electra_jax.models.disentangled_kernels import Arrays, Kernels
from electra_jax.models.gpu.backward import key_gradients, query_gradient, table_gradients
from electra_jax.models.gpu.forward import forward
from electra_jax.models.gpu.scores import Operands, Saved
from electra_jax.models.gpu.tiles import Plan

FAR = 2**30  # beyond every number of a segment


def make_kernels(config: EncoderConfig, length: int, keep_prob: float) -> Kernels:
    """The kernels for rows of `length` tokens; `keep_prob` 1: no dropout."""
    return Kernels(Plan.of_attention(config, length, keep_prob), _forward, _backward)


def _forward(plan: Plan, first_head: jax.Array, rows: Rows, arrays: Arrays) -> tuple[jax.Array, jax.Array]:
    context_BLHK, logsumexp_BHL = forward(plan, _operands(plan, first_head, rows, arrays))
    return context_BLHK[:, : plan.length], logsumexp_BHL


def _backward(
    plan: Plan,
    first_head: jax.Array,
    rows: Rows,
    arrays: Arrays,
    context_BLHK: jax.Array,
    logsumexp_BHL: jax.Array,
    gradient_BLHK: jax.Array,
) -> Arrays:
    operands = _operands(plan, first_head, rows, arrays)
    gradient_BLHK = gradient_BLHK.astype(plan.dtype)
    mean_BLH = (context_BLHK.astype(jnp.float32) * gradient_BLHK.astype(jnp.float32)).sum(axis=-1)
    saved = Saved(_padded(plan, gradient_BLHK), logsumexp_BHL, _padded(plan, mean_BLH).swapaxes(1, 2))
    content = query_gradient(plan, operands, saved), *key_gradients(plan, operands, saved)
    return Arrays(*(x[:, : plan.length] for x in content), *table_gradients(plan, operands, saved))


def _operands(plan: Plan, first_head: jax.Array, rows: Rows, arrays: Arrays) -> Operands:
    segments_BL = _padded(plan, rows.segments_BL, -1)
    return Operands(
        jnp.concatenate([rows.words, first_head[None], rows.rows_B.astype(jnp.uint32)]),
        spans(plan, segments_BL),
        segments_BL,
        *(_padded(plan, x_BLHK) for x_BLHK in arrays[:3]),
        *arrays[3:],
    )


def _padded(plan: Plan, x: jax.Array, value: int = 0) -> jax.Array:
    """To whole tiles along axis 1."""
    widths = ((0, 0), (0, plan.padded_length - x.shape[1]), *((0, 0),) * (x.ndim - 2))
    return jnp.pad(x, widths, constant_values=value)


def spans(plan: Plan, segments_BL: jax.Array) -> jax.Array:
    """[B, 2, N] int32: for each tile, the first tile with a token of its segments, and the one behind the
    last.

    Segments with numbers between the tile's least and greatest are taken for its own. In a packed row, whose
    numbers ascend, they are.
    """
    # Padding is at the end of a row.
    order_BL = jnp.where(segments_BL > 0, segments_BL, FAR - segments_BL)
    of_tiles_BNI = order_BL.reshape(order_BL.shape[0], plan.num_tiles, plan.tile)
    least_BN, greatest_BN = of_tiles_BNI.min(axis=2), of_tiles_BNI.max(axis=2)
    # Those of all tokens of a tile lie between its least and greatest, so tiles need no tokens.
    meet_BNN = (least_BN[:, :, None] <= greatest_BN[:, None]) & (least_BN[:, None] <= greatest_BN[:, :, None])
    number_BNN = jax.lax.broadcasted_iota(jnp.int32, meet_BNN.shape, 2)
    first_BN = jnp.where(meet_BNN, number_BNN, plan.num_tiles).min(axis=2)
    behind_BN = jnp.where(meet_BNN, number_BNN + 1, 0).max(axis=2)
    return jnp.stack([first_BN, behind_BN], axis=1)
