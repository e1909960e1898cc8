"""Token, position and token-type embeddings, summed and normalised (ELECTRA §3.2; DeBERTaV3 §3.3).

Shapes: B batch, L length, E embedding_size, V vocab, M positions.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from electra_jax.models.config import EncoderConfig
from electra_jax.models.dropout import Dropout
from electra_jax.models.initializers import (
    sinusoidal_positions,
    table_initializer,
    truncated_normal,
    with_shared_part,
)
from electra_jax.models.inputs import EncoderInputs
from electra_jax.models.layers import LayerNorm, logical, standardize

# Initializer "local": positions must dominate tokens in the normalised sum. Root mean square and standard
# deviation of the tables.
LOCAL_POSITION_RMS, LOCAL_TOKEN_STDDEV = 0.057, 0.04
PERTURBED_EPSILON = 1e-7  # of the standardisation before a perturbation, the same for all models


class SharedTables(NamedTuple):
    """The generator's tables, for a discriminator that uses them."""

    word_VE: jax.Array
    position_ME: jax.Array | None  # None if positions are not added to the input


class Embeddings(nn.Module):
    """Embedding tables and their LayerNorm.

    There is no table of token types if type_vocab_size is 0, and none of positions unless they are added to
    the input or `stores_positions` is set.
    """

    config: EncoderConfig
    # Word and position tables: "own"; "tied", the generator's; or "gdes", gradient-disentangled embedding
    # sharing, stop_gradient(the generator's) + an own table that starts at zero.
    source: str = "own"
    stores_positions: bool = False  # a position table for DeBERTa's enhanced mask decoder

    def setup(self):
        config = self.config
        published, is_local = table_initializer(config), config.initializer == "local"
        self.word_embeddings = Table(
            config.vocab_size,
            config.embedding_size,
            "vocab",
            _local_words(config) if is_local else published,
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
        self.layer_norm = LayerNorm(
            config.layer_norm_epsilon,
            "embedding",
            config.dtype,
            has_bias=config.family.has_biases,
            name="LayerNorm",
        )
        self.dropout = Dropout(config.hidden_dropout)

    def __call__(
        self,
        ids_BL: jax.Array,
        inputs: EncoderInputs,
        is_training: bool,
        shared: SharedTables | None = None,
        perturbation_BLE: jax.Array | None = None,
        hidden_dropout: float | None = None,
    ) -> jax.Array:
        """Ids [B, L] → normalised embeddings [B, L, E] with dropout.

        Args:
          ids_BL: token ids.
          inputs: positions, token types and padding.
          is_training: whether dropout is on.
          shared: the generator's tables, unless `source` is "own".
          perturbation_BLE: added before the LayerNorm to the standardised sum, which then gets no gradient
            (finetuning/sift.py).
          hidden_dropout: the rate of the encoder that reads them; None: that of `config`. Shared embeddings
            have the configuration of the discriminator.
        """
        config = self.config
        x_BLE = self.word_embeddings(ids_BL, shared and shared.word_VE)
        if config.has_input_positions:
            x_BLE += self.position_embeddings(inputs.positions_BL, shared and shared.position_ME)
        if config.type_vocab_size:
            x_BLE += self.token_type_embeddings(inputs.token_types_BL)
        if perturbation_BLE is not None:
            x_BLE = jax.lax.stop_gradient(standardize(PERTURBED_EPSILON, x_BLE)[0]) + perturbation_BLE
        x_BLE = self.layer_norm(nn.with_logical_constraint(x_BLE, ("batch", "length", None)))
        if config.family.zeroes_padding:
            x_BLE *= inputs.is_token_BL[:, :, None]
        return self.dropout(x_BLE, is_training, inputs.rows_B, hidden_dropout)

    def positions(self, inputs: EncoderInputs) -> jax.Array:
        """Embedded absolute positions [B, L, E], not normalised, for the enhanced mask decoder."""
        return self.position_embeddings(inputs.positions_BL)

    def word_table(self, shared: SharedTables | None = None) -> jax.Array:
        """Token table [V, E] in float32, which is also the generator's output matrix."""
        return self.word_embeddings.table(shared and shared.word_VE)

    def shared_tables(self) -> SharedTables:
        """The tables that a discriminator with source "tied" or "gdes" uses."""
        return SharedTables(
            self.word_table(), self.position_embeddings.table() if self.config.has_input_positions else None
        )


def _local_words(config: EncoderConfig):
    words = truncated_normal(LOCAL_TOKEN_STDDEV)
    return words if config.rotary is None else with_shared_part(words)


class Table(nn.Module):
    """Embedding table [N, E]; lookups are float32, too. The LayerNorm after them sets the compute dtype."""

    size: int
    features: int
    axis: str  # logical axis of the rows
    init: nn.initializers.Initializer
    source: str = "own"  # see `Embeddings`

    def setup(self):
        make = lambda name, init: self.param(
            name, logical(init, self.axis, "embedding"), (self.size, self.features)
        )
        if self.source == "own":
            self.embedding = make("embedding", self.init)
        elif self.source == "gdes":
            self.delta = make("delta", nn.initializers.zeros)

    def __call__(self, ids: jax.Array, base: jax.Array | None = None) -> jax.Array:
        """Rows [*ids.shape, E]; `base` is the generator's table unless `source` is "own"."""
        # With "gdes", two lookups and a sum of rows: summing the tables would cost as much as the vocabulary
        # is large.
        lookup = lambda table: jnp.take(table, ids, axis=0, mode="clip")
        # Sharded like the table first and like activations later: this exchanges rows for columns, where the
        # compiler would otherwise copy the whole result to all devices.
        return nn.with_logical_constraint(
            self._combine(lookup, base), ("looked_up", *[None] * (ids.ndim - 1), "embedding")
        )

    def table(self, base: jax.Array | None = None) -> jax.Array:
        """The whole table [N, E]."""
        return self._combine(lambda table: table, base)

    def _combine(self, view, base: jax.Array | None) -> jax.Array:
        if self.source == "own":
            return view(self.embedding)
        if self.source == "tied":
            return view(base)
        return jax.lax.stop_gradient(view(base)) + view(self.delta)
