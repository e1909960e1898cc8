"""What the kernels of disentangled attention for TPUs (tpu/) and GPUs (gpu/) share: the layer's call, its
derivative, the tables by distance, and the cut into shards.

    score[i, j] = q_i·k_j + q_i·Kr[δ(i − j)] + Qr[δ(i − j)]·k_j,   softmax over the keys j of i's own segment

q and Qr are scaled already. δ, the row of DeBERTa's relative table (log buckets, both terms with one index),
depends on the distance alone, so both tables are expanded to one row for each distance before the kernels.
The backward pass computes the weights again from the logarithm of each row's sum. The dropout's mask is the
same as without kernels, element by element.

Each shard of a mesh computes its own rows and heads; only the tables' gradients are summed over the network,
also in the plain form.

Shapes: B batch, L length, H heads, K head dim, R reachable rows of the relative table, T = 2 · padded length
distances.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple, Self

import jax
import jax.numpy as jnp
import numpy as np
from jax.ad_checkpoint import checkpoint_name
from jax.sharding import PartitionSpec

from electra_jax.models.attention_form import are_interpreted, mesh_axes_of
from electra_jax.models.attention_shards import Rows, make_rows
from electra_jax.models.config import EncoderConfig
from electra_jax.models.dropout import is_kept
from electra_jax.models.inputs import EncoderInputs
from electra_jax.models.layers import CONTEXT_NAME, einsum_f32

MASKED = -1e30  # finite: a difference of two is 0, not NaN


@dataclasses.dataclass(frozen=True)
class KernelPlan:
    """What is static about one call of the kernels."""

    length: int  # of the rows, before padding
    num_heads: int  # of the whole model, of which a shard may have a part
    head_size: int
    keep_prob: float  # of dropout; 1: no dropout
    dtype: str  # of the operands of products
    is_interpreted: bool  # computed by XLA, on any device, for tests

    @classmethod
    def of_attention(cls, config: EncoderConfig, length: int, keep_prob: float) -> Self:
        """For attention over rows of `length` tokens; `keep_prob` 1: no dropout."""
        return cls(length, config.num_heads, config.head_size, keep_prob, config.dtype, are_interpreted())

    @property
    def padded_length(self) -> int:
        """A multiple of the tiles."""
        raise NotImplementedError

    def multiply(self, spec: str, x: jax.Array, y: jax.Array) -> jax.Array:
        """einsum of two arrays: operands rounded to `dtype`, sums and result in float32."""
        # The undecorated function: kernels are not differentiated, and GPUs' cannot have the derivative of
        # `einsum_f32` in their program.
        product = einsum_f32.__wrapped__
        if self.is_interpreted:
            # XLA's CPU back end lacks some products of bfloat16. Of rounded operands, float32's are the same.
            x, y = (array.astype(self.dtype).astype(jnp.float32) for array in (x, y))
            return product(spec, "float32", x, y)
        return product(spec, self.dtype, x, y)

    def drop(
        self,
        words: tuple[jax.Array, jax.Array],
        row: jax.Array,
        head: jax.Array,
        query_I1: jax.Array,
        key_IJ: jax.Array,
        *arrays_IJ: jax.Array,
    ) -> list[jax.Array]:
        """The arrays with zeros where dropout drops the weight of attention; what it keeps is not scaled.

        The mask is that of models/dropout.py for weights [B, H, L, M] of the whole batch and all heads.

        Args:
          words: of the dropout's key, uint32, as are the next two.
          row: number of the row in the batch.
          head: number of the head in the model.
          query_I1: positions of the queries, int32, as are the next.
          key_IJ: positions of the keys.
        """
        if self.keep_prob == 1.0:
            return list(arrays_IJ)
        first = (row * jnp.uint32(self.num_heads) + head) * jnp.uint32(self.length)
        rows_I1, columns_IJ = query_I1.astype(jnp.uint32) + first, key_IJ.astype(jnp.uint32)
        kept_IJ = is_kept(self.keep_prob, words, rows_I1, columns_IJ)
        return [jnp.where(kept_IJ, x_IJ, 0.0) for x_IJ in arrays_IJ]


class Arrays(NamedTuple):
    """What has a gradient."""

    query_BLHK: jax.Array
    key_BLHK: jax.Array
    value_BLHK: jax.Array
    key_THK: jax.Array  # a row for each distance j − i = t − T/2
    query_THK: jax.Array  # a row for each distance i − j = t − T/2


class Kernels(NamedTuple):
    """The two functions that compute a shard's rows and heads on one kind of device; static."""

    plan: Any  # a KernelPlan
    # (plan, number of the first head, rows, arrays) → context [B, L, H, K], and numbers for `backward` whose
    # first two axes are rows and heads, or blocks of heads
    forward: Callable[..., tuple[jax.Array, jax.Array]]
    # (plan, first head, rows, arrays, context, those numbers, gradient of the context) → gradients
    backward: Callable[..., Arrays]


class Call(NamedTuple):
    """What is static: the kernels, and the mesh axes that cut rows and heads."""

    kernels: Kernels
    is_on_mesh: bool
    batch_axes: tuple[str, ...]
    head_axes: tuple[str, ...]


def attend_disentangled(
    kernels: Kernels,
    content: tuple[jax.Array, jax.Array, jax.Array],
    tables: tuple[jax.Array, jax.Array],
    index_T: np.ndarray,
    inputs: EncoderInputs,
    key: jax.Array | None,
) -> jax.Array:
    """Context [B, L, H, K] in the plan's dtype; that of padding is not defined.

    Args:
      content: queries, scaled, keys and values [B, L, H, K], in the plan's dtype.
      tables: the projected relative rows as queries, scaled, and as keys, [R, H, K].
      index_T: [2L − 1], the row of distance i − j = t − (L − 1) (`RelativeRows`).
      inputs: segments and row numbers; queries attend in both directions.
      key: of the dropout; None: no dropout.
    """
    plan = kernels.plan
    query_RHK, key_RHK = tables
    half = plan.padded_length
    rows_of = lambda distance_T: index_T[
        np.clip(distance_T, 1 - plan.length, plan.length - 1) + plan.length - 1
    ]
    ascending_T = np.arange(-half, half)
    expand = functools.partial(_expand, plan)
    arrays = Arrays(*content, expand(key_RHK, rows_of(-ascending_T)), expand(query_RHK, rows_of(ascending_T)))
    is_on_mesh = not jax.sharding.get_abstract_mesh().empty
    call = Call(kernels, is_on_mesh, mesh_axes_of("batch"), mesh_axes_of("heads"))
    return _attend(call, make_rows(inputs, key), arrays)


def _expand(plan: KernelPlan, table_RHK: jax.Array, index_T: np.ndarray) -> jax.Array:
    """One row for each distance: a product with ones, so that its gradient is one, too, and scatters
    nothing."""
    one_hot_TR = (index_T[:, None] == jnp.arange(table_RHK.shape[0])[None]).astype(plan.dtype)
    if plan.is_interpreted:  # as in `KernelPlan.multiply`
        one_hot_TR, table_RHK = one_hot_TR.astype(jnp.float32), table_RHK.astype(jnp.float32)
    dtype = "float32" if plan.is_interpreted else plan.dtype
    return einsum_f32("TR,RHK->THK", dtype, one_hot_TR, table_RHK).astype(plan.dtype)


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


def _forward_of_shard(call, first_head, rows, arrays):
    return call.kernels.forward(call.kernels.plan, first_head, rows, arrays)


def _backward_of_shard(call, first_head, rows, arrays, *saved):
    gradients = call.kernels.backward(call.kernels.plan, first_head, rows, arrays, *saved)
    *content, key_THK, query_THK = gradients
    tables = key_THK, query_THK
    if call.batch_axes:
        tables = jax.lax.psum(tables, call.batch_axes)
    return Arrays(*(x.astype(call.kernels.plan.dtype) for x in (*content, *tables)))


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
