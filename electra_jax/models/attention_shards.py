"""Attention in kernels on a mesh: each shard computes its own rows and heads.

Shapes: B batch, L length, H heads, K head dim.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from electra_jax.models.attention_form import mesh_axes_of
from electra_jax.models.inputs import EncoderInputs

Arrays = tuple[jax.Array, jax.Array, jax.Array]  # queries, keys and values [B, L, H, K]


class Rows(NamedTuple):
    """What kernels know of the rows and of the dropout."""

    words: jax.Array  # uint32 [2], the dropout's key
    segments_BL: jax.Array
    rows_B: jax.Array  # uint32, as in `EncoderInputs`


def make_rows(inputs: EncoderInputs, key: jax.Array | None) -> Rows:
    """Of rows with these segments, and of this key; None: no dropout."""
    words = jnp.zeros(2, jnp.uint32) if key is None else jax.random.key_data(key).astype(jnp.uint32).ravel()
    return Rows(words[:2], inputs.segments_BL, inputs.rows_B)


def attend_on_shards(
    attend: Callable[[jax.Array, Rows, Arrays], jax.Array], rows: Rows, arrays: Arrays
) -> jax.Array:
    """Context [B, L, H, K]: `attend(number of the first head, rows, arrays)` of each shard of the mesh in
    context, or of the whole without a mesh."""
    if jax.sharding.get_abstract_mesh().empty:
        return attend(jnp.uint32(0), rows, arrays)
    batch, heads = mesh_axes_of("batch"), mesh_axes_of("heads")
    content = PartitionSpec(batch, None, heads, None)

    def of_shard(rows, arrays):
        first = jax.lax.axis_index(heads) if heads else 0
        return attend(jnp.uint32(first * arrays[0].shape[2]), rows, arrays)

    on_shards = jax.shard_map(
        of_shard,
        in_specs=(
            Rows(PartitionSpec(), PartitionSpec(batch), PartitionSpec(batch)),
            (content, content, content),
        ),
        out_specs=content,
        check_vma=False,
    )
    return on_shards(rows, arrays)
