"""Frozen, self-checking model configuration."""

import dataclasses
from typing import ClassVar

from data_pipelines.problems import Problems
from electra_jax.models.execution import UNROLLED, LayerExecution
from electra_jax.models.family import FAMILIES, Family
from electra_jax.models.field_types import FieldError, check_types, from_fields

DTYPES = ("float32", "bfloat16")
EMBEDDING_SHARING = ("tied", "none", "gdes")
INITIALIZERS = ("published", "local")
POSITIONS = tuple(FAMILIES)
# Bases of rotary wavelengths are below this: 160,000 in ModernBERT, and far more than any model has.
THETA_LIMIT = 1e9
COUNTS = ("vocab_size", "embedding_size", "hidden_size", "num_layers", "num_heads", "intermediate_size")


@dataclasses.dataclass(frozen=True, kw_only=True)
class DisentangledConfig:
    """What DeBERTa-v2 and v3 add to an encoder (config.model.disentangled; values in configs/deberta_v3.py).

    Raises:
      ValueError: a field is out of range.
    """

    position_buckets: int  # S: 2·S buckets of relative distances, exact for near, logarithmic for far ones
    max_relative_positions: int  # M: longer distances share a bucket; the published −1 means 512
    position_biased_input: bool  # add absolute positions to the input, as BERT does; off in v3
    # The generator's last layer runs twice, on a query stream that starts from absolute positions.
    enhanced_mask_decoder: bool
    conv_kernel_size: int  # width of v2's convolution beside the first layer; 0 disables it, as in v3

    def __post_init__(self):
        check_types(self, "disentangled.")
        _require(
            self.position_buckets >= 2, "disentangled.position_buckets", self.position_buckets, "2 or more"
        )
        _require(
            self.max_relative_positions - 1 > self.position_buckets // 2,
            "disentangled.max_relative_positions",
            self.max_relative_positions,
            f"more than position_buckets/2 + 1 ({self.position_buckets // 2 + 1})",
        )
        _require(
            self.conv_kernel_size == 0 or self.conv_kernel_size % 2 == 1,
            "disentangled.conv_kernel_size",
            self.conv_kernel_size,
            "0 or an odd number",
        )
        _require(
            not (self.enhanced_mask_decoder and self.position_biased_input),
            "disentangled.enhanced_mask_decoder",
            True,
            "False when position_biased_input is True, since the decoder adds the positions at the end",
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class RelativeBiasConfig:
    """COCO-LM's and MCL's learned bias of attention scores by distance (config.model.relative_bias).

    The buckets are defined in models/relative_bias.py; values are in configs/mcl.py.

    Raises:
      ValueError: a field is out of range.
    """

    num_buckets: int  # half for each direction, and half of these for single distances, the rest logarithmic
    max_distance: int  # distances of max_distance − 1 and more share the last bucket
    position_biased_input: bool  # also add learned absolute positions to the input

    def __post_init__(self):
        check_types(self, "relative_bias.")
        _require(
            self.num_buckets >= 4 and self.num_buckets % 2 == 0,
            "relative_bias.num_buckets",
            self.num_buckets,
            "an even number, 4 or more",
        )
        _require(
            self.max_distance - 1 > self.num_buckets // 4,
            "relative_bias.max_distance",
            self.max_distance,
            f"more than num_buckets/4 + 1 ({self.num_buckets // 4 + 1})",
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class RotaryConfig:
    """ModernBERT's rotary positions and local attention (config.model.rotary; values in
    configs/modernbert.py).

    Raises:
      ValueError: a field is out of range.
    """

    # n: layers 0, n, 2n, … attend to the whole document, the others within the window; 1: all layers are
    # global.
    global_attention_every: int
    window: int  # of a local layer: a token attends to window/2 tokens on each side, and to itself
    global_theta: float  # base of the rotary wavelengths in global layers
    local_theta: float  # the same in local layers
    # After the output projection of attention; the only dropout that the published ModernBERT uses.
    attention_output_dropout: float

    position_biased_input: ClassVar[bool] = False  # there is no table of positions

    def __post_init__(self):
        check_types(self, "rotary.")
        for name, least, expected in (
            ("global_attention_every", 1, "1 (all layers are global) or more"),
            ("window", 2, "an even number, 2 or more"),
            ("global_theta", 1.0, "1 or more"),
            ("local_theta", 1.0, "1 or more"),
        ):
            value = getattr(self, name)
            is_even = name != "window" or value % 2 == 0
            _require(value >= least and is_even, f"rotary.{name}", value, expected)
        _require(
            0.0 <= self.attention_output_dropout < 1.0,
            "rotary.attention_output_dropout",
            self.attention_output_dropout,
            "a probability in [0, 1)",
        )

    def is_global(self, layer: int) -> bool:
        """Whether the layer with this index, from 0, attends to the whole document."""
        return layer % self.global_attention_every == 0


# Section of config.model, which is set when config.model.position has its name → its class.
SECTIONS = {"disentangled": DisentangledConfig, "relative_bias": RelativeBiasConfig, "rotary": RotaryConfig}


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
    # "published": as the family's authors draw them, truncated or not (models/family.py). "local": heads that
    # initially attend to the left and right neighbour (models/initializers.py).
    initializer: str
    dtype: str  # of matrix products; parameters, softmax, LayerNorm statistics, logits, losses are float32
    # "absolute" (BERT, ELECTRA), "disentangled" (DeBERTa), "relative_bias" (COCO-LM, MCL) or "rotary"
    # (ModernBERT)
    position: str
    disentangled: DisentangledConfig | None  # set when position is "disentangled"
    relative_bias: RelativeBiasConfig | None  # set when position is "relative_bias"
    rotary: RotaryConfig | None  # set when position is "rotary"

    def __post_init__(self):
        check_types(self)
        problems = Problems()

        def require(*check) -> None:
            with problems.kept():
                _require(*check)

        for field in (*COUNTS, "max_position_embeddings"):
            require(getattr(self, field) >= 1, field, getattr(self, field), "a positive integer")
        require(
            self.type_vocab_size >= 0, "type_vocab_size", self.type_vocab_size, "0 (no token types) or more"
        )
        require(self.position in POSITIONS, "position", self.position, f"one of {POSITIONS}")
        for section in SECTIONS:
            require(
                (getattr(self, section) is not None) == (self.position == section),
                section,
                getattr(self, section),
                f"a section if config.model.position is {section!r}, else None (it is {self.position!r}): a "
                "recipe sets both, so that another family needs another recipe, or a copy of this one",
            )
        with problems.kept():
            self._check_family()
        for field in ("hidden_dropout", "attention_dropout"):
            require(0.0 <= getattr(self, field) < 1.0, field, getattr(self, field), "a probability in [0, 1)")
        require(
            self.num_heads < 1 or self.hidden_size % self.num_heads == 0,
            "hidden_size",
            self.hidden_size,
            f"a multiple of num_heads ({self.num_heads})",
        )
        require(
            0.0 < self.layer_norm_epsilon < 1.0, "layer_norm_epsilon", self.layer_norm_epsilon, "in (0, 1)"
        )
        require(0.0 <= self.initializer_range < 1.0, "initializer_range", self.initializer_range, "in [0, 1)")
        for field, known in (("dtype", DTYPES), ("initializer", INITIALIZERS)):
            require(getattr(self, field) in known, field, getattr(self, field), f"one of {known}")
        problems.report()

    def _check_family(self) -> None:
        for section, family in (("disentangled", "DeBERTa"), ("rotary", "ModernBERT")):
            _require(
                getattr(self, section) is None or self.embedding_size == self.hidden_size,
                "embedding_size",
                self.embedding_size,
                f"hidden_size ({self.hidden_size}), as in every published {family}",
            )
        if self.disentangled is not None:
            _require(
                self.num_layers >= 2 or not self.disentangled.enhanced_mask_decoder,
                "num_layers",
                self.num_layers,
                "2 or more with disentangled.enhanced_mask_decoder, which uses the last layer as the decoder",
            )
        if self.rotary is not None:
            _require(
                self.type_vocab_size == 0,
                "type_vocab_size",
                self.type_vocab_size,
                "0 (no token types), as in every published ModernBERT",
            )
            _require(
                self.num_heads < 1 or self.hidden_size % (2 * self.num_heads) == 0,
                "hidden_size",
                self.hidden_size,
                f"a multiple of 2 · num_heads ({2 * self.num_heads}), since positions rotate pairs",
            )

    def with_dropout(self, hidden: float, attention: float) -> "EncoderConfig":
        """The same encoder with other rates. `attention` is also that of rotary.attention_output_dropout:
        `transformers` has one rate for both."""
        rotary = self.rotary and dataclasses.replace(self.rotary, attention_output_dropout=attention)
        return dataclasses.replace(self, hidden_dropout=hidden, attention_dropout=attention, rotary=rotary)

    @property
    def family(self) -> Family:
        return FAMILIES[self.position]

    @property
    def head_size(self) -> int:
        return self.hidden_size // self.num_heads

    @property
    def has_input_positions(self) -> bool:
        """Whether absolute positions are added to the token embeddings."""
        section = self.disentangled or self.relative_bias or self.rotary
        return section is None or section.position_biased_input


@dataclasses.dataclass(frozen=True, kw_only=True)
class PretrainingConfig:
    """Generator, discriminator, and how they share embeddings.

    Raises:
      ValueError: the encoders do not fit together; the message names the field, the value and what is
        allowed.
    """

    generator: EncoderConfig
    discriminator: EncoderConfig
    # "tied", "none", or "gdes", gradient-disentangled embedding sharing: the discriminator adds its own table
    # to the generator's, which gets no gradient from it (models/pretraining.py).
    embedding_sharing: str
    execution: LayerExecution = UNROLLED  # of both encoders; it does not affect results

    def __post_init__(self):
        sharing = self.embedding_sharing
        _require(sharing in EMBEDDING_SHARING, "embedding_sharing", sharing, f"one of {EMBEDDING_SHARING}")
        _require(
            self.generator.vocab_size == self.discriminator.vocab_size,
            "generator.vocab_size",
            self.generator.vocab_size,
            f"the discriminator's {self.discriminator.vocab_size}",
        )
        _require(
            sharing == "none" or self.generator.embedding_size == self.discriminator.embedding_size,
            "generator.embedding_size",
            self.generator.embedding_size,
            f"the discriminator's {self.discriminator.embedding_size} unless embedding_sharing is 'none'",
        )
        for encoder in (self.generator, self.discriminator):
            self.execution.check_kernels(encoder.position, encoder.attention_dropout)

    @property
    def shares_embeddings(self) -> bool:
        """Whether generator and discriminator have one `Embeddings`, with its LayerNorm, in common."""
        return self.embedding_sharing == "tied" and self.discriminator.family.ties_whole_embeddings


def _require(condition: bool, field: str, got, expected: str) -> None:
    if not condition:
        raise FieldError(field, got, expected)


def encoder_shape(hidden_size: int, num_layers: int) -> dict[str, int]:
    """Heads of 64 and a feed-forward layer four times as wide (google-research/electra
    util/training_utils.py)."""
    return {
        "hidden_size": hidden_size,
        "num_layers": num_layers,
        "num_heads": max(1, hidden_size // 64),
        "intermediate_size": 4 * hidden_size,
    }


def make_encoder_config(fields: dict) -> EncoderConfig:
    """The frozen configuration of one encoder; the sections in `SECTIONS` are dictionaries or None."""
    made = {
        name: fields[name] and from_fields(make, fields[name], f"config.model.{name}")
        for name, make in SECTIONS.items()
    }
    return from_fields(EncoderConfig, fields | made, "config.model")


def make_pretraining_config(model: dict, execution: LayerExecution = UNROLLED) -> PretrainingConfig:
    """The frozen configuration of `config.model`, a plain dict.

    Its sections "generator" and "discriminator" override the fields beside them, which both encoders share.

    Raises:
      ValueError: a value is out of range, or a key is missing or unknown.
    """
    own = ("generator", "discriminator", "embedding_sharing")
    shared = {key: value for key, value in model.items() if key not in own}
    known = {field.name for field in dataclasses.fields(EncoderConfig)}
    sections, problems = {}, Problems()
    for name in ("generator", "discriminator"):
        fields = {**shared, **model[name]}
        if fields.keys() != known:
            raise ValueError(
                f"config.model (with config.model.{name}): got keys {sorted(fields)}, expected "
                f"{sorted(known)}."
            )
        with problems.kept():
            sections[name] = make_encoder_config(fields)
    problems.report()
    return PretrainingConfig(embedding_sharing=model["embedding_sharing"], execution=execution, **sections)
