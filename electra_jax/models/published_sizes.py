"""Tables of the published sizes of encoders, with their sources; each recipe reads its own."""

import dataclasses

from electra_jax.models.config import encoder_shape


@dataclasses.dataclass(frozen=True)
class Size:
    """A published size of ELECTRA: the discriminator's shape, and the generator's as multiples of it."""

    embedding_size: int
    hidden_size: int
    num_layers: int
    generator_width: float  # generator_hidden_size of the reference code
    generator_depth: float  # generator_layers of the reference code


# ELECTRA. Source: google-research/electra, configure_pretraining.py and util/training_utils.py. "small" is
# the model of the paper's Table 1, with a generator a quarter as wide; "small_pp" is the released checkpoint,
# whose generator is as wide as its discriminator (its README, "Continue pre-training", and
# google-research/electra, GitHub issue 39).
SIZES = {
    "small": Size(128, 256, 12, 0.25, 1.0),
    "small_pp": Size(128, 256, 12, 1.0, 1.0),
    "base": Size(768, 768, 12, 0.33333, 1.0),
    "large": Size(1024, 1024, 24, 0.25, 1.0),
}


def generator_shape(size: Size) -> dict[str, int]:
    """Shape of the generator of a published size (google-research/electra run_pretraining.py)."""
    return encoder_shape(
        round(size.hidden_size * size.generator_width), round(size.num_layers * size.generator_depth)
    )


@dataclasses.dataclass(frozen=True)
class DebertaSize:
    """A published size of DeBERTaV3: both encoders have the same width, the generator half the layers."""

    hidden_size: int
    num_layers: int
    vocab_size: int

    @property
    def generator_layers(self) -> int:
        return self.num_layers // 2


# Source: microsoft/DeBERTa, experiments/language_model/rtd_*.json. Its README gives other figures for xsmall,
# base and large; the JSON files and the released checkpoints agree with this table. mdeberta: config.json of
# the released checkpoint; the depth of its generator is from a secondary source.
DEBERTA_V3_SIZES = {
    "xsmall": DebertaSize(384, 12, 128_100),
    "small": DebertaSize(768, 6, 128_100),
    "base": DebertaSize(768, 12, 128_100),
    "large": DebertaSize(1024, 24, 128_100),
    "mdeberta": DebertaSize(768, 12, 251_000),
}


def half_depth(num_layers: int, global_attention_every: int) -> int:
    """The number of layers nearest to half of `num_layers` with which the last layer is global."""
    every = global_attention_every
    return 1 + every * round((num_layers / 2 - 1) / every)


@dataclasses.dataclass(frozen=True)
class ModernSize:
    """A published size of ModernBERT's architecture. Its models were trained by masked language modelling
    only: the generator is ours, as wide as the discriminator and about half as deep, as in DeBERTaV3. Its
    last layer is global, as in every published size."""

    hidden_size: int
    num_layers: int
    intermediate_size: int  # of the gated layer: its first product has twice as many columns
    num_heads: int

    @property
    def discriminator(self) -> dict[str, int]:
        return dataclasses.asdict(self)

    @property
    def generator(self) -> dict[str, int]:
        return self.discriminator | {"num_layers": half_depth(self.num_layers, 3)}


# Sources: base and large, AnswerDotAI/ModernBERT, yamls/modernbert/modernbert-{base,large}-pretrain.yaml; the
# others, Ettin's encoders of the same architecture, whose base and large have the same shapes.
MODERN_SIZES = {
    "17m": ModernSize(256, 7, 384, 4),
    "32m": ModernSize(384, 10, 576, 6),
    "68m": ModernSize(512, 19, 768, 8),
    "base": ModernSize(768, 22, 1152, 12),
    "large": ModernSize(1024, 28, 2624, 16),
    "1b": ModernSize(1792, 28, 3840, 28),
}
