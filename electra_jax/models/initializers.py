"""How parameters start: as published, or with first-layer heads that already look at their neighbours.

The long early plateau of masked language modelling at the unigram distribution is attention not yet knowing where its
neighbours are. The "local" start removes it without changing the architecture, so such a model still converts exactly to
Hugging Face's ELECTRA: positions start as sinusoids, and in the first layer head h starts with a query that is the key
rotated by one position, to the left for even heads and to the right for odd ones.

Shapes: D hidden, H heads, K head dim, M positions.
"""

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn


# Google's code: tf.truncated_normal_initializer cuts at two standard deviations without rescaling the variance, as
# jax.random.truncated_normal does; flax's truncated_normal rescales, so it is not used here.
def truncated_normal(stddev: float):
    """Normal(0, stddev) cut at ±2 stddev, not rescaled (google-research/electra, modeling.create_initializer)."""

    def init(key, shape, dtype=jnp.float32):
        return stddev * jax.random.truncated_normal(key, -2.0, 2.0, shape, dtype)

    return init


# TF1's default for tf.layers.dense: used by embeddings_project and the last layer of the discriminator head.
glorot_uniform = nn.initializers.glorot_uniform


def kernel_initializer(initializer: str, stddev: float):
    """Kernels of the encoder and heads: as published, or for the "local" start with variance 1/fan_in, under which what
    attention brings from the neighbours is as large as the residual stream it is added to (at 0.02 it drowns there)."""
    return nn.initializers.lecun_normal() if initializer == "local" else truncated_normal(stddev)


def _frequencies(num_pairs: int) -> np.ndarray:
    """Angular frequencies in (0, π), spread evenly: their cosines add up to a peak one position wide."""
    return np.pi * (np.arange(num_pairs) + 0.5) / num_pairs


def sinusoidal_positions(stddev: float):
    """Position table [M, D] of pairs (sin ω·m, cos ω·m), scaled to a root mean square of `stddev`."""

    def init(key, shape, dtype=jnp.float32):
        del key
        num_positions, width = shape
        angles = np.arange(num_positions)[:, None] * _frequencies(width // 2)[None, :]
        table = np.stack([np.sin(angles), np.cos(angles)], axis=-1).reshape(num_positions, -1)
        table = np.pad(table, ((0, 0), (0, width - table.shape[1])))
        return jnp.asarray(stddev * np.sqrt(2.0) * table, dtype)

    return init


def _pairs_of_head(head: int, num_heads: int, num_pairs_total: int, num_pairs: int) -> np.ndarray:
    """Which frequency pairs a head reads: every num_heads-th one, so that each head has low and high ones."""
    return (np.arange(num_pairs) * num_heads + head) % num_pairs_total


def neighbour_projection(stddev: float, role: str):
    """Query or key kernel [D, H, K]: a rotation by ±1 position (query) or the identity (key) on each head's sinusoid pairs.

    Truncated normal noise of the published size is added, so that heads are not symmetric in the token part.
    """

    def init(key, shape, dtype=jnp.float32):
        width, num_heads, head_size = shape
        kernel = np.zeros(shape)
        num_pairs = min(head_size, width) // 2
        for head in range(num_heads):
            for slot, pair in enumerate(_pairs_of_head(head, num_heads, width // 2, num_pairs)):
                offset = (-1.0 if head % 2 == 0 else 1.0) if role == "query" else 0.0
                angle = offset * _frequencies(width // 2)[pair]
                # (sin a, cos a) of position m → the same of position m + offset, written as a right multiplication.
                rotation = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
                kernel[2 * pair : 2 * pair + 2, head, 2 * slot : 2 * slot + 2] = rotation
        return jnp.asarray(kernel, dtype) + truncated_normal(stddev)(key, shape, dtype)

    return init
