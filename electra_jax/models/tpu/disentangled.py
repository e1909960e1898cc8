"""Disentangled attention on TPUs: two kernels, forward and backward, in place of
models/disentangled_attention.py's scores and models/attention_weights.py's softmax.

Nothing of [L, M] or [L, T] leaves the chip. What TPUs share with GPUs is in models/disentangled_kernels.py.

Shapes: B batch, L length, H heads, K head dim, F features of all heads, T = 2 · padded length distances.
"""

import jax
import jax.numpy as jnp

from electra_jax.models.attention_shards import Rows
from electra_jax.models.config import EncoderConfig
from electra_jax.models.disentangled_kernels import Arrays, Kernels
from electra_jax.models.tpu.backward import Saved, backward
from electra_jax.models.tpu.blocks import from_blocks, to_blocks
from electra_jax.models.tpu.forward import forward
from electra_jax.models.tpu.scores import Operands
from electra_jax.models.tpu.tiles import Plan


def make_kernels(config: EncoderConfig, length: int, keep_prob: float) -> Kernels:
    """The kernels for rows of `length` tokens; `keep_prob` 1: no dropout."""
    return Kernels(Plan.of_attention(config, length, keep_prob), _forward, _backward)


def _forward(plan: Plan, first_head: jax.Array, rows: Rows, arrays: Arrays) -> tuple[jax.Array, jax.Array]:
    context_BLF, logsumexp = forward(plan, _operands(plan, first_head, rows, arrays))
    return from_blocks(context_BLF, arrays.query_BLHK.shape), logsumexp


def _backward(
    plan: Plan,
    first_head: jax.Array,
    rows: Rows,
    arrays: Arrays,
    context_BLHK: jax.Array,
    logsumexp: jax.Array,
    gradient_BLHK: jax.Array,
) -> Arrays:
    saved = Saved(to_blocks(plan, context_BLHK), logsumexp, to_blocks(plan, gradient_BLHK))
    gradients = backward(plan, _operands(plan, first_head, rows, arrays), saved)
    content = [from_blocks(x_BLF, arrays.query_BLHK.shape) for x_BLF in gradients[:3]]
    tables = [from_blocks(x_FT.T[None], (1, *arrays.key_THK.shape))[0] for x_FT in gradients[3:]]
    return Arrays(*content, *tables)


def _operands(plan: Plan, first_head: jax.Array, rows: Rows, arrays: Arrays) -> Operands:
    missing = plan.padded_length - plan.length
    segments_BL = jnp.pad(rows.segments_BL, ((0, 0), (0, missing)), constant_values=-1)
    tables = [to_blocks(plan, table_THK[None])[0] for table_THK in arrays[3:]]
    return Operands(
        jnp.concatenate([rows.words, first_head[None], rows.rows_B.astype(jnp.uint32)])[None],
        segments_BL[:, None],
        *(to_blocks(plan, x_BLHK) for x_BLHK in arrays[:3]),
        *tables,
    )
