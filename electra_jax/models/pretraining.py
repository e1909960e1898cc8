"""Generator and discriminator side by side, and how they share embeddings (ELECTRA §3.2).

`tied`: one set of tables and one embedding LayerNorm serves both (the released code); `none`: each has its own.

Shapes: B batch, L length, P masked positions, D hidden, V vocab.
"""

import jax
import jax.numpy as jnp
from flax import linen as nn

from electra_jax.models.config import PretrainingConfig
from electra_jax.models.embeddings import Embeddings
from electra_jax.models.encoder import Encoder
from electra_jax.models.heads import DiscriminatorPredictions, GeneratorPredictions
from electra_jax.models.inputs import EncoderInputs


class PretrainingModel(nn.Module):
    """Use as `model.apply({"params": params}, …, method="generate" | "discriminate", rngs={"dropout": key})`."""

    config: PretrainingConfig

    def setup(self):
        generator, discriminator = self.config.generator, self.config.discriminator
        if self.config.embedding_sharing == "tied":
            self.embeddings = Embeddings(discriminator)
            self.embeddings_of = {"generator": self.embeddings, "discriminator": self.embeddings}
        else:
            self.generator_embeddings = Embeddings(generator)
            self.discriminator_embeddings = Embeddings(discriminator)
            self.embeddings_of = {"generator": self.generator_embeddings, "discriminator": self.discriminator_embeddings}
        self.generator = Encoder(generator)
        self.generator_predictions = GeneratorPredictions(generator)
        self.discriminator = Encoder(discriminator)
        self.discriminator_predictions = DiscriminatorPredictions(discriminator)

    def __call__(self, ids_BL: jax.Array, inputs: EncoderInputs, positions_BP: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Run both encoders without dropout; touches every parameter, so `init` uses it."""
        return (self.generate(ids_BL, inputs, positions_BP, is_training=False),
                self.discriminate(ids_BL, inputs, is_training=False))

    def generate(self, ids_BL: jax.Array, inputs: EncoderInputs, positions_BP: jax.Array, is_training: bool) -> jax.Array:
        """Masked ids [B, L] → logits [B, P, V] at `positions_BP` only: [B, L, V] is never formed."""
        embeddings = self.embeddings_of["generator"]
        x_BLD = self.generator(embeddings(ids_BL, inputs, is_training), inputs, is_training)
        return self.generator_predictions(gather_positions(x_BLD, positions_BP), embeddings.word_table())

    def discriminate(self, ids_BL: jax.Array, inputs: EncoderInputs, is_training: bool) -> jax.Array:
        """Corrupted ids [B, L] → logits [B, L]; positive means "replaced"."""
        embeddings = self.embeddings_of["discriminator"]
        return self.discriminator_predictions(self.discriminator(embeddings(ids_BL, inputs, is_training), inputs, is_training))


class MaskedLanguageModel(nn.Module):
    """The baseline: one encoder of the discriminator's shape with the masked-language-model head (ELECTRA §3.3)."""

    config: PretrainingConfig

    def setup(self):
        encoder = self.config.discriminator
        self.embeddings = Embeddings(encoder)
        self.generator = Encoder(encoder)
        self.generator_predictions = GeneratorPredictions(encoder)

    def __call__(self, ids_BL: jax.Array, inputs: EncoderInputs, positions_BP: jax.Array) -> jax.Array:
        """`generate` without dropout; used by `init`."""
        return self.generate(ids_BL, inputs, positions_BP, is_training=False)

    def generate(self, ids_BL: jax.Array, inputs: EncoderInputs, positions_BP: jax.Array, is_training: bool) -> jax.Array:
        """Masked ids [B, L] → logits [B, P, V] at `positions_BP`."""
        x_BLD = self.generator(self.embeddings(ids_BL, inputs, is_training), inputs, is_training)
        return self.generator_predictions(gather_positions(x_BLD, positions_BP), self.embeddings.word_table())


def gather_positions(x_BLD: jax.Array, positions_BP: jax.Array) -> jax.Array:
    """Hidden states [B, P, D] at the given positions."""
    return jnp.take_along_axis(x_BLD, positions_BP[:, :, None], axis=1)
