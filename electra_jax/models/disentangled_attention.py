"""DeBERTa's disentangled self-attention: content and relative position meet in three terms (DeBERTa §3.1,
DeBERTaV3 §2.1).

    score[i, j] = (q_i·k_j + q_i·Kr[δ(i, j)] + Qr[δ(i, j)]·k_j) / √(3K),    δ(i, j) = clip(bucket(i − j) + S,
    0, 2S − 1)

Kr and Qr are the relative table under the layer's own key and query projections, biases included. Both
position terms use the same index δ(i, j), as the released code does; the paper writes δ(j, i) for the second.

δ depends on i − j alone. The table is therefore expanded to one row a distance, all queries are multiplied by
it at once, and row i of the product is read shifted by i: no element is ever gathered.

Shapes: B batch, L length of queries, M of keys (equal to L), D hidden, H heads, K head dim, R reachable rows
of the relative table, T distances.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from electra_jax.models.attention import Projection
from electra_jax.models.attention_weights import attention_weights
from electra_jax.models.config import DisentangledConfig, EncoderConfig
from electra_jax.models.dropout import Dropout
from electra_jax.models.initializers import kernel_initializer, neighbour_query_bias, neighbour_relative_key
from electra_jax.models.inputs import EncoderInputs
from electra_jax.models.layers import Dense, einsum_f32


def log_bucket(distance: np.ndarray, position_buckets: int, max_relative_positions: int) -> np.ndarray:
    """Bucket of signed distances: the distance itself up to S/2, logarithmic beyond; int, within ±(S − 1).

    Distances are clipped to ±(M − 1), M = max_relative_positions (microsoft/DeBERTa, deberta/da_utils.py).
    """
    middle, last = position_buckets // 2, max_relative_positions - 1
    distance = np.clip(distance, -last, last)
    far = np.maximum(np.abs(distance), middle)
    logarithmic = np.ceil(np.log(far / middle) / np.log(last / middle) * (middle - 1)) + middle
    return np.where(np.abs(distance) <= middle, distance, np.sign(distance) * logarithmic).astype(np.int64)


class RelativeRows(NamedTuple):
    """Which rows of the relative table a row of L tokens can reach, and which of them belongs to each
    distance."""

    first: int  # the reachable rows are first, …, last of the table
    last: int
    index_T: np.ndarray  # [2L − 1]: for distance i − j = t − (L − 1) the row, counted from `first`

    def matrix(self, length: int) -> np.ndarray:
        """δ(i, j) − first as [L, M]."""
        positions = np.arange(length)
        return self.index_T[positions[:, None] - positions[None, :] + length - 1]


def relative_rows(config: DisentangledConfig, length: int) -> RelativeRows:
    """Constants of a row length, made while tracing."""
    span = config.position_buckets
    buckets = log_bucket(np.arange(-(length - 1), length), span, config.max_relative_positions)
    rows = np.clip(buckets + span, 0, 2 * span - 1)
    return RelativeRows(int(rows.min()), int(rows.max()), rows - rows.min())


def skewed_positions(
    query_BLHK: jax.Array,
    key_BMHK: jax.Array,
    query_RHK: jax.Array,
    key_RHK: jax.Array,
    rows: RelativeRows,
    dtype: str,
) -> jax.Array:
    """The two position terms [B, H, L, M] without gathers: one column a distance, then a shift of each row.

    Column t of the first product is distance L − 1 − t, of the second t − (L − 1); one more column makes the
    shift a reshape.
    """
    ascending = np.append(rows.index_T, rows.index_T[-1])
    descending = np.append(rows.index_T[::-1], rows.index_T[0])
    content_to_position_BHLT = einsum_f32(
        "THK,BLHK->BHLT", dtype, expand_rows(key_RHK, descending), query_BLHK
    )
    position_to_content_BHMT = einsum_f32(
        "THK,BMHK->BHMT", dtype, expand_rows(query_RHK, ascending), key_BMHK
    )
    # Without the barrier XLA's CPU back end walks the shifted rows again for each of the softmax's passes.
    position_to_content_BHML = skew(dtype, position_to_content_BHMT)
    return jax.lax.optimization_barrier(
        skew(dtype, content_to_position_BHLT) + position_to_content_BHML.swapaxes(-1, -2)
    )


def expand_rows(table_RHK: jax.Array, index_T: np.ndarray) -> jax.Array:
    """One row a distance. Near distances have rows of their own, so a short table is only cut or reversed."""
    ascending = np.arange(table_RHK.shape[0])
    for table, order in ((table_RHK, ascending), (table_RHK[::-1], ascending[::-1])):
        if np.array_equal(index_T[:-1], order):
            return jnp.concatenate([table, table[-1:]])
    return jnp.take(table_RHK, index_T, axis=0)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def skew(dtype: str, x_BHLT: jax.Array) -> jax.Array:
    """y[…, i, j] = x[…, i, j + L − 1 − i] for x [B, H, L, 2L] as [B, H, L, L]: in flat order, rows that are
    one shorter.

    The gradient is rounded to `dtype` before it is spread out over twice its size: the product before it
    rounds it anyway.
    """
    *lead, length, width = x_BHLT.shape
    flat = x_BHLT.reshape(*lead, length * width)
    flat = jax.lax.slice_in_dim(flat, length - 1, length - 1 + length * (width - 1), axis=-1)
    return flat.reshape(*lead, length, width - 1)[..., :length]


def _skew_forward(dtype, x_BHLT):
    return skew(dtype, x_BHLT), None


def _skew_backward(dtype, _, gradient_BHLL):
    *lead, length, _ = gradient_BHLL.shape
    rounded = gradient_BHLL.astype(dtype)
    # XLA's CPU back end copies whole rows when it joins arrays, where padding visits each element; and it
    # moves bfloat16 through float32, but not integers.
    moved = jax.lax.bitcast_convert_type(rounded, jnp.uint16) if dtype == "bfloat16" else rounded
    zeros = lambda *shape: jnp.zeros((*lead, *shape), moved.dtype)
    rows = jnp.concatenate([moved, zeros(length, length - 1)], axis=-1).reshape(*lead, -1)
    rows = jnp.concatenate([zeros(length - 1), rows, zeros(1)], axis=-1).reshape(*lead, length, 2 * length)
    spread = jax.lax.bitcast_convert_type(rows, rounded.dtype) if dtype == "bfloat16" else rows
    return (spread.astype(jnp.float32),)


skew.defvjp(_skew_forward, _skew_backward)


class DisentangledSelfAttention(nn.Module):
    """Queries from one stream, keys and values from another [B, L, D] → [B, L, D]: attention and its output
    projection.

    The streams are the same except in the enhanced mask decoder. Attention stays inside a segment; a query
    that is padding gets a context of zeros, as the released code's masked softmax gives. Relative distances
    need no reset between documents.
    """

    config: EncoderConfig
    is_main_process: bool

    position_terms = staticmethod(skewed_positions)  # what benchmarks and tests compare with another way

    @nn.compact
    def __call__(
        self,
        query_BLD: jax.Array,
        x_BLD: jax.Array,
        relative_ND: jax.Array,
        inputs: EncoderInputs,
        is_training: bool,
    ) -> jax.Array:
        """`relative_ND` is the encoder's whole relative table [2S, D] after its LayerNorm."""
        config = self.config
        rows = relative_rows(config.disentangled, x_BLD.shape[1])
        project = {
            role: Projection(config, *self._initializers(role), name=role)
            for role in ("query", "key", "value")
        }
        relative_RD = relative_ND[rows.first : rows.last + 1]
        relative_RD = Dropout(config.hidden_dropout, has_rows=False, name="position_dropout")(
            relative_RD, is_training
        )
        # Projected once, not for every example; the projections are shared with the content (share_att_key).
        query_RHK, key_RHK = (project[role](relative_RD[None])[0] for role in ("query", "key"))
        query_BLHK, key_BMHK, value_BMHK = (
            project["query"](query_BLD),
            project["key"](x_BLD),
            project["value"](x_BLD),
        )
        # Three terms, so √(3K); on both kinds of queries rather than on the scores.
        scale = jnp.asarray(1.0 / np.sqrt(3 * config.head_size), query_BLHK.dtype)
        query_BLHK, query_RHK = query_BLHK * scale, query_RHK * scale
        scores_BHLM = einsum_f32("BLHK,BMHK->BHLM", config.dtype, query_BLHK, key_BMHK)
        scores_BHLM += self.position_terms(query_BLHK, key_BMHK, query_RHK, key_RHK, rows, config.dtype)
        key = self.make_rng("dropout") if is_training and config.attention_dropout else None
        weights_BHLM = attention_weights(1.0 - config.attention_dropout, scores_BHLM, inputs.segments_BL, key)
        context_BLHK = einsum_f32("BMHK,BHLM->BLHK", config.dtype, value_BMHK, weights_BHLM).astype(
            config.dtype
        )
        context_BLHK *= inputs.is_token_BL[:, :, None, None]
        context_BLD = context_BLHK.reshape(*context_BLHK.shape[:2], config.hidden_size)
        kernel_init = kernel_initializer(config)
        return Dense(config.hidden_size, ("heads", "embed"), kernel_init, config.dtype, name="output")(
            context_BLD
        )

    def _initializers(self, role: str) -> tuple[nn.initializers.Initializer, nn.initializers.Initializer]:
        """Of kernel and bias."""
        config = self.config
        kernel_init, bias_init = kernel_initializer(config), nn.initializers.zeros
        if config.initializer == "local" and self.is_main_process and role == "query":
            bias_init = neighbour_query_bias(config.head_size)
        if config.initializer == "local" and self.is_main_process and role == "key":
            kernel_init = neighbour_relative_key(config, kernel_init)
        return kernel_init, bias_init
