"""Rows of packed documents, and attention over them by its definition."""

import jax
import jax.numpy as jnp
import numpy as np

from electra_jax.models.inputs import EncoderInputs
from support.tiny import key

HEADS, WIDTH = 2, 4


def make_inputs(lengths, total, num_rows=2, direction=None):
    """Rows of documents of these lengths, then padding; the documents of the second row are in the opposite
    order."""
    rows = []
    for order in (lengths, lengths[::-1])[:num_rows]:
        numbers = np.repeat(np.arange(1, len(order) + 1), order)
        rows.append(np.pad(numbers, (0, total - len(numbers))))
    segments_BL = jnp.asarray(np.stack(rows), jnp.int32)
    unused = jnp.zeros_like(segments_BL)
    rows_B = jnp.arange(3, 3 + num_rows, dtype=jnp.uint32)
    direction = None if direction is None else jnp.int32(direction)
    return EncoderInputs(segments_BL, unused, unused, rows_B, direction)


def make_arrays(num_rows, length):
    return tuple(jax.random.normal(key(4), (3, num_rows, length, HEADS, WIDTH)))


def by_hand(reach, arrays, inputs):
    """The definition, with a mask of all pairs."""
    query_BLHK, key_BMHK, value_BMHK = arrays
    scores_BHLM = jnp.einsum("blhk,bmhk->bhlm", query_BLHK, key_BMHK, precision="highest")
    index = np.arange(query_BLHK.shape[1])
    distance = index[:, None] - index[None, :]
    allowed = inputs.segments_BL[:, :, None] == inputs.segments_BL[:, None, :]
    allowed &= (np.abs(distance) <= reach)[None]
    if inputs.direction is not None:
        allowed &= (distance * inputs.direction >= 0)[None]
    weights_BHLM = jax.nn.softmax(jnp.where(allowed[:, None], scores_BHLM, -jnp.inf), axis=-1)
    return jnp.einsum("bhlm,bmhk->blhk", weights_BHLM, value_BMHK, precision="highest")


def value_and_gradients(function, arrays, target_BLHK):
    return jax.jit(jax.value_and_grad(lambda arrays: (function(arrays) * target_BLHK).sum()))(arrays)
