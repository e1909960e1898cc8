"""Model FLOPs a token: matrix products only, forward; training costs three times as much. Never counts rows
that are not predicted, padding, lookups or recomputation."""

import dataclasses

from electra_jax.models.config import EncoderConfig, PretrainingConfig


def encoder_flops(config: EncoderConfig, sequence_length: int) -> float:
    """Forward FLOPs a token of an encoder: 8d² + 4df + 4Ld a layer, and the embedding projection.

    Disentangled attention adds 4d·min(2S, 2L), each token's product with the relative rows; projecting those
    is not counted.
    """
    d, f = config.hidden_size, config.intermediate_size
    projection = 2 * config.embedding_size * d if config.embedding_size != d else 0
    relative = (
        0
        if config.disentangled is None
        else 8 * d * min(config.disentangled.position_buckets, sequence_length)
    )
    return config.num_layers * (8 * d * d + 4 * d * f + 4 * sequence_length * d + relative) + projection


def masked_head_flops(config: EncoderConfig, mask_prob: float) -> float:
    """Forward FLOPs a token of the generator head, which runs on a share `mask_prob` of them."""
    return mask_prob * (
        2 * config.hidden_size * config.embedding_size + 2 * config.embedding_size * config.vocab_size
    )


def generator_flops(config: EncoderConfig, sequence_length: int) -> float:
    """Forward FLOPs a token of an encoder that ends in the enhanced mask decoder, if it has one."""
    passes = int(config.disentangled is not None and config.disentangled.enhanced_mask_decoder)
    return encoder_flops(dataclasses.replace(config, num_layers=config.num_layers + passes), sequence_length)


def rtd_flops(config: PretrainingConfig, sequence_length: int, mask_prob: float) -> float:
    """Generator, its head, discriminator and its head. An enhanced mask decoder's second pass counts as one
    more layer."""
    return (
        generator_flops(config.generator, sequence_length)
        + masked_head_flops(config.generator, mask_prob)
        + discriminator_flops(config, sequence_length)
    )


def discriminator_flops(config: PretrainingConfig, sequence_length: int, mask_prob: float = 0.0) -> float:
    """A discriminator and its head alone, which run on every token."""
    del mask_prob
    width = config.discriminator.hidden_size
    return encoder_flops(config.discriminator, sequence_length) + 2 * width * width + 2 * width


def mlm_flops(config: PretrainingConfig, sequence_length: int, mask_prob: float) -> float:
    """The baseline: one encoder of the discriminator's shape with the masked head."""
    return generator_flops(config.discriminator, sequence_length) + masked_head_flops(
        config.discriminator, mask_prob
    )


def two_stage_flops(config: PretrainingConfig, sequence_length: int, mask_prob: float) -> float:
    """A discriminator beside a generator that is not trained: of the three times that a step costs it has
    only one."""
    generator = generator_flops(config.generator, sequence_length) + masked_head_flops(
        config.generator, mask_prob
    )
    return generator / 3 + discriminator_flops(config, sequence_length)


def replace_mlm_flops(config: PretrainingConfig, sequence_length: int, mask_prob: float) -> float:
    """Generator and encoder, each with a head on the masked positions."""
    return sum(
        encoder_flops(encoder, sequence_length) + masked_head_flops(encoder, mask_prob)
        for encoder in (config.generator, config.discriminator)
    )


def all_tokens_mlm_flops(config: PretrainingConfig, sequence_length: int, mask_prob: float) -> float:
    """Generator with its head on the masked positions, encoder with one on every position, and its gate."""
    return (
        encoder_flops(config.generator, sequence_length)
        + masked_head_flops(config.generator, mask_prob)
        + encoder_flops(config.discriminator, sequence_length)
        + masked_head_flops(config.discriminator, 1.0)
        + 2 * config.discriminator.hidden_size
    )


def adversarial_flops(config: PretrainingConfig, sequence_length: int, mask_prob: float) -> float:
    """As ELECTRA, and the generator's baseline."""
    return rtd_flops(config, sequence_length, mask_prob) + mask_prob * 2 * config.generator.hidden_size


def electric_flops(config: PretrainingConfig, sequence_length: int, mask_prob: float) -> float:
    """Two towers of the generator's shape, a head on both of their states and on every position, and a
    discriminator."""
    del mask_prob
    generator = config.generator
    return (
        2 * encoder_flops(generator, sequence_length)
        + 2 * generator.hidden_size * generator.embedding_size
        + masked_head_flops(generator, 1.0)
        + discriminator_flops(config, sequence_length)
    )
