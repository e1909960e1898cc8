"""Model FLOPs a token: matrix products only, forward; training costs three times as much. Never counts rows that are not
predicted, padding, lookups or recomputation."""

from electra_jax.models.config import EncoderConfig, PretrainingConfig


def encoder_flops(config: EncoderConfig, sequence_length: int) -> float:
    """Forward FLOPs a token of an encoder: 8d² + 4df + 4Ld a layer, and the embedding projection."""
    d, f = config.hidden_size, config.intermediate_size
    projection = 2 * config.embedding_size * d if config.embedding_size != d else 0
    return config.num_layers * (8 * d * d + 4 * d * f + 4 * sequence_length * d) + projection


def masked_head_flops(config: EncoderConfig, mask_prob: float) -> float:
    """Forward FLOPs a token of the generator head, which runs on a share `mask_prob` of them."""
    return mask_prob * (2 * config.hidden_size * config.embedding_size + 2 * config.embedding_size * config.vocab_size)


def electra_flops(config: PretrainingConfig, sequence_length: int, mask_prob: float) -> float:
    """Generator, its head, discriminator and its head."""
    width = config.discriminator.hidden_size
    return (encoder_flops(config.generator, sequence_length) + masked_head_flops(config.generator, mask_prob)
            + encoder_flops(config.discriminator, sequence_length) + 2 * width * width + 2 * width)


def mlm_flops(config: PretrainingConfig, sequence_length: int, mask_prob: float) -> float:
    """The baseline: one encoder of the discriminator's shape with the masked head."""
    return encoder_flops(config.discriminator, sequence_length) + masked_head_flops(config.discriminator, mask_prob)
