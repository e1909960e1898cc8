"""Model FLOPs per token, of the parts that objectives consist of: matrix products only, forward; training
counts three times as much. Positions that are not predicted, padding, lookups and recomputation are not
counted.

Each objective adds up its own in objectives/NAME.py; `objectives.registry.forward_flops` gives the total.
"""

import dataclasses

from electra_jax.models.config import EncoderConfig, PretrainingConfig


def encoder_flops(config: EncoderConfig, sequence_length: int) -> float:
    """Forward FLOPs per token of an encoder: 8d² + 4df + 4Ld per layer, and the embedding projection.

    Disentangled attention adds 4d·min(2S, 2L), each token's product with the relative rows; projecting those
    is not counted. DeBERTa-v2's convolution adds 2·k·d² at a width of k tokens, once for each encoder. In
    ModernBERT's gated layers 6df replaces 4df. In its local layers window + 1 keys replace L; scores
    outside the window that a block also computes are not counted.
    """
    d, f = config.hidden_size, config.intermediate_size
    if config.rotary is not None:
        keys = [
            sequence_length
            if config.rotary.is_global(layer)
            else min(config.rotary.window + 1, sequence_length)
            for layer in range(config.num_layers)
        ]
        return config.num_layers * (8 * d * d + 6 * d * f) + 4 * d * sum(keys)
    projection = 2 * config.embedding_size * d if config.embedding_size != d else 0
    relative, convolution = 0, 0
    if config.disentangled is not None:
        relative = 8 * d * min(config.disentangled.position_buckets, sequence_length)
        convolution = 2 * config.disentangled.conv_kernel_size * d * d
    layer = 8 * d * d + 4 * d * f + 4 * sequence_length * d + relative
    return config.num_layers * layer + convolution + projection


def masked_head_flops(config: EncoderConfig, mask_prob: float) -> float:
    """Forward FLOPs per token of the generator head, which runs on a share `mask_prob` of the tokens."""
    return mask_prob * (
        2 * config.hidden_size * config.embedding_size + 2 * config.embedding_size * config.vocab_size
    )


def generator_flops(config: EncoderConfig, sequence_length: int) -> float:
    """Forward FLOPs per token of an encoder and, if it has one, its enhanced mask decoder."""
    passes = int(config.disentangled is not None and config.disentangled.enhanced_mask_decoder)
    return encoder_flops(dataclasses.replace(config, num_layers=config.num_layers + passes), sequence_length)


def discriminator_flops(config: PretrainingConfig, sequence_length: int) -> float:
    """Forward FLOPs per token of a discriminator and its head, which runs on every token."""
    width = config.discriminator.hidden_size
    return encoder_flops(config.discriminator, sequence_length) + 2 * width * width + 2 * width
