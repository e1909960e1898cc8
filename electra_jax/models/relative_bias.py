"""A learned bias for the distance between query and key, added to the scores of every layer (COCO-LM, MCL).

    score[i, j] = q_i·k_j / √K + table[bucket(j − i) + num_buckets/2 − 1, head]

All layers of an encoder share one table [num_buckets, heads], as in microsoft/COCO-LM, which also defines the
buckets (modules/transformer_sentence_encoder.py). Let s = num_buckets/2, for each direction, and e = ⌊s/2⌋. A
distance r = j − i with |r| < e has its own bucket, bucket(r) = r; other distances have

    bucket(r) = sign(r) · min(s − 1, e + ⌈(s − 1 − e) · ln(|r|/e) / ln((max_distance − 1)/e)⌉).

T5 (`T5Attention` of transformers) differs: it has min(s − 1, e + ⌊(s − e) · ln(|r|/e) / ln(max_distance/e)⌋),
and the second half of its table is for keys on the right of the query. Here the rows are in the order of the
distances, from far left to far right, and the last of the num_buckets rows is unused.

Shapes: L length of queries, M of keys (equal to L), H heads, N rows of the table, T distances.
"""

import functools

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
    """The greatest distance in each bucket of one direction except the last bucket, which is unbounded.

    Computed with integers, |r|^n · e^k ≤ (max_distance − 1)^k · e^n for k = 0 … n − 1 and n = s − 1 − e, so
    the result does not depend on how logarithms are rounded.
    """
    side, last = config.num_buckets // 2, config.max_distance - 1
    exact = side // 2
    edges, steps = list(range(exact)), side - 1 - exact
    for step in range(steps):
        edge = edges[-1]
        while (edge + 1) ** steps * exact**step <= last**step * exact**steps:
            edge += 1
        edges.append(edge)
    return tuple(edges)


def bucket_rows(config: RelativeBiasConfig, length: int) -> np.ndarray:
    """The table's row for each distance j − i = t − (L − 1), int [2L − 1]."""
    distance_T = np.arange(-(length - 1), length)
    bucket_T = np.searchsorted(bucket_edges(config), np.abs(distance_T))  # number of edges below the distance
    return np.sign(distance_T) * bucket_T + config.num_buckets // 2 - 1


class RelativeBias(nn.Module):
    """A length L → bias_HLM in float32. Attention stays within a document, so distances need no reset."""

    config: EncoderConfig

    @nn.compact
    def __call__(self, length: int) -> jax.Array:
        config, relative = self.config, self.config.relative_bias
        init = neighbour_bias(config) if config.initializer == "local" else table_initializer(config)
        table_NH = self.param(
            "embedding", logical(init, "relpos", "heads"), (relative.num_buckets, config.num_heads)
        )
        # One row per distance, and one more that turns the shift into a reshape. The backward pass then adds
        # 2L numbers per head to the table; indexing with [L, M] would scatter L·M.
        rows_T = bucket_rows(relative, length)
        bias_HT = jnp.take(table_NH, np.append(rows_T, rows_T[-1]), axis=0).T
        bias_HLM = skew("float32", jnp.broadcast_to(bias_HT[:, None], (config.num_heads, length, 2 * length)))
        return nn.with_logical_constraint(bias_HLM, ("heads", "length", None))
