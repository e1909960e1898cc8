"""Generator and discriminator, and how they share embeddings (ELECTRA §3.2; DeBERTaV3 §3.3).

* "tied": both use the same tables. ELECTRA shares the whole embedding layer, except that each encoder has its
  own rate of dropout behind it; DeBERTa shares only word and position tables.
* "none": each has its own.
* "gdes", gradient-disentangled embedding sharing: the discriminator uses stop_gradient(generator's table)
  plus its own table, "delta", which starts at zero.

Shapes: B batch, L length, P masked positions, D hidden, E embedding_size, V vocab.
"""

import jax
import jax.numpy as jnp
from flax import linen as nn

from electra_jax.models.config import EncoderConfig, PretrainingConfig
from electra_jax.models.deberta_encoder import DebertaEncoder
from electra_jax.models.embeddings import Embeddings, SharedTables
from electra_jax.models.encoder import Encoder
from electra_jax.models.execution import UNROLLED, LayerExecution
from electra_jax.models.heads import DiscriminatorPredictions, GeneratorPredictions, VocabularyLogits
from electra_jax.models.inputs import EncoderInputs
from electra_jax.models.modern_encoder import ModernEncoder

# config.model.position → encoder.
ENCODERS = {
    "absolute": Encoder,
    "relative_bias": Encoder,
    "disentangled": DebertaEncoder,
    "rotary": ModernEncoder,
}


class PretrainingModel(nn.Module):
    """Generator and discriminator with their heads.

    Call `model.apply({"params": params}, …, method="generate", rngs={"dropout": key})`, or "discriminate".
    """

    config: PretrainingConfig

    def setup(self):
        generator, discriminator, sharing = (
            self.config.generator,
            self.config.discriminator,
            self.config.embedding_sharing,
        )
        self.shares_tables = sharing != "none" and not self.config.shares_embeddings
        if self.config.shares_embeddings:
            self.embeddings = Embeddings(discriminator)
            self.embeddings_of = {"generator": self.embeddings, "discriminator": self.embeddings}
        else:
            self.generator_embeddings = Embeddings(generator, stores_positions=has_decoder(generator))
            self.discriminator_embeddings = Embeddings(discriminator, "own" if sharing == "none" else sharing)
            self.embeddings_of = {
                "generator": self.generator_embeddings,
                "discriminator": self.discriminator_embeddings,
            }
        self.generator = make_encoder(generator, self.config.execution)
        self.generator_predictions = GeneratorPredictions(generator)
        self.discriminator = make_encoder(discriminator, self.config.execution)
        self.discriminator_predictions = DiscriminatorPredictions(discriminator)

    def __call__(
        self, ids_BL: jax.Array, inputs: EncoderInputs, positions_BP: jax.Array
    ) -> tuple[VocabularyLogits, jax.Array]:
        """Both encoders without dropout. It uses every parameter, as `init` needs."""
        return (
            self.generate(ids_BL, inputs, positions_BP, is_training=False),
            self.discriminate(ids_BL, inputs, is_training=False),
        )

    def generate(
        self, ids_BL: jax.Array, inputs: EncoderInputs, positions_BP: jax.Array, is_training: bool
    ) -> VocabularyLogits:
        """Masked ids [B, L] → logits at `positions_BP` only; [B, L, V] is never computed."""
        x_BLD = encode_masked(self.generator, self.embeddings_of["generator"], ids_BL, inputs, is_training)
        return self.generator_predictions(
            gather_positions(x_BLD, positions_BP), self.embeddings_of["generator"].word_table()
        )

    def discriminate(self, ids_BL: jax.Array, inputs: EncoderInputs, is_training: bool) -> jax.Array:
        """Corrupted ids [B, L] → logits [B, L]; positive means "replaced"."""
        return self.discriminator_predictions(self.discriminator_states(ids_BL, inputs, is_training), inputs)

    def discriminator_states(self, ids_BL: jax.Array, inputs: EncoderInputs, is_training: bool) -> jax.Array:
        """Corrupted ids [B, L] → hidden states [B, L, D], the input of the discriminator's heads."""
        x_BLE = self.embeddings_of["discriminator"](ids_BL, inputs, is_training, self._shared_tables())
        return self.discriminator(x_BLE, inputs, is_training)

    def word_tables(self) -> dict[str, jax.Array]:
        """The token tables [V, E] that the generator and the discriminator use."""
        return {
            "generator": self.embeddings_of["generator"].word_table(),
            "discriminator": self.embeddings_of["discriminator"].word_table(self._shared_tables()),
        }

    def _shared_tables(self) -> SharedTables | None:
        return self.embeddings_of["generator"].shared_tables() if self.shares_tables else None


class MaskedLanguageModel(nn.Module):
    """The baseline: one encoder of the discriminator's shape that predicts masked tokens (ELECTRA §3.3)."""

    config: PretrainingConfig

    def setup(self):
        encoder = self.config.discriminator
        self.embeddings = Embeddings(encoder, stores_positions=has_decoder(encoder))
        self.generator = make_encoder(encoder, self.config.execution)
        self.generator_predictions = GeneratorPredictions(encoder)

    def __call__(self, ids_BL: jax.Array, inputs: EncoderInputs, positions_BP: jax.Array) -> VocabularyLogits:
        """`generate` without dropout, for `init`."""
        return self.generate(ids_BL, inputs, positions_BP, is_training=False)

    def generate(
        self, ids_BL: jax.Array, inputs: EncoderInputs, positions_BP: jax.Array, is_training: bool
    ) -> VocabularyLogits:
        """Masked ids [B, L] → logits at `positions_BP`."""
        return self.generate_with_states(ids_BL, inputs, positions_BP, is_training)[0]

    def generate_with_states(
        self, ids_BL: jax.Array, inputs: EncoderInputs, positions_BP: jax.Array, is_training: bool
    ) -> tuple[VocabularyLogits, jax.Array]:
        """`generate`, and the encoder's states [B, L, D], which its head reads."""
        x_BLD = encode_masked(self.generator, self.embeddings, ids_BL, inputs, is_training)
        x_BPD = gather_positions(x_BLD, positions_BP)
        return self.generator_predictions(x_BPD, self.embeddings.word_table()), x_BLD


def make_encoder(config: EncoderConfig, execution: LayerExecution = UNROLLED) -> nn.Module:
    """The encoder for `config.position`."""
    return ENCODERS[config.position](config, execution)


def has_decoder(config: EncoderConfig) -> bool:
    """Whether a generator with this configuration ends with the enhanced mask decoder."""
    return config.disentangled is not None and config.disentangled.enhanced_mask_decoder


def encode_masked(
    encoder: nn.Module, embeddings: Embeddings, ids_BL: jax.Array, inputs: EncoderInputs, is_training: bool
) -> jax.Array:
    """Hidden states [B, L, D] of a generator, after the enhanced mask decoder if it has one."""
    x_BLE = embeddings(ids_BL, inputs, is_training, hidden_dropout=encoder.config.hidden_dropout)
    if has_decoder(encoder.config):
        return encoder(x_BLE, inputs, is_training, embeddings.positions(inputs))
    return encoder(x_BLE, inputs, is_training)


def gather_positions(x_BLD: jax.Array, positions_BP: jax.Array) -> jax.Array:
    """Hidden states [B, P, D] at the given positions."""
    return jnp.take_along_axis(x_BLD, positions_BP[:, :, None], axis=1)
