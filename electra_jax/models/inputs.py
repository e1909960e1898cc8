"""Padding, segments, positions and token types of rows of token ids, and the numbers of the rows.

Rows hold ids only; all else is derived from them here, on the device. The ids must be the *original* ones: a
corrupted row may contain a sampled [CLS] or [SEP].

Shapes: B batch, L length.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp


class SpecialTokens(NamedTuple):
    """Ids of the tokenizer's special tokens, as recorded in the dataset."""

    pad: int
    cls: int
    sep: int
    mask: int
    unk: int

    @classmethod
    def from_ids(cls, ids: NamedTuple) -> "SpecialTokens":
        """From a NamedTuple with the same fields in any order, such as a tokenizer's in data_pipelines."""
        return cls(**ids._asdict())


class EncoderInputs(NamedTuple):
    """What an encoder reads beside the embedded tokens."""

    segments_BL: jax.Array  # int32: 0 for padding, else the number of the token's document, from 1
    positions_BL: jax.Array  # int32: from 0 in every segment
    token_types_BL: jax.Array  # int32: 0 up to and including the segment's first [SEP], 1 after it
    # uint32: the number of each row in the batch. It stays with the row when the batch is cut into
    # microbatches and data shards, so that dropout does not depend on how the batch is cut.
    rows_B: jax.Array
    # 1: a token attends to itself and to the left; −1: to itself and to the right; None: in both directions.
    # In all cases, only within its segment.
    direction: jax.Array | None = None

    @property
    def is_token_BL(self) -> jax.Array:
        """True for tokens, False for padding ("input_mask" in the reference code)."""
        return self.segments_BL > 0


def derive_inputs(ids_BL: jax.Array, special: SpecialTokens, type_vocab_size: int) -> EncoderInputs:
    """Segments, positions and token types of packed rows: every [CLS] begins a segment.

    Tokens before the first [CLS] are a segment, too.
    """
    index_BL = jnp.broadcast_to(jnp.arange(ids_BL.shape[1], dtype=jnp.int32)[None, :], ids_BL.shape)
    is_token_BL = ids_BL != special.pad
    opens_BL = ((ids_BL == special.cls) | (index_BL == 0)) & is_token_BL
    start_BL = jax.lax.cummax(jnp.where(opens_BL, index_BL, 0), axis=1)
    segments_BL = jnp.where(is_token_BL, jnp.cumsum(opens_BL.astype(jnp.int32), axis=1), 0)
    is_sep_BL = ((ids_BL == special.sep) & is_token_BL).astype(jnp.int32)
    seps_before_BL = jnp.cumsum(is_sep_BL, axis=1) - is_sep_BL
    seps_at_start_BL = jnp.take_along_axis(seps_before_BL, start_BL, axis=1)
    token_types_BL = jnp.minimum(seps_before_BL - seps_at_start_BL, max(type_vocab_size - 1, 0))
    # Padding gets valid indices, since its embeddings are looked up; nothing attends to it or scores it.
    positions_BL = jnp.where(is_token_BL, index_BL - start_BL, 0)
    rows_B = jnp.arange(ids_BL.shape[0], dtype=jnp.uint32)
    return EncoderInputs(segments_BL, positions_BL, jnp.where(is_token_BL, token_types_BL, 0), rows_B)
