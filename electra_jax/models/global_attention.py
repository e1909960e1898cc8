"""Attention to a whole document: every token attends to all tokens of its segment.

Short rows are computed whole: the weights [B, H, L, M] are stored for the backward pass. Rows above
LONGEST_WHOLE are computed in blocks of queries, one block after another. Each block has all keys, so its
softmax is complete. The backward pass computes the weights of each block again and stores none, so memory
grows with the length, not with its square. It costs one more product of queries and keys. A TPU can do the
same in kernels (tpu/attention.py, and splash_attention.py for long rows).

Shapes: B batch, L length or queries of a block, M keys, N blocks of a row, H heads, K head dim.
"""

import functools

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from electra_jax.models.attention_form import LONGEST_WHOLE, uses_row_kernels, uses_splash
from electra_jax.models.attention_weights import KeyWindow, attend, attend_backward, attend_forward
from electra_jax.models.inputs import EncoderInputs
from electra_jax.models.layers import CONTEXT_NAME, einsum_f32, einsum_gradients
from electra_jax.models.local_attention import SCORES, cut, join

SMALLEST_BLOCK = 128  # queries; fewer would leave a TPU's matrix unit idle
BLOCK_SCORES = 2**20  # of one row and head: the most in a block that is larger than SMALLEST_BLOCK


def global_attention(
    keep_prob: float,
    dtype: str,
    arrays: tuple[jax.Array, jax.Array, jax.Array],
    inputs: EncoderInputs,
    key: jax.Array | None,
    bias_HLM: jax.Array | None = None,
    form: str = "plain",
) -> jax.Array:
    """Context [B, L, H, K] of queries that attend to all keys of their segment.

    Args:
      keep_prob: probability that dropout keeps a weight.
      dtype: of the operands of products.
      arrays: queries, divided by √K, keys and values [B, L, H, K] in `dtype`.
      inputs: segments, row numbers, and the direction in which a query may attend.
      key: of the dropout mask; None means no dropout.
      bias_HLM: is added to the scores, in float32. Such rows are computed whole at any length: the bias has
        a number for each query and key already.
      form: `LayerExecution.attention`.

    Raises:
      ValueError: `form` is "pallas", and the kernels cannot compute this (`uses_row_kernels`, `uses_splash`).
    """
    query_BLHK, key_BMHK, value_BMHK = arrays
    shape = query_BLHK.shape
    limits = {"is_directed": inputs.direction is not None, "has_bias": bias_HLM is not None}
    if shape[1] <= LONGEST_WHOLE:
        if uses_row_kernels(form, keep_prob, None, shape, **limits):
            # Imported here, as the next: programs without the kernels start sooner.
            from electra_jax.models.tpu.attention import attend_in_kernels

            return attend_in_kernels(keep_prob, dtype, None, arrays, inputs, key)
    elif uses_splash(form, keep_prob, dtype, shape, **limits):
        from electra_jax.models.splash_attention import splash_attention

        return splash_attention(arrays, inputs)
    if query_BLHK.shape[1] > LONGEST_WHOLE and bias_HLM is None:
        return _attend_by_blocks(keep_prob, dtype, arrays, inputs, key)
    scores_BHLM = einsum_f32(SCORES, dtype, query_BLHK, key_BMHK)
    if bias_HLM is not None:
        scores_BHLM += bias_HLM[None]
    return attend(keep_prob, dtype, scores_BHLM, value_BMHK, inputs, key)


def block_size(length: int) -> int:
    """Queries of a block in rows of `length` tokens."""
    return max(SMALLEST_BLOCK, BLOCK_SCORES // length // SMALLEST_BLOCK * SMALLEST_BLOCK)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _attend_by_blocks(keep_prob, dtype, arrays, inputs, key):
    return _forward(keep_prob, dtype, arrays, inputs, key)[0]


def _forward(keep_prob, dtype, arrays, inputs, key):
    """The context, and what `_backward` needs."""
    query_BLHK, key_BMHK, value_BMHK = arrays

    def block(number, query_BLHK, segments_BL):
        scores_BHLM = einsum_f32(SCORES, dtype, query_BLHK, key_BMHK)
        rest = _inputs_of_block(number, segments_BL, inputs, key)
        return number + 1, attend_forward(keep_prob, dtype, scores_BHLM, value_BMHK, *rest)[0]

    blocks = _cut(query_BLHK), _cut(inputs.segments_BL, fill=-1)
    _, context_NBLHK = jax.lax.scan(lambda number, each: block(number, *each), jnp.uint32(0), blocks)
    context_BLHK = checkpoint_name(_join(context_NBLHK, query_BLHK.shape), CONTEXT_NAME)
    # Positions and token types are not read, and so they are not kept.
    inputs = inputs._replace(positions_BL=inputs.segments_BL, token_types_BL=inputs.segments_BL)
    return context_BLHK, (arrays, inputs, key)


def _backward(keep_prob, dtype, residuals, gradient_BLHK):
    """The gradients of `arrays`, in their dtypes; None for `inputs` and `key`. Those of keys and values are
    summed over the blocks in float32."""
    (query_BLHK, key_BMHK, value_BMHK), inputs, key = residuals

    def block(carry, query_BLHK, segments_BL, gradient_BLHK):
        number, gradient_key_BMHK, gradient_value_BMHK = carry
        scores_BHLM = einsum_f32(SCORES, dtype, query_BLHK, key_BMHK)
        rest = _inputs_of_block(number, segments_BL, inputs, key)
        _, saved = attend_forward(keep_prob, dtype, scores_BHLM, value_BMHK, *rest)
        gradient_BHLM, more_value_BMHK, *_ = attend_backward(keep_prob, dtype, saved, gradient_BLHK)
        more_query_BLHK, more_key_BMHK = einsum_gradients(SCORES, dtype, query_BLHK, key_BMHK, gradient_BHLM)
        carry = number + 1, gradient_key_BMHK + more_key_BMHK, gradient_value_BMHK + more_value_BMHK
        return carry, more_query_BLHK.astype(dtype)

    zeros_BMHK = jnp.zeros(key_BMHK.shape, jnp.float32)
    blocks = _cut(query_BLHK), _cut(inputs.segments_BL, fill=-1), _cut(gradient_BLHK)
    (_, gradient_key_BMHK, gradient_value_BMHK), query_NBLHK = jax.lax.scan(
        lambda carry, each: block(carry, *each), (jnp.uint32(0), zeros_BMHK, zeros_BMHK), blocks
    )
    gradients = (
        _join(query_NBLHK, query_BLHK.shape).astype(query_BLHK.dtype),
        gradient_key_BMHK.astype(key_BMHK.dtype),
        gradient_value_BMHK.astype(value_BMHK.dtype),
    )
    return gradients, None, None


_attend_by_blocks.defvjp(_forward, _backward)


def _inputs_of_block(
    number: jax.Array, segments_BL: jax.Array, inputs: EncoderInputs, key: jax.Array | None
) -> tuple[EncoderInputs, jax.Array | None, KeyWindow]:
    """The arguments of `attend` after the values, for the queries of one block and all keys."""
    length = inputs.segments_BL.shape[1]
    size = segments_BL.shape[1]
    num_blocks = -(-length // size)
    first = number.astype(jnp.int32) * size
    distance_LM = first + jnp.arange(size)[:, None] - jnp.arange(length)[None]
    # Each block has its own number, so that dropout differs between them.
    rows_B = inputs.rows_B * jnp.uint32(num_blocks) + number
    window = KeyWindow(inputs.segments_BL, distance_LM, jnp.int32(length))
    return inputs._replace(segments_BL=segments_BL, rows_B=rows_B), key, window


def _cut(x: jax.Array, fill: int = 0) -> jax.Array:
    """[B, L, …] → blocks [N, B, size, …], the last one padded with `fill`."""
    blocks = cut(x, block_size(x.shape[1]), fill)
    return jnp.moveaxis(blocks.reshape(x.shape[0], -1, *blocks.shape[1:]), 1, 0)


def _join(x_NBLHK: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """The inverse of `_cut`."""
    return join(jnp.moveaxis(x_NBLHK, 0, 1), shape)
