"""What an encoder is told about a row of token ids: padding, segments, positions, token types. Pure
functions.

Rows hold ids alone, so everything else is derived here on the device, always from the *original* ids: a
corrupted row may contain a sampled [CLS] or [SEP].

Shapes: B batch, L length.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp


class SpecialTokens(NamedTuple):
    """Ids that carry structure. They are the tokenizer's and come from the dataset."""

    pad: int
    cls: int
    sep: int
    mask: int
    unk: int

    @classmethod
    def from_ids(cls, ids: NamedTuple) -> "SpecialTokens":
        """From a record with the same fields, as data_pipelines has for a tokenizer."""
        return cls(**ids._asdict())


class EncoderInputs(NamedTuple):
    """Structure of a row, all [B, L] but `direction`."""

    segments_BL: (
        jax.Array
    )  # int32: 0 padding, 1… the document a token belongs to; attention stays inside a segment
    positions_BL: jax.Array  # int32: restart at 0 in every segment
    token_types_BL: jax.Array  # int32: 0 up to and including the segment's first [SEP], 1 after it
    # A number: 1 where tokens attend to themselves and what is left of them, −1 to what is right; None to
    # all.
    direction: jax.Array | None = None

    @property
    def is_token_BL(self) -> jax.Array:
        """True on real tokens, False on padding: input_mask of the reference code."""
        return self.segments_BL > 0


def derive_inputs(ids_BL: jax.Array, special: SpecialTokens, type_vocab_size: int) -> EncoderInputs:
    """Segments, positions and token types of packed rows: every [CLS] opens a segment.

    A row that starts without [CLS] counts as one segment from its first token.
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
    # Padding keeps small, valid indices: its embeddings are looked up, never attended to and never scored.
    positions_BL = jnp.where(is_token_BL, index_BL - start_BL, 0)
    return EncoderInputs(segments_BL, positions_BL, jnp.where(is_token_BL, token_types_BL, 0))
