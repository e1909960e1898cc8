"""Attention within a window, in memory and time proportional to the length: a token attends to the tokens of
its document that are at most `reach` away (ModernBERT's local layers; Longformer's sliding window).

The queries of a row are cut into blocks of S. The keys of a block are its own tokens, and `reach` more on
each side: a window of S + 2·reach. Nothing here has L² elements, forward or backward. A TPU can do the same
in kernels (tpu/attention.py).

Shapes: B batch, L length or queries of a block, M keys of a block, N blocks of a row, H heads, K head dim. A
block is a row of its own batch, of B·N.
"""

import functools

import jax
import jax.numpy as jnp

from electra_jax.models.attention_form import uses_row_kernels
from electra_jax.models.attention_weights import KeyWindow, attend, attend_backward, attend_forward
from electra_jax.models.inputs import EncoderInputs
from electra_jax.models.layers import einsum_f32, einsum_gradients

# Queries per block, unless the reach is larger. Compiled for a TPU v5e with 16 rows of 1,024, 4 heads of 64
# and a reach of 64, forward and backward in bfloat16, blocks of 128 need 66 MiB of temporary
# memory and move 3.2 GB; blocks of 64 need 179 MiB and move 4.6 GB, for 24 % fewer FLOPs.
SMALLEST_BLOCK = 128
SCORES = "BLHK,BMHK->BHLM"


def local_attention(
    keep_prob: float,
    dtype: str,
    reach: int,
    arrays: tuple[jax.Array, jax.Array, jax.Array],
    inputs: EncoderInputs,
    key: jax.Array | None,
    form: str = "plain",
) -> jax.Array:
    """Context [B, L, H, K] of queries that attend to keys of their segment at most `reach` away.

    Args:
      keep_prob: probability that dropout keeps a weight.
      dtype: of the operands of products.
      reach: the greatest distance of a key, in tokens.
      arrays: queries, divided by √K, keys and values [B, L, H, K] in `dtype`.
      inputs: segments, row numbers, and the direction in which a query may attend.
      key: of the dropout mask; None means no dropout.
      form: `LayerExecution.attention`.

    Raises:
      ValueError: `form` is "pallas", and the kernels cannot compute this (`uses_row_kernels`).
    """
    query_BLHK, key_BMHK, value_BMHK = arrays
    length = query_BLHK.shape[1]
    is_directed, shape = inputs.direction is not None, query_BLHK.shape
    if uses_row_kernels(form, keep_prob, reach, shape, is_directed=is_directed, has_bias=False):
        # Imported here: programs without the kernels start sooner.
        from electra_jax.models.tpu.attention import attend_in_kernels

        return attend_in_kernels(keep_prob, dtype, reach, arrays, inputs, key)
    # the row is no longer than the keys of one block, so blocks would save nothing
    if length <= block_size(reach) + 2 * reach:
        scores_BHLM = einsum_f32(SCORES, dtype, query_BLHK, key_BMHK)
        window = KeyWindow(inputs.segments_BL, _distances(length, 0), jnp.int32(reach))
        return attend(keep_prob, dtype, scores_BHLM, value_BMHK, inputs, key, window)
    return _attend_by_blocks(keep_prob, dtype, reach, arrays, inputs, key)


def block_size(reach: int) -> int:
    """Queries of a block. Not less than the reach, so that a window lies in three blocks."""
    return max(reach, SMALLEST_BLOCK)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2))
def _attend_by_blocks(keep_prob, dtype, reach, arrays, inputs, key):
    """Context [B, L, H, K], computed block by block. The backward pass stores `arrays` and the attention
    weights, and cuts the windows of keys and values again: they are several times as large as the arrays."""
    return _forward(keep_prob, dtype, reach, arrays, inputs, key)[0]


def _forward(keep_prob, dtype, reach, arrays, inputs, key):
    """The context of `_attend_by_blocks`, and what `_backward` needs."""
    query_BLHK, key_BMHK, value_BMHK = _cut_arrays(reach, arrays)
    scores_BHLM = einsum_f32(SCORES, dtype, query_BLHK, key_BMHK)
    context_BLHK, (weights_BHLM, *_) = attend_forward(
        keep_prob, dtype, scores_BHLM, value_BMHK, *_cut_inputs(reach, inputs, key)
    )
    # Positions and token types are not read, and so they are not kept.
    inputs = inputs._replace(positions_BL=inputs.segments_BL, token_types_BL=inputs.segments_BL)
    return join(context_BLHK, arrays[0].shape), (weights_BHLM, arrays, inputs, key)


def _backward(keep_prob, dtype, reach, residuals, gradient_BLHK):
    """The gradients of `arrays`, in their dtypes; None for `inputs` and `key`."""
    weights_BHLM, arrays, inputs, key = residuals
    # Without the barrier the compiler would keep the windows of the forward pass.
    arrays = jax.lax.optimization_barrier(arrays)
    query_BLHK, key_BMHK, value_BMHK = _cut_arrays(reach, arrays)
    blocks, _, window = _cut_inputs(reach, inputs, key)
    block_residuals = (
        weights_BHLM,
        value_BMHK,
        blocks.segments_BL,
        blocks.rows_B,
        key,
        blocks.direction,
        window,
    )
    gradient_BHLM, gradient_value_BMHK, *_ = attend_backward(
        keep_prob, dtype, block_residuals, cut(gradient_BLHK, block_size(reach))
    )
    gradient_query_BLHK, gradient_key_BMHK = einsum_gradients(
        SCORES, dtype, query_BLHK, key_BMHK, gradient_BHLM
    )
    whole = lambda windows, like: _join_windows(windows, reach, like.shape).astype(like.dtype)
    gradients = (
        join(gradient_query_BLHK, arrays[0].shape).astype(arrays[0].dtype),
        whole(gradient_key_BMHK, arrays[1]),
        whole(gradient_value_BMHK, arrays[2]),
    )
    return gradients, None, None


_attend_by_blocks.defvjp(_forward, _backward)


def _cut_arrays(reach: int, arrays: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
    """Queries of each block, keys and values of its window."""
    query_BLHK, key_BLHK, value_BLHK = arrays
    size = block_size(reach)
    return cut(query_BLHK, size), _cut_windows(key_BLHK, size, reach), _cut_windows(value_BLHK, size, reach)


def _cut_inputs(
    reach: int, inputs: EncoderInputs, key: jax.Array | None
) -> tuple[EncoderInputs, jax.Array | None, KeyWindow]:
    """The arguments of `attend` after the values, for blocks."""
    size = block_size(reach)
    segments_BL = cut(inputs.segments_BL, size, fill=-1)
    num_blocks = segments_BL.shape[0] // inputs.segments_BL.shape[0]
    # Each block has its own number, so that dropout differs between them.
    rows_B = inputs.rows_B[:, None] * jnp.uint32(num_blocks) + jnp.arange(num_blocks, dtype=jnp.uint32)[None]
    window = KeyWindow(
        _cut_windows(inputs.segments_BL, size, reach, fill=-1), _distances(size, reach), jnp.int32(reach)
    )
    return inputs._replace(segments_BL=segments_BL, rows_B=rows_B.ravel()), key, window


def _distances(size: int, reach: int) -> jax.Array:
    """Index of each query of a block minus that of each key, int32 [size, size + 2·reach]."""
    return jnp.arange(size)[:, None] - (jnp.arange(size + 2 * reach)[None] - reach)


def cut(x: jax.Array, size: int, fill: int = 0, before: int = 0) -> jax.Array:
    """[B, L, …] → blocks [B·N, size, …]. The row is shifted right by `before` (left if negative); `fill` pads
    both ends."""
    batch, length = x.shape[:2]
    num_blocks = -(-length // size)
    missing = num_blocks * size - length
    padding = [(0, 0, 0), (before, missing - before, 0), *[(0, 0, 0)] * (x.ndim - 2)]
    x = jax.lax.pad(x, jnp.asarray(fill, x.dtype), padding)
    return x.reshape(batch * num_blocks, size, *x.shape[2:])


def _cut_windows(x: jax.Array, size: int, reach: int, fill: int = 0) -> jax.Array:
    """[B, L, …] → windows [B·N, size + 2·reach, …], with `fill` outside the row."""
    left, middle, right = (cut(x, size, fill, before) for before in (reach, 0, -reach))
    return jnp.concatenate([left[:, :reach], middle, right[:, size - reach :]], axis=1)


def join(blocks: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """The inverse of `_cut`."""
    return blocks.reshape(shape[0], -1, *shape[2:])[:, : shape[1]]


def _join_windows(windows: jax.Array, reach: int, shape: tuple[int, ...]) -> jax.Array:
    """The transpose of `_cut_windows`: the sum over all windows that have a token, in float32."""
    cut = lambda x: _cut_windows(x, block_size(reach), reach)
    (x,) = jax.linear_transpose(cut, jax.ShapeDtypeStruct(shape, jnp.float32))(windows.astype(jnp.float32))
    return x
