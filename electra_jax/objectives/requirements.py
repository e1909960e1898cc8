"""What several objectives require of a configuration: errors that name the key, and how to meet them."""

from collections.abc import Mapping
from typing import Any

from electra_jax.models.config import PretrainingConfig

CHUNK_SIZE = 2048


def chunk_size_of(vocab_size: int) -> int:
    """The config.objective.vocab_chunk_size of an objective that needs chunks, unless another is given."""
    return min(CHUNK_SIZE, vocab_size // 4)


def require_vocabulary_chunks(config: PretrainingConfig, objective: Mapping[str, Any]) -> None:
    """Raises ValueError if the logits of all positions over the whole vocabulary would be one array."""
    vocab_size, chunk_size = config.discriminator.vocab_size, objective["vocab_chunk_size"]
    if not 0 < chunk_size < vocab_size:
        raise ValueError(
            f"config.objective.vocab_chunk_size: got {chunk_size}, expected 1 … {vocab_size - 1}, less than "
            f"config.model.vocab_size, with config.objective.name={objective['name']!r}: it predicts every "
            "position, and the logits of all positions over the whole vocabulary would be one array. Pass "
            "--config.objective.vocab_chunk_size=0 for a suitable size."
        )


def require_absolute_positions(config: PretrainingConfig, objective: Mapping[str, Any]) -> None:
    """Raises ValueError for encoders other than ELECTRA's."""
    if config.discriminator.position != "absolute":
        raise ValueError(
            f"config.model.position: got {config.discriminator.position!r}, expected 'absolute' with "
            f"config.objective.name={objective['name']!r}. Start from configs/electra.py."
        )


def require_one_mask_prob(objective: Mapping[str, Any]) -> None:
    """Raises ValueError if rows would have different shares of masked tokens."""
    if objective["denoisers"]:
        raise ValueError(
            f"config.objective.denoisers: got {objective['denoisers']!r}, expected () with "
            f"config.objective.name={objective['name']!r}, whose loss has one share of noise for all rows. "
            "Leave it out and pass --config.objective.mask_prob."
        )


def require_plain_samples(objective: Mapping[str, Any]) -> None:
    """Raises ValueError if samples would come from another distribution than the one whose probabilities
    the loss uses."""
    if objective["temperature"] != 1.0:
        raise ValueError(
            f"config.objective.temperature: got {objective['temperature']}, expected 1.0 with "
            f"config.objective.name={objective['name']!r}, which uses the probabilities of its samples."
        )
