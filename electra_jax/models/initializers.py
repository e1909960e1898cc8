"""Initialisation: "published", or "local", with first-layer heads that attend to neighbouring tokens.

Masked language modelling stays at the unigram distribution for long, because attention must first learn to
find neighbouring tokens. The "local" initialisation removes this plateau. It changes no architecture, so such
a model still converts exactly to Hugging Face's classes. In the first layer, even heads attend to the token
on the left and odd heads to the one on the right:

* absolute positions: they start as sinusoids, and each head's queries as its keys rotated by one position; a
  projection of the embeddings to another width carries the sinusoids;
* disentangled attention: the relative table starts as sinusoids, and the first layer's query bias and key
  kernel give the neighbour a bonus;
* rotary positions: all tokens share a part of their embedding, from which the first layer's queries and keys
  take vectors whose rotated product is greatest for the neighbour;
* a relative bias: its table gives the neighbour a bonus, in all layers; but if absolute positions are added
  to the input, these start as in the first case instead.

Shapes: E embedding_size, D hidden, H heads, K head dim, M positions, N rows of a relative bias.
"""

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from electra_jax.models.config import EncoderConfig
from electra_jax.models.family import FAMILIES, Family

NEIGHBOUR_BONUS = 6.0  # added to the neighbour's score by "local"; disentangled attention and relative bias
# With rotary positions: total amplitude of the score's cosines, and how many pairs (those with the shortest
# wavelengths) carry it. With heads of 64 and θ = 10,000 the neighbour's score is 2.8 above that of the tokens
# next to it.
ROTARY_BONUS, ROTARY_PAIRS = 16.0, 6
SHARED_POWER_RATIO = 0.5  # mean square of the shared part, relative to that of the rest of the embedding


# flax's truncated_normal rescales the variance; TensorFlow's, which Google's code uses, does not.
def truncated_normal(stddev: float):
    """Normal(0, stddev) truncated at ±2 stddev, not rescaled (google-research/electra model/modeling.py)."""

    def init(key, shape, dtype=jnp.float32):
        return stddev * jax.random.truncated_normal(key, -2.0, 2.0, shape, dtype)

    return init


# TF1's default for tf.layers.dense.
glorot_uniform = nn.initializers.glorot_uniform


def _family(config: EncoderConfig) -> Family:
    """Whose initial values an encoder has. "local" is our own, and COCO-LM's encoder is ELECTRA's but for its
    bias, so with "local" it starts as ELECTRA's."""
    is_local_coco_lm = config.initializer == "local" and config.position == "relative_bias"
    return FAMILIES["absolute" if is_local_coco_lm else config.position]


def table_initializer(config: EncoderConfig):
    """Embedding tables as published: normal; truncated in ELECTRA and ModernBERT, not in DeBERTa
    (deberta/nnmodule.py) and COCO-LM."""
    published = truncated_normal if _family(config).truncates_initial_values else nn.initializers.normal
    return published(config.initializer_range)


def kernel_initializer(config: EncoderConfig):
    """Kernels of the encoder and the heads: as published, or for "local" with variance 1/fan_in. In the
    kernels [D, H, K] of queries, keys and values that is 1/(H·D): flax counts H as a part of the fan-in.

    Attention to one token then has 1/√H of the size of the residual stream that it is added to; with the
    published standard deviation of 0.02 it has 0.04 of it at D = 128. Some of the first layer's queries and
    keys are drawn otherwise, by the functions below.
    """
    return nn.initializers.lecun_normal() if config.initializer == "local" else table_initializer(config)


def residual_kernel_initializer(config: EncoderConfig):
    """Kernels whose products are added to the residual stream. ModernBERT divides their standard deviation by
    √(2 · num_layers), the same in all layers (full_megatron)."""
    if config.initializer == "published" and config.family.shrinks_residual_kernels:
        return truncated_normal(config.initializer_range / np.sqrt(2.0 * config.num_layers))
    return kernel_initializer(config)


def last_kernel_initializer(config: EncoderConfig):
    """The last layer of the discriminator's head, and embeddings_project as published: TF1's default in
    ELECTRA; in DeBERTa and COCO-LM, as other kernels; in ModernBERT, by the width (full_megatron's
    final_out)."""
    last_kernels = _family(config).last_kernels
    if last_kernels == "glorot":
        return glorot_uniform()
    if last_kernels == "inverse_root":
        return truncated_normal(config.hidden_size**-0.5)
    return kernel_initializer(config)


def _frequencies(num_pairs: int) -> np.ndarray:
    """Angular frequencies, evenly spaced in (0, π); the sum of their cosines is a peak one position wide."""
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


def _pairs_of_input(embedding_size: int, hidden_size: int) -> np.ndarray:
    """Pairs of the position table [M, E] in the first layer's input [D]: as many as fit, evenly spread."""
    width = min(embedding_size, hidden_size)
    return np.arange(width // 2) * embedding_size // width


def embeddings_projection(config: EncoderConfig):
    """embeddings_project [E, D]. If positions start as sinusoids, its first features are the pairs that
    `neighbour_projection` reads, as large as they were; the others are random sums of the same size."""
    if config.initializer != "local" or not config.has_input_positions:
        return last_kernel_initializer(config)

    def init(key, shape, dtype=jnp.float32):
        rows = (2 * _pairs_of_input(*shape)[:, None] + np.arange(2)).ravel()
        noise_key, others_key = jax.random.split(key)
        kernel_ED = kernel_initializer(config)(others_key, shape, dtype)
        # Small noise: with as much as in the other features, the neighbour would get 0.4 of the attention
        # instead of 0.6.
        noise = truncated_normal(config.initializer_range)(noise_key, (shape[0], len(rows)), dtype)
        return kernel_ED.at[:, : len(rows)].set(noise).at[rows, np.arange(len(rows))].add(1.0)

    return init


def _pairs_of_head(head: int, head_size: int, width: int) -> np.ndarray:
    """Which pairs of the `width` features a head reads: evenly spread, so that it has low and high ones."""
    slots = np.arange(min(head_size, width) // 2)
    return (slots * max(head_size, width) // head_size + head) % (width // 2)


def neighbour_projection(config: EncoderConfig, role: str):
    """Query or key kernel [D, H, K]: on each head's sinusoid pairs, a rotation by ±1 position (query) or the
    identity (key). The pairs are the first features of the input, of which there are fewer than D if E < D.

    Truncated normal noise with the published standard deviation is added, so that heads differ in how they
    read tokens.
    """
    sizes = config.embedding_size, config.hidden_size
    frequencies = _frequencies(config.embedding_size // 2)[_pairs_of_input(*sizes)]

    def init(key, shape, dtype=jnp.float32):
        _, num_heads, head_size = shape
        kernel = np.zeros(shape)
        for head in range(num_heads):
            for slot, pair in enumerate(_pairs_of_head(head, head_size, min(sizes))):
                offset = (-1.0 if head % 2 == 0 else 1.0) if role == "query" else 0.0
                angle = offset * frequencies[pair]
                # Maps (sin, cos) of position m to those of position m + offset, as a right multiplication.
                rotation = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
                kernel[2 * pair : 2 * pair + 2, head, 2 * slot : 2 * slot + 2] = rotation
        return jnp.asarray(kernel, dtype) + truncated_normal(config.initializer_range)(key, shape, dtype)

    return init


def neighbour_query_bias(head_size: int):
    """Query bias [H, K] that reads the first coordinate of every key; see `neighbour_relative_key`."""

    def init(key, shape, dtype=jnp.float32):
        del key
        # Bias and key kernel have the same share of the factor, so that both learn at a similar rate.
        return jnp.zeros(shape, dtype).at[:, 0].set(np.sqrt(NEIGHBOUR_BONUS * np.sqrt(3.0 * head_size)))

    return init


def neighbour_relative_key(config: EncoderConfig, kernel_init):
    """Key kernel [D, H, K] whose first coordinate is large on one row of the relative table: the row of
    distance 1 (the token on the left) for even heads, −1 for odd heads. The table must start as sinusoids."""

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
    """Table of a relative bias [N, H] with a bonus for the token on the left in even heads and for the one on
    the right in odd heads; without bonus if absolute positions are added to the input."""

    def init(key, shape, dtype=jnp.float32):
        table_NH = table_initializer(config)(key, shape, dtype)
        if config.has_input_positions:
            return table_NH
        middle, heads = config.relative_bias.num_buckets // 2 - 1, np.arange(shape[1])
        return table_NH.at[np.where(heads % 2 == 0, middle - 1, middle + 1), heads].add(NEIGHBOUR_BONUS)

    return init


def with_shared_part(init):
    """Word table [V, E] whose rows share a part: values of opposite sign in the first two features."""

    def shared(key, shape, dtype=jnp.float32):
        table_VE = init(key, shape, dtype)
        size = jnp.sqrt(SHARED_POWER_RATIO * jnp.square(table_VE).mean() * shape[1] / 2)
        return table_VE.at[:, 0].add(size).at[:, 1].add(-size)

    return shared


def neighbour_rotary_projection(config: EncoderConfig, role: str):
    """Query or key kernel [D, H, K] that turns the shared part of all embeddings (`with_shared_part`) into
    one vector per head; the query's is rotated by the distance of the neighbour."""

    def init(key, shape, dtype=jnp.float32):
        width, num_heads, head_size = shape
        kernel_DHK = kernel_initializer(config)(key, (width, num_heads * head_size), dtype).reshape(shape)
        pairs = np.arange(min(ROTARY_PAIRS, head_size // 2))
        angle = config.rotary.global_theta ** (-2.0 * pairs / head_size)  # from one position to the next
        # After LayerNorm either feature of the shared part is √(width · share / 2); the kernel reads both.
        share = SHARED_POWER_RATIO / (1.0 + SHARED_POWER_RATIO)
        gain = 2.0 * np.sqrt(width * share / 2.0)
        amplitude = np.sqrt(ROTARY_BONUS * np.sqrt(head_size) / len(pairs)) / gain
        sign = np.where(np.arange(num_heads) % 2 == 0, -1.0, 1.0)[:, None] if role == "query" else 0.0
        angle_HT = sign * angle[None] * np.ones((num_heads, 1))
        vector_HK = np.zeros((num_heads, head_size))
        vector_HK[:, pairs] = amplitude * np.cos(angle_HT)
        vector_HK[:, pairs + head_size // 2] = amplitude * np.sin(angle_HT)
        return kernel_DHK.at[0].add(vector_HK).at[1].add(-vector_HK)

    return init
