"""Token + position + token-type embeddings and their LayerNorm, at embedding_size (ELECTRA §3.2; modeling.py).

Shapes: B batch, L length, E embedding_size, V vocab.
"""

import jax
import jax.numpy as jnp
from flax import linen as nn

from electra_jax.models.config import EncoderConfig
from electra_jax.models.dropout import Dropout
from electra_jax.models.initializers import sinusoidal_positions, truncated_normal
from electra_jax.models.inputs import EncoderInputs
from electra_jax.models.layers import LayerNorm, logical

# The "local" start needs positions to dominate tokens after the embedding LayerNorm (root mean squares before it).
LOCAL_POSITION_RMS, LOCAL_TOKEN_STDDEV = 0.057, 0.04


class Embeddings(nn.Module):
    """The three tables and the LayerNorm that ELECTRA's generator and discriminator share when tied."""

    config: EncoderConfig

    def setup(self):
        config = self.config
        published = truncated_normal(config.initializer_range)
        is_local = config.initializer == "local"
        self.word_embeddings = Table(config.vocab_size, config.embedding_size, "vocab",
                                     truncated_normal(LOCAL_TOKEN_STDDEV) if is_local else published)
        self.position_embeddings = Table(config.max_position_embeddings, config.embedding_size, "position",
                                         sinusoidal_positions(LOCAL_POSITION_RMS) if is_local else published)
        self.token_type_embeddings = Table(config.type_vocab_size, config.embedding_size, "token_type", published)
        self.layer_norm = LayerNorm(config.layer_norm_epsilon, "embedding", config.dtype, name="LayerNorm")
        self.dropout = Dropout(config.hidden_dropout)

    def __call__(self, ids_BL: jax.Array, inputs: EncoderInputs, is_training: bool) -> jax.Array:
        """Embed ids [B, L] → [B, L, E], normalised, with dropout."""
        x_BLE = self.word_embeddings(ids_BL)
        x_BLE += self.position_embeddings(inputs.positions_BL)
        x_BLE += self.token_type_embeddings(inputs.token_types_BL)
        x_BLE = nn.with_logical_constraint(x_BLE, ("batch", "length", None))
        return self.dropout(self.layer_norm(x_BLE), is_training)

    def word_table(self) -> jax.Array:
        """Token table [V, E] in float32: also the generator's output matrix."""
        return self.word_embeddings.table()


class Table(nn.Module):
    """Embedding table [N, E], float32; lookups are float32 too, the LayerNorm behind them chooses the compute dtype."""

    size: int
    features: int
    axis: str
    init: nn.initializers.Initializer

    def setup(self):
        self.embedding = self.param("embedding", logical(self.init, self.axis, "embedding"), (self.size, self.features))

    def __call__(self, ids: jax.Array) -> jax.Array:
        return jnp.take(self.embedding, ids, axis=0, mode="clip")

    def table(self) -> jax.Array:
        return self.embedding
