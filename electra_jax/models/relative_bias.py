"""A learned bias for the distance of query and key, added to the attention scores of every layer (COCO-LM, MCL).

    score[i, j] = q_i·k_j / √K + table[bucket(j − i) + num_buckets/2 − 1, head]

One table [num_buckets, heads] serves all layers of an encoder (microsoft/COCO-LM, modules/transformer_sentence_encoder.py, whose
buckets these are). Half of the buckets are for either direction: with s = num_buckets/2 and e = ⌊s/2⌋, distances below e have one
each, and beyond

    bucket(r) = sign(r) · min(s − 1, e + ⌈(s − 1 − e) · ln(|r|/e) / ln((max_distance − 1)/e)⌉).

T5, where such tables come from (`T5Attention` of transformers), rounds down instead of up, reaches its last bucket at max_distance
and not one before it, has s − e rather than s − 1 − e buckets beyond e, and keeps keys on the right of the query in the table's
second half. Here the order is that of the distances, from the far left to the far right: num_buckets − 1 rows, the last one is
never read.

Shapes: L length of queries, M of keys (equal to L), H heads, N rows of the table, T distances.
"""

import functools
from itertools import count, takewhile

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from electra_jax.models.config import EncoderConfig, RelativeBiasConfig
from electra_jax.models.disentangled_attention import skew
from electra_jax.models.initializers import neighbour_bias, table_initializer
from electra_jax.models.layers import logical


@functools.cache
def bucket_edges(config: RelativeBiasConfig) -> tuple[int, ...]:
    """The greatest distance in each bucket of one direction but the last, which has none.

    In whole numbers, |r|^n · e^k ≤ (max_distance − 1)^k · e^n for k of n logarithmic buckets: no distance hangs on how a logarithm
    was rounded.
    """
    side, last = config.num_buckets // 2, config.max_distance - 1
    exact = side // 2
    edges, steps = list(range(exact)), side - 1 - exact
    for step in range(steps):
        limit = last**step * exact**steps
        inside = takewhile(lambda distance: distance**steps * exact**step <= limit, count(edges[-1] + 1))  # noqa: B023
        edges.append(edges[-1] + sum(1 for _ in inside))
    return tuple(edges)


def bucket_rows(config: RelativeBiasConfig, length: int) -> np.ndarray:
    """Row of the table for each distance j − i = t − (L − 1), int [2L − 1]."""
    distance_T = np.arange(-(length - 1), length)
    bucket_T = np.searchsorted(bucket_edges(config), np.abs(distance_T))  # so many edges are below the distance
    return np.sign(distance_T) * bucket_T + config.num_buckets // 2 - 1


class RelativeBias(nn.Module):
    """A length L → bias_HLM, float32. Distances in a row of several documents need no reset: attention stays inside each."""

    config: EncoderConfig

    @nn.compact
    def __call__(self, length: int) -> jax.Array:
        config, relative = self.config, self.config.relative_bias
        init = neighbour_bias(config) if config.initializer == "local" else table_initializer(config)
        table_NH = self.param("embedding", logical(init, "relpos", "heads"), (relative.num_buckets, config.num_heads))
        # One row a distance, and one more that makes the shift a reshape: the derivative adds up 2L numbers a head in the table,
        # where that of an index of L·M would scatter them all.
        rows_T = bucket_rows(relative, length)
        bias_HT = jnp.take(table_NH, np.append(rows_T, rows_T[-1]), axis=0).T
        bias_HLM = skew("float32", jnp.broadcast_to(bias_HT[:, None], (config.num_heads, length, 2 * length)))
        return nn.with_logical_constraint(bias_HLM, ("heads", "length", None))
