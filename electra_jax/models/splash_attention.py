"""Attention of BERT and ModernBERT on TPUs in JAX's own kernels ("splash attention", Pallas), in place of
models/global_attention.py's products and softmax.

A grid step takes a block of queries and a block of keys, and an online softmax adds up the values, so that
HBM never holds a score. The backward pass computes the weights again from the logarithm of each row's sum, in
two kernels: for the queries, and for keys and values. When these kernels run: models/attention_form.py.

Shapes: B batch, L length, H heads, K head dim.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.experimental.pallas.ops.tpu.splash_attention import (
    BlockSizes,
    FullMask,
    MultiHeadMask,
    SegmentIds,
    make_splash_mha,
)

from electra_jax.models.attention_form import are_interpreted
from electra_jax.models.attention_shards import Arrays, Rows, attend_on_shards, make_rows
from electra_jax.models.inputs import EncoderInputs
from electra_jax.models.layers import CONTEXT_NAME

# Tokens of a block, the largest that divides the padded row. Larger ones take fewer instructions for each
# score, and more of the on-chip memory (VMEM).
SIZES = (1024, 512, 384, 256, 128)
LARGEST_PRODUCT = 512  # keys whose scores are computed at once
LANES = 128  # rows are padded to a multiple


def splash_attention(arrays: Arrays, inputs: EncoderInputs) -> jax.Array:
    """Context [B, L, H, K] of queries that attend to all keys of their segment, without dropout.

    Padding attends to padding, as without the kernels: its context has no meaning, but is finite.

    Args:
      arrays: queries, divided by √K, keys and values [B, L, H, K].
      inputs: segments; queries attend in both directions.
    """
    return attend_on_shards(_of_shard, make_rows(inputs, None), arrays)


def _of_shard(first_head: jax.Array, rows: Rows, arrays: Arrays) -> jax.Array:
    del first_head  # there is no dropout
    query_BLHK, key_BLHK, value_BLHK = arrays
    length, heads = query_BLHK.shape[1:3]
    missing = -length % LANES
    kernel = _make_kernel(length + missing, heads)

    def of_row(query_LHK, key_LHK, value_LHK, segments_L):
        arrays = (
            jnp.pad(x_LHK, ((0, missing), (0, 0), (0, 0))).swapaxes(0, 1)
            for x_LHK in (query_LHK, key_LHK, value_LHK)
        )
        segments_L = jnp.pad(segments_L, (0, missing), constant_values=-1)
        return kernel(*arrays, segment_ids=SegmentIds(segments_L, segments_L)).swapaxes(0, 1)[:length]

    return jax.vmap(of_row)(query_BLHK, key_BLHK, value_BLHK, rows.segments_BL)


def _make_kernel(length: int, heads: int) -> Callable[..., jax.Array]:
    """(queries, keys, values [H, L, K], segments) → context, for a row of whole blocks."""
    block = next(size for size in SIZES if length % size == 0)
    product = min(block, LARGEST_PRODUCT)
    sizes = BlockSizes(
        block_q=block,
        block_kv=block,
        block_kv_compute=product,
        block_q_dkv=block,
        block_kv_dkv=block,
        block_kv_dkv_compute=product,
        block_q_dq=block,
        block_kv_dq=block,
    )
    return make_splash_mha(
        MultiHeadMask([FullMask((length, length))] * heads),
        block_sizes=sizes,
        head_shards=1,
        q_seq_shards=1,
        residual_checkpoint_name=CONTEXT_NAME,
        interpret=are_interpreted(),
    )
