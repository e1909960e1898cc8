"""How parameters start: as published, or with first-layer heads that already look at their neighbours.

The long early plateau of masked language modelling at the unigram distribution is attention not yet knowing
where its neighbours are. The "local" start removes it without changing the architecture, so such a model
still converts exactly to Hugging Face's classes. Absolute positions start as sinusoids, and in the first
layer head h starts with a query that is the key rotated by one position, to the left for even heads and to
the right for odd ones. With disentangled attention the relative table starts as sinusoids, and the first
layer's query bias and key kernel give the same neighbours a bonus. A relative bias gives it itself, in all
layers, where the input has no positions; where it has, everything starts as with absolute ones.

Shapes: D hidden, H heads, K head dim, M positions, N rows of a relative bias.
"""

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from electra_jax.models.config import EncoderConfig

NEIGHBOUR_BONUS = (
    6.0  # score of the neighbour in the local start of disentangled attention and of a relative bias
)


# Google's code: tf.truncated_normal_initializer cuts at two standard deviations without rescaling the
# variance, as jax.random.truncated_normal does; flax's truncated_normal rescales, so it is not used here.
def truncated_normal(stddev: float):
    """Normal(0, stddev) cut at ±2 stddev, not rescaled (google-research/electra,
    modeling.create_initializer)."""

    def init(key, shape, dtype=jnp.float32):
        return stddev * jax.random.truncated_normal(key, -2.0, 2.0, shape, dtype)

    return init


# TF1's default for tf.layers.dense: used by embeddings_project and the last layer of the discriminator head.
glorot_uniform = nn.initializers.glorot_uniform


def table_initializer(config: EncoderConfig):
    """Embedding tables as published: ELECTRA's normal is cut at two standard deviations, DeBERTa's is not
    (microsoft/DeBERTa, deberta/nnmodule.py)."""
    published = truncated_normal if config.disentangled is None else nn.initializers.normal
    return published(config.initializer_range)


def kernel_initializer(config: EncoderConfig):
    """Kernels of the encoder and heads: as published, or for the "local" start with variance 1/fan_in, under
    which what attention brings from the neighbours is as large as the residual stream it is added to (at 0.02
    it drowns there)."""
    return nn.initializers.lecun_normal() if config.initializer == "local" else table_initializer(config)


def last_kernel_initializer(config: EncoderConfig):
    """embeddings_project and the last layer of the discriminator head: TF1's default in ELECTRA, as all else
    in DeBERTa."""
    return glorot_uniform() if config.disentangled is None else kernel_initializer(config)


def _frequencies(num_pairs: int) -> np.ndarray:
    """Angular frequencies in (0, π), spread evenly: their cosines add up to a peak one position wide."""
    return np.pi * (np.arange(num_pairs) + 0.5) / num_pairs


def _sinusoids(num_positions: int, width: int) -> np.ndarray:
    """Pairs (sin ω·m, cos ω·m) as [M, D]; an odd last column is zero."""
    angles = np.arange(num_positions)[:, None] * _frequencies(width // 2)[None, :]
    table = np.stack([np.sin(angles), np.cos(angles)], axis=-1).reshape(num_positions, -1)
    return np.pad(table, ((0, 0), (0, width - table.shape[1])))


def sinusoidal_positions(stddev: float):
    """Position table [M, D] of pairs (sin ω·m, cos ω·m), scaled to a root mean square of `stddev`."""

    def init(key, shape, dtype=jnp.float32):
        del key
        return jnp.asarray(stddev * np.sqrt(2.0) * _sinusoids(*shape), dtype)

    return init


def _pairs_of_head(head: int, num_heads: int, num_pairs_total: int, num_pairs: int) -> np.ndarray:
    """Which frequency pairs a head reads: every num_heads-th one, so that each head has low and high ones."""
    return (np.arange(num_pairs) * num_heads + head) % num_pairs_total


def neighbour_projection(stddev: float, role: str):
    """Query or key kernel [D, H, K]: a rotation by ±1 position (query) or the identity (key) on each head's
    sinusoid pairs.

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
                # (sin a, cos a) of position m → the same of position m + offset, written as a right
                # multiplication.
                rotation = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
                kernel[2 * pair : 2 * pair + 2, head, 2 * slot : 2 * slot + 2] = rotation
        return jnp.asarray(kernel, dtype) + truncated_normal(stddev)(key, shape, dtype)

    return init


def neighbour_query_bias(head_size: int):
    """Query bias [H, K] that asks every key for its first coordinate; see `neighbour_relative_key`."""

    def init(key, shape, dtype=jnp.float32):
        del key
        # Bias and key share the factor evenly, so that neither learns much faster than the other.
        return jnp.zeros(shape, dtype).at[:, 0].set(np.sqrt(NEIGHBOUR_BONUS * np.sqrt(3.0 * head_size)))

    return init


def neighbour_relative_key(config: EncoderConfig, kernel_init):
    """Key kernel [D, H, K] whose first coordinate of head h is large on one row of the relative table:
    distance 1 (the token on the left) for even heads, −1 for odd ones. The table must start as sinusoids."""

    def init(key, shape, dtype=jnp.float32):
        width, num_heads, head_size = shape
        span = config.disentangled.position_buckets
        table = _sinusoids(2 * span, width)
        table -= table.mean(axis=1, keepdims=True)  # the encoder's LayerNorm
        table /= table.std(axis=1, keepdims=True)
        rows = [span + (1 if head % 2 == 0 else -1) for head in range(num_heads)]
        kernel = kernel_init(key, (width, num_heads * head_size), dtype).reshape(shape)
        return kernel.at[:, :, 0].set(
            np.sqrt(NEIGHBOUR_BONUS * np.sqrt(3.0 * head_size)) * table[rows].T / width
        )

    return init


def neighbour_bias(config: EncoderConfig):
    """Table of a relative bias [N, H] in which the token on the left has a bonus for even heads and that on
    the right for odd ones, unless the input has positions."""

    def init(key, shape, dtype=jnp.float32):
        table_NH = table_initializer(config)(key, shape, dtype)
        if config.has_input_positions:
            return table_NH
        middle, heads = config.relative_bias.num_buckets // 2 - 1, np.arange(shape[1])
        return table_NH.at[np.where(heads % 2 == 0, middle - 1, middle + 1), heads].add(NEIGHBOUR_BONUS)

    return init
