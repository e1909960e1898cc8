"""Frozen, self-checking model configuration, and the table of published ELECTRA sizes with their sources."""

import dataclasses

DTYPES = ("float32", "bfloat16")
EMBEDDING_SHARING = ("tied", "none")
INITIALIZERS = ("published", "local")


@dataclasses.dataclass(frozen=True, kw_only=True)
class EncoderConfig:
    """Shape and regularisation of one encoder (generator or discriminator).

    Raises:
      ValueError: a field is out of range; the message names the field, the value and what is allowed.
    """

    vocab_size: int
    embedding_size: int
    hidden_size: int
    num_layers: int
    num_heads: int
    intermediate_size: int
    max_position_embeddings: int
    type_vocab_size: int
    hidden_dropout: float
    attention_dropout: float
    layer_norm_epsilon: float
    initializer_range: float
    # "published": truncated normal everywhere. "local": sinusoidal positions and first-layer heads that start on the
    # left and right neighbour; the same architecture, a different start (see models/initializers.py).
    initializer: str
    dtype: str  # of computation; parameters, softmax, LayerNorm statistics, logits and losses are float32

    def __post_init__(self):
        for field in ("vocab_size", "embedding_size", "hidden_size", "num_layers", "num_heads", "intermediate_size",
                      "max_position_embeddings", "type_vocab_size"):
            _require(getattr(self, field) >= 1, field, getattr(self, field), "a positive integer")
        for field in ("hidden_dropout", "attention_dropout"):
            _require(0.0 <= getattr(self, field) < 1.0, field, getattr(self, field), "a probability in [0, 1)")
        _require(self.hidden_size % self.num_heads == 0, "hidden_size", self.hidden_size,
                 f"a multiple of num_heads ({self.num_heads})")
        _require(self.dtype in DTYPES, "dtype", self.dtype, f"one of {DTYPES}")
        _require(self.initializer in INITIALIZERS, "initializer", self.initializer, f"one of {INITIALIZERS}")

    @property
    def head_size(self) -> int:
        return self.hidden_size // self.num_heads


@dataclasses.dataclass(frozen=True, kw_only=True)
class PretrainingConfig:
    """Generator, discriminator and how they share embeddings ("tied" or "none")."""

    generator: EncoderConfig
    discriminator: EncoderConfig
    embedding_sharing: str

    def __post_init__(self):
        _require(self.embedding_sharing in EMBEDDING_SHARING, "embedding_sharing", self.embedding_sharing,
                 f"one of {EMBEDDING_SHARING}")
        _require(self.generator.vocab_size == self.discriminator.vocab_size, "generator.vocab_size",
                 self.generator.vocab_size, f"the discriminator's {self.discriminator.vocab_size}")
        _require(self.embedding_sharing == "none" or self.generator.embedding_size == self.discriminator.embedding_size,
                 "generator.embedding_size", self.generator.embedding_size,
                 f"the discriminator's {self.discriminator.embedding_size} when embeddings are tied")


def _require(condition: bool, field: str, got, expected: str) -> None:
    if not condition:
        raise ValueError(f"model.{field}: got {got!r}, expected {expected}. Change config.model.{field}.")


@dataclasses.dataclass(frozen=True)
class Size:
    """One row of the published table: shapes of the discriminator, and the generator as multiples of it."""

    embedding_size: int
    hidden_size: int
    num_layers: int
    generator_width: float  # generator_hidden_size of the reference code
    generator_depth: float  # generator_layers of the reference code


# Source: google-research/electra, configure_pretraining.py and util/training_utils.py; heads = hidden/64, FFN = 4·hidden.
# "small" is the paper's Table 1 model (generator ¼ wide); "small_pp" is the released checkpoint, whose generator is as
# wide as its discriminator (README, "Continue pre-training", and the authors' answer in issue 39).
SIZES = {
    "small": Size(128, 256, 12, 0.25, 1.0),
    "small_pp": Size(128, 256, 12, 1.0, 1.0),
    "base": Size(768, 768, 12, 0.33333, 1.0),
    "large": Size(1024, 1024, 24, 0.25, 1.0),
}


def encoder_shape(hidden_size: int, num_layers: int) -> dict[str, int]:
    """The reference code's rule: heads of 64, feed-forward four times as wide (util/training_utils.py)."""
    return {
        "hidden_size": hidden_size,
        "num_layers": num_layers,
        "num_heads": max(1, hidden_size // 64),
        "intermediate_size": 4 * hidden_size,
    }


def generator_shape(size: Size) -> dict[str, int]:
    """Generator of a published size: only width (and by option depth) shrinks (run_pretraining.py)."""
    return encoder_shape(round(size.hidden_size * size.generator_width), round(size.num_layers * size.generator_depth))


def make_pretraining_config(model: dict) -> PretrainingConfig:
    """Build the frozen configuration from `config.model` as a plain dict: shared fields beside two sub-sections.

    Raises:
      ValueError: a value is out of range, or a key is missing or unknown.
    """
    shared = {key: value for key, value in model.items() if key not in ("generator", "discriminator", "embedding_sharing")}
    known = {field.name for field in dataclasses.fields(EncoderConfig)}
    sections = {}
    for name in ("generator", "discriminator"):
        fields = {**shared, **model[name]}
        if fields.keys() != known:
            raise ValueError(f"config.model (with config.model.{name}): got keys {sorted(fields)}, expected {sorted(known)}.")
        sections[name] = EncoderConfig(**fields)
    return PretrainingConfig(embedding_sharing=model["embedding_sharing"], **sections)
