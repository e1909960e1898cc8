"""The texts of a batch packed one after another into fewer rows for the encoder.

A batch is padded to its longest text, so that most of its positions are padding. Packed rows have about half
as many positions (README.md has the counts). Of the ways to compute less padding, this one keeps the batch
and its loss, needs one program per step, and leaves the least padding:

- Sorting by length within some batches changes which examples meet in a batch.
- Parts of a batch with lengths of their own are several smaller programs, and their gradients are added up.
- More lengths to pad to save little: the longest of 32 texts is nearly always long.

The encoder keeps the texts of a row apart as it does in pre-training: positions begin at 0 with every [CLS],
and attention stays within a text. Its states go back to rows of one text each before the head, so heads,
labels and losses know nothing of it. Where the texts lie in the rows does not depend on the mesh, nor do the
masks of dropout.

Shapes: B batch (texts), L length, R packed rows, N = R · L, D hidden.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from electra_jax.models.inputs import SpecialTokens

MOST_SHAPES = 8  # numbers of rows that the batches of one length can have: each is compiled
FEWEST_POSITIONS = 128  # by which they differ: fewer are not worth another program


class PackedRows(NamedTuple):
    """Packed texts, and where they are."""

    ids_RL: np.ndarray  # int32; every text begins with [CLS]
    first_B: np.ndarray  # int32: the place of each text's [CLS] among the N positions


def pack_rows(ids_BL: np.ndarray, special: SpecialTokens, multiple: int = 1) -> PackedRows:
    """The texts in as few rows of the same length as first-fit decreasing finds.

    R is rounded up so that it has at most MOST_SHAPES values, FEWEST_POSITIONS or more apart; but R is never
    more than B.

    Args:
      ids_BL: one text per row, with padding behind it; rows of padding alone are left out.
      multiple: R is a multiple of it, as B is: the number of parts that the mesh cuts a batch into.

    Raises:
      ValueError: a text does not begin with [CLS].
    """
    batch_size, length = ids_BL.shape
    lengths_B = (ids_BL != special.pad).sum(axis=1)
    is_open_B = (lengths_B > 0) & (ids_BL[:, 0] != special.cls)
    if is_open_B.any():
        raise ValueError(
            f"a row begins with the id {ids_BL[is_open_B.argmax(), 0]}, expected {special.cls}, that of "
            "[CLS]: the encoder finds the texts of a packed row by it."
        )
    ids_RL = np.full(ids_BL.shape, special.pad, np.int32)
    room_R, first_B = np.full(batch_size, length), np.zeros(batch_size, np.int32)
    for text in np.argsort(-lengths_B, kind="stable"):
        size = lengths_B[text]
        row = int((room_R >= size).argmax())
        start = length - room_R[row]
        ids_RL[row, start : start + size] = ids_BL[text, :size]
        first_B[text], room_R[row] = row * length + start, room_R[row] - size
    smallest = max(batch_size / MOST_SHAPES, FEWEST_POSITIONS / length)
    step = multiple * math.ceil(smallest / multiple)
    num_rows = max(1, int((room_R < length).sum()))
    return PackedRows(ids_RL[: min(batch_size, -(-num_rows // step) * step)], first_B)


def unpack_states(x_RLD: jax.Array, first_B: jax.Array, is_token_BL: jax.Array) -> jax.Array:
    """States of packed rows → states [B, L, D] of one text per row, 0 where it has no token.

    Args:
      is_token_BL: where a text has tokens; L may be shorter than that of the packed rows.
    """
    x_ND = x_RLD.reshape(-1, x_RLD.shape[-1])
    # A text may lie on another device than the row of its labels.
    x_ND = nn.with_logical_constraint(x_ND, (None, None))
    index_BL = first_B[:, None] + jnp.arange(is_token_BL.shape[1])[None]
    # Each index once, those beyond the array too: its derivative then needs no sums, whose order could vary.
    absent_BL = len(x_ND) + jnp.arange(is_token_BL.size).reshape(is_token_BL.shape)
    index_BL = jnp.where(is_token_BL, index_BL, absent_BL)
    x_BLD = x_ND.at[index_BL].get(mode="fill", fill_value=0, unique_indices=True)
    return nn.with_logical_constraint(x_BLD, ("batch", None, None))
