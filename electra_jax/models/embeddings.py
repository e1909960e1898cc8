"""Token (+ position + token-type) embeddings and their LayerNorm, at embedding_size (ELECTRA §3.2; DeBERTaV3
§3.3).

Shapes: B batch, L length, E embedding_size, V vocab.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from electra_jax.models.config import EncoderConfig
from electra_jax.models.dropout import Dropout
from electra_jax.models.initializers import sinusoidal_positions, table_initializer, truncated_normal
from electra_jax.models.inputs import EncoderInputs
from electra_jax.models.layers import LayerNorm, logical, standardize

# The "local" start needs positions to dominate tokens after the embedding LayerNorm (root mean squares before
# it).
LOCAL_POSITION_RMS, LOCAL_TOKEN_STDDEV = 0.057, 0.04
PERTURBED_EPSILON = 1e-7  # of the standardisation before a perturbation, in any model


class SharedTables(NamedTuple):
    """The generator's tables, for a discriminator that builds on them; positions only where its input has
    them."""

    word_VE: jax.Array
    position_ME: jax.Array | None


class Embeddings(nn.Module):
    """Tables and LayerNorm. Token types are absent when type_vocab_size is 0, positions when the input has
    none.

    `source` says where the word and position tables come from: "own", "tied" (the generator's, none of its
    own) or "gdes" (the generator's without gradient, plus an own table that starts at zero).
    `stores_positions` keeps a position table that the input does not use: DeBERTa's enhanced mask decoder
    reads it.
    """

    config: EncoderConfig
    source: str = "own"
    stores_positions: bool = False

    def setup(self):
        config = self.config
        published, is_local = table_initializer(config), config.initializer == "local"
        self.word_embeddings = Table(
            config.vocab_size,
            config.embedding_size,
            "vocab",
            truncated_normal(LOCAL_TOKEN_STDDEV) if is_local else published,
            self.source,
        )
        if config.has_input_positions or self.stores_positions:
            self.position_embeddings = Table(
                config.max_position_embeddings,
                config.embedding_size,
                "position",
                sinusoidal_positions(LOCAL_POSITION_RMS) if is_local else published,
                self.source,
            )
        if config.type_vocab_size:
            self.token_type_embeddings = Table(
                config.type_vocab_size, config.embedding_size, "token_type", published
            )
        self.layer_norm = LayerNorm(config.layer_norm_epsilon, "embedding", config.dtype, name="LayerNorm")
        self.dropout = Dropout(config.hidden_dropout)

    def __call__(
        self,
        ids_BL: jax.Array,
        inputs: EncoderInputs,
        is_training: bool,
        shared: SharedTables | None = None,
        perturbation_BLE: jax.Array | None = None,
    ) -> jax.Array:
        """Embed ids [B, L] → [B, L, E], normalised, with dropout; `shared` is for a source other than "own".

        A perturbation is added before the LayerNorm, to the standardised sum, which then has no gradient
        (finetuning/sift.py).
        """
        config = self.config
        x_BLE = self.word_embeddings(ids_BL, shared and shared.word_VE)
        if config.has_input_positions:
            x_BLE += self.position_embeddings(inputs.positions_BL, shared and shared.position_ME)
        if config.type_vocab_size:
            x_BLE += self.token_type_embeddings(inputs.token_types_BL)
        if perturbation_BLE is not None:
            x_BLE = jax.lax.stop_gradient(standardize(PERTURBED_EPSILON, x_BLE)) + perturbation_BLE
        x_BLE = self.layer_norm(nn.with_logical_constraint(x_BLE, ("batch", "length", None)))
        if config.disentangled is not None:
            x_BLE *= inputs.is_token_BL[:, :, None]  # DeBERTa's padding is zero
        return self.dropout(x_BLE, is_training)

    def positions(self, inputs: EncoderInputs) -> jax.Array:
        """Absolute positions [B, L, E] alone, without LayerNorm or dropout: what the enhanced mask decoder
        starts from."""
        return self.position_embeddings(inputs.positions_BL)

    def word_table(self, shared: SharedTables | None = None) -> jax.Array:
        """Token table [V, E] in float32: also the generator's output matrix."""
        return self.word_embeddings.table(shared and shared.word_VE)

    def shared_tables(self) -> SharedTables:
        """What a discriminator with another `source` than "own" builds on."""
        return SharedTables(
            self.word_table(), self.position_embeddings.table() if self.config.has_input_positions else None
        )


class Table(nn.Module):
    """Embedding table [N, E], float32; lookups are float32 too, the LayerNorm behind them chooses the compute
    dtype.

    Of a table that is partly or wholly another's, `base` is the other one (see `Embeddings.source`).
    """

    size: int
    features: int
    axis: str
    init: nn.initializers.Initializer
    source: str = "own"

    def setup(self):
        make = lambda name, init: self.param(
            name, logical(init, self.axis, "embedding"), (self.size, self.features)
        )
        if self.source == "own":
            self.embedding = make("embedding", self.init)
        elif self.source == "gdes":
            self.delta = make("delta", nn.initializers.zeros)

    def __call__(self, ids: jax.Array, base: jax.Array | None = None) -> jax.Array:
        # Two lookups and a sum of rows: the sum of whole tables would cost as much as the vocabulary is
        # large.
        lookup = lambda table: jnp.take(table, ids, axis=0, mode="clip")
        # First cut as the table is, then as all else: that exchanges rows for columns, where the compiler
        # would copy to all.
        return nn.with_logical_constraint(
            self._combine(lookup, base), ("looked_up", *[None] * (ids.ndim - 1), "embedding")
        )

    def table(self, base: jax.Array | None = None) -> jax.Array:
        return self._combine(lambda table: table, base)

    def _combine(self, view, base: jax.Array | None) -> jax.Array:
        if self.source == "own":
            return view(self.embedding)
        if self.source == "tied":
            return view(base)
        return jax.lax.stop_gradient(view(base)) + view(self.delta)
