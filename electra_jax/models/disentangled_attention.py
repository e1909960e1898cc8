"""DeBERTa's disentangled self-attention: scores of content and relative position in three terms (DeBERTa
§3.1, DeBERTaV3 §2.1).

    score[i, j] = (q_i·k_j + q_i·Kr[δ(i, j)] + Qr[δ(i, j)]·k_j) / √(3K)
    δ(i, j) = clip(bucket(i − j) + S, 0, 2S − 1)

Kr and Qr are the relative table under the layer's key and query projections, biases included. Both position
terms use the same index δ(i, j), as the released code does; the paper writes δ(j, i) for the second.

δ depends on i − j alone. The table is therefore expanded to one row per distance, a block of queries is
multiplied by the distances that it has to any key, and row i of the product is shifted by i: no element is
gathered. Kernels for TPUs (tpu/) and GPUs (gpu/) do the same and the softmax in the chip's own memory.

Shapes: B batch, L length of queries, M of keys (equal to L), D hidden, H heads, K head dim, R reachable rows
of the relative table, N blocks of queries or keys, Q their size, T distances.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from electra_jax.models.attention import Projection
from electra_jax.models.attention_form import kernels_platform, uses_kernels
from electra_jax.models.attention_weights import attend
from electra_jax.models.config import DisentangledConfig, EncoderConfig
from electra_jax.models.dropout import Dropout
from electra_jax.models.initializers import kernel_initializer, neighbour_query_bias, neighbour_relative_key
from electra_jax.models.inputs import EncoderInputs
from electra_jax.models.layers import Dense, einsum_f32

# Queries, or keys, that are multiplied by the same distances. Smaller blocks waste fewer products, but blocks
# of 64 are no faster on a CPU (benchmarks/README.md).
BLOCK = 128


def log_bucket(distance: np.ndarray, position_buckets: int, max_relative_positions: int) -> np.ndarray:
    """Bucket of each signed distance: the distance itself up to S/2, logarithmic beyond.

    S = position_buckets, M = max_relative_positions. Distances of M − 1 are in buckets ±(S − 1). Longer ones
    have larger buckets, which share the last row of the table at each end: −S and S − 1 (microsoft/DeBERTa
    deberta/da_utils.py).
    """
    middle, last = position_buckets // 2, max_relative_positions - 1
    far = np.maximum(np.abs(distance), middle)
    logarithmic = np.ceil(np.log(far / middle) / np.log(last / middle) * (middle - 1)) + middle
    return np.where(np.abs(distance) <= middle, distance, np.sign(distance) * logarithmic).astype(np.int64)


class RelativeRows(NamedTuple):
    """The rows of the relative table that L tokens can reach, and the one of each distance."""

    first: int  # first reachable row of the table
    last: int  # last reachable row
    index_T: np.ndarray  # [2L − 1]: row of distance i − j = t − (L − 1), counted from `first`

    def matrix(self, length: int) -> np.ndarray:
        """δ(i, j) − first as [L, M]."""
        positions = np.arange(length)
        return self.index_T[positions[:, None] - positions[None, :] + length - 1]


def relative_rows(config: DisentangledConfig, length: int) -> RelativeRows:
    """The reachable rows for a sequence length; computed in NumPy, so they are constants of the program."""
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
    """The two position terms [B, H, L, M] without gathers."""
    ascending = np.append(rows.index_T, rows.index_T[-1])
    descending = np.append(rows.index_T[::-1], rows.index_T[0])
    # Without the barrier XLA's CPU back end would shift the rows again in each pass of the softmax.
    position_to_content_BHML = _by_distance(dtype, ascending, key_BMHK, query_RHK)
    return jax.lax.optimization_barrier(
        _by_distance(dtype, descending, query_BLHK, key_RHK) + position_to_content_BHML.swapaxes(-1, -2)
    )


def _by_distance(dtype: str, index_T: np.ndarray, x_BLHK: jax.Array, table_RHK: jax.Array) -> jax.Array:
    """[B, H, L, M]: x at i times the table's row index_T[j − i + L − 1].

    Each block of Q tokens is multiplied by the rows that it needs for any j, L + Q − 1 of them, and row i of
    the product is shifted by i. One additional column turns the shift into a reshape: index_T is [2L].
    """
    batch, length, heads, width = x_BLHK.shape
    size = BLOCK if length % BLOCK == 0 else length

    def products(x_BLHK, table_RHK):
        rows_THK = expand_rows(table_RHK, index_T)
        starts = range(length - size, -1, -size)
        windows_NTHK = jnp.stack([rows_THK[start : start + length + size] for start in starts])
        blocks_BNQHK = x_BLHK.reshape(batch, length // size, size, heads, width)
        return einsum_f32("NTHK,BNQHK->BHNQT", dtype, windows_NTHK, blocks_BNQHK)

    # The backward pass makes the windows and blocks again: they are copies of what it keeps.
    products_BHNQT = jax.checkpoint(products, prevent_cse=False)(x_BLHK, table_RHK)
    return skew(dtype, products_BHNQT).reshape(batch, heads, length, length)


def expand_rows(table_RHK: jax.Array, index_T: np.ndarray) -> jax.Array:
    """One row per distance. If every distance has its own row, no gather is needed."""
    ascending = np.arange(table_RHK.shape[0])
    for table, order in ((table_RHK, ascending), (table_RHK[::-1], ascending[::-1])):
        if np.array_equal(index_T[:-1], order):
            return jnp.concatenate([table, table[-1:]])
    return jnp.take(table_RHK, index_T, axis=0)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def skew(dtype: str, x_QT: jax.Array) -> jax.Array:
    """Shift row i by Q − 1 − i: x […, Q, L + Q] → y […, Q, L], y[…, i, j] = x[…, i, j + Q − 1 − i].

    Reading the flat array in rows that are one element shorter gives the shift. The gradient is rounded to
    `dtype` before it is spread over a larger array; the matrix product that reads it would round it anyway.
    """
    *lead, size, width = x_QT.shape
    flat = x_QT.reshape(*lead, size * width)
    flat = jax.lax.slice_in_dim(flat, size - 1, size - 1 + size * (width - 1), axis=-1)
    return flat.reshape(*lead, size, width - 1)[..., : width - size]


def _skew_forward(dtype, x_QT):
    return skew(dtype, x_QT), None


def _skew_backward(dtype, _, gradient_QM):
    *lead, size, length = gradient_QM.shape
    rounded = gradient_QM.astype(dtype)
    # On XLA's CPU back end concatenation copies whole rows, while padding visits each element; and bfloat16
    # would be converted to float32 and back, which integers are not.
    moved = jax.lax.bitcast_convert_type(rounded, jnp.uint16) if dtype == "bfloat16" else rounded
    zeros = lambda *shape: jnp.zeros((*lead, *shape), moved.dtype)
    rows = jnp.concatenate([moved, zeros(size, size - 1)], axis=-1).reshape(*lead, -1)
    rows = jnp.concatenate([zeros(size - 1), rows, zeros(1)], axis=-1).reshape(*lead, size, length + size)
    spread = jax.lax.bitcast_convert_type(rows, rounded.dtype) if dtype == "bfloat16" else rows
    return (spread.astype(jnp.float32),)


skew.defvjp(_skew_forward, _skew_backward)


class DisentangledSelfAttention(nn.Module):
    """Attention and its output projection [B, L, D] → [B, L, D]; queries may come from another stream.

    They do in the enhanced mask decoder only. Attention stays within a segment, so relative distances need no
    reset between documents. The context of padding is zero, as with the masked softmax of the released code.
    """

    config: EncoderConfig
    is_first_layer: bool  # initializer "local" starts it differently
    form: str = "plain"  # LayerExecution.attention

    position_terms = staticmethod(skewed_positions)  # a subclass computes them by gathers, as a reference

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
        relative_RD = Dropout(config.hidden_dropout, name="position_dropout")(relative_RD, is_training)
        # Projected once, not per example; the projections are those of the content (share_att_key).
        query_RHK, key_RHK = (project[role](relative_RD[None])[0] for role in ("query", "key"))
        query_BLHK, key_BMHK, value_BMHK = (
            project["query"](query_BLD),
            project["key"](x_BLD),
            project["value"](x_BLD),
        )
        # √(3K) because of three terms; applied to both queries rather than to the scores, which are larger.
        scale = jnp.asarray(1.0 / np.sqrt(3 * config.head_size), query_BLHK.dtype)
        query_BLHK, query_RHK = query_BLHK * scale, query_RHK * scale
        content, tables = (query_BLHK, key_BMHK, value_BMHK), (query_RHK, key_RHK)
        context_BLHK = self._attend(content, tables, rows, inputs, is_training)
        context_BLHK *= inputs.is_token_BL[:, :, None, None]
        context_BLD = context_BLHK.reshape(*context_BLHK.shape[:2], config.hidden_size)
        kernel_init = kernel_initializer(config)
        return Dense(config.hidden_size, ("heads", "embed"), kernel_init, config.dtype, name="output")(
            context_BLD
        )

    def _attend(
        self, content, tables, rows: RelativeRows, inputs: EncoderInputs, is_training: bool
    ) -> jax.Array:
        """Context [B, L, H, K] from queries, keys and values, and the table as queries and as keys."""
        config = self.config
        rate = config.attention_dropout if is_training else 0.0
        key, keep_prob = self.make_rng("dropout") if rate else None, 1.0 - rate
        query_BLHK, key_BMHK, value_BMHK = content
        is_directed = inputs.direction is not None
        if not self.is_initializing() and uses_kernels(
            self.form, config, query_BLHK.shape, is_directed=is_directed
        ):
            # Imported here: programs without the kernels start sooner.
            from electra_jax.models.disentangled_kernels import attend_disentangled

            if kernels_platform() == "gpu":
                from electra_jax.models.gpu.disentangled import make_kernels
            else:
                from electra_jax.models.tpu.disentangled import make_kernels

            kernels = make_kernels(config, query_BLHK.shape[1], keep_prob)
            return attend_disentangled(kernels, content, tables, rows.index_T, inputs, key)
        scores_BHLM = einsum_f32("BLHK,BMHK->BHLM", config.dtype, query_BLHK, key_BMHK)
        scores_BHLM += self.position_terms(query_BLHK, key_BMHK, *tables, rows, config.dtype)
        return attend(keep_prob, config.dtype, scores_BHLM, value_BMHK, inputs, key)

    def _initializers(self, role: str) -> tuple[nn.initializers.Initializer, nn.initializers.Initializer]:
        """Initialisers of the kernel and the bias of a projection."""
        config = self.config
        kernel_init, bias_init = kernel_initializer(config), nn.initializers.zeros
        if config.initializer == "local" and self.is_first_layer and role == "query":
            bias_init = neighbour_query_bias(config.head_size)
        if config.initializer == "local" and self.is_first_layer and role == "key":
            kernel_init = neighbour_relative_key(config, kernel_init)
        return kernel_init, bias_init
