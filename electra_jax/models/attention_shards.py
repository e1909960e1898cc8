"""Attention in kernels on a mesh: each shard computes its own rows and heads.

Shapes: B batch, L length, H heads, K head dim.
"""

from collections.abc import Callable

import jax
from jax.sharding import PartitionSpec

from electra_jax.models.attention_form import mesh_axes_of

Arrays = tuple[jax.Array, jax.Array, jax.Array]  # queries, keys and values [B, L, H, K]


def attend_on_shards(
    attend: Callable[[Arrays, jax.Array], jax.Array], arrays: Arrays, segments_BL: jax.Array
) -> jax.Array:
    """Context [B, L, H, K]: `attend(arrays, segments)` of each shard of the mesh in context, or of the whole
    without a mesh."""
    if jax.sharding.get_abstract_mesh().empty:
        return attend(arrays, segments_BL)
    batch, heads = mesh_axes_of("batch"), mesh_axes_of("heads")
    content = PartitionSpec(batch, None, heads, None)
    on_shards = jax.shard_map(
        attend,
        in_specs=((content, content, content), PartitionSpec(batch)),
        out_specs=content,
        check_vma=False,
    )
    return on_shards(arrays, segments_BL)
