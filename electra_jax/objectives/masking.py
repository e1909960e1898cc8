"""Masking as in DeBERTa's code: one position in every window of a few tokens, so masks are evenly spread.

microsoft/DeBERTa, apps/tasks/mlm_task.py, NGramMaskGenerator with max_gram = 1, which its RTD task uses. The
candidates of a row, its tokens that are not special, are cut into windows, and one candidate of each is
chosen. There are more windows than predictions, because 1/mask_prob is rounded down: 85 for 77 in a full row
of 512. The released code keeps the first 77, so it never predicts about the last 50 tokens. Keeping a random
subset instead treats all windows alike.

In packed rows a window may span two documents.

Shapes: B batch, L length, P masked positions, W windows, K = min(P, W), N any length.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np

from electra_jax.models.inputs import EncoderInputs, SpecialTokens


def num_window_predictions(mask_prob: float, sequence_length: int) -> int:
    """Slots P for predictions: L·mask_prob rounded up to a multiple of ten, 80 for 15 % of 512."""
    return math.ceil(sequence_length * mask_prob / 10) * 10


def choose_windowed_positions(
    key: jax.Array,
    ids_BL: jax.Array,
    inputs: EncoderInputs,
    special: SpecialTokens,
    mask_prob: float,
    *,
    keeps_first_windows: bool,
) -> tuple[jax.Array, jax.Array]:
    """Positions [B, P], one in each kept window, and weights [B, P] (1 used, 0 not).

    A row with n tokens has min(P, max(1, round(n·mask_prob))) predictions, but at most one per window; [CLS],
    [SEP], [MASK], [UNK] and padding are never chosen. Used slots come first and their positions ascend;
    unused slots hold position 0.

    Args:
      keeps_first_windows: as in the released code; otherwise a uniformly random subset of the row's windows
        is kept.
    """
    length = ids_BL.shape[1]
    window_size = int(1 / mask_prob)
    num_windows, num_slots = math.ceil(length / window_size), num_window_predictions(mask_prob, length)
    offset_key, subset_key = jax.random.split(key)

    is_special_BL = jnp.isin(ids_BL, jnp.asarray([special.cls, special.sep, special.mask, special.unk]))
    is_candidate_BL = inputs.is_token_BL & ~is_special_BL
    candidates_BL = first_true(is_candidate_BL, length)
    num_candidates_B1 = is_candidate_BL.sum(axis=1, keepdims=True, dtype=jnp.int32)
    start_1W = jnp.arange(num_windows)[None, :] * window_size
    width_BW = jnp.clip(
        num_candidates_B1 - start_1W, 0, window_size
    )  # smaller in a row's last window, 0 beyond it
    # A window beyond the last one draws an offset too, but is not kept.
    rank_BW = start_1W + jax.random.randint(offset_key, width_BW.shape, 0, jnp.maximum(width_BW, 1))
    chosen_BW = jnp.take_along_axis(candidates_BL, rank_BW, axis=1)

    is_kept_BW = priority(subset_key, width_BW > 0, keeps_first_windows) < num_to_predict(inputs, mask_prob)
    is_kept_BW &= width_BW > 0
    kept_BK = first_true(is_kept_BW, min(num_slots, num_windows))
    is_used_BK = jnp.take_along_axis(is_kept_BW, kept_BK, axis=1)
    positions_BK = jnp.where(is_used_BK, jnp.take_along_axis(chosen_BW, kept_BK, axis=1), 0)
    unused = ((0, 0), (0, num_slots - positions_BK.shape[1]))  # slots beyond the number of windows
    return jnp.pad(positions_BK, unused), jnp.pad(is_used_BK.astype(jnp.float32), unused)


def num_to_predict(inputs: EncoderInputs, mask_prob: float) -> jax.Array:
    """Number of predictions [B, 1] int32, at most P, as in the released code.

    A table with the count for every number of tokens is made while tracing, in float64 and rounding half to
    even, as Python's round: in float32, 15 % of 190 tokens would be 29, not 28.
    """
    length = inputs.segments_BL.shape[1]
    count_N = np.clip(
        np.round(np.arange(length + 1) * mask_prob), 1, num_window_predictions(mask_prob, length)
    )
    return jnp.asarray(count_N, jnp.int32)[inputs.is_token_BL.sum(axis=1, keepdims=True)]


def priority(key: jax.Array, is_window_BW: jax.Array, keeps_first_windows: bool) -> jax.Array:
    """Rank [B, W] of each window: the window with rank 0 is kept first. Windows beyond a row's last one come
    last."""
    if keeps_first_windows:
        return jnp.arange(is_window_BW.shape[1])[None, :]
    # A random permutation of the windows that exist, which come first in a row; the others keep their place.
    return jnp.where(is_window_BW, jax.random.uniform(key, is_window_BW.shape), 1.0).argsort(axis=1)


def first_true(flags_BN: jax.Array, num: int) -> jax.Array:
    """Indices [B, num], int32, of the True elements of each row in ascending order, then of the others."""
    return jnp.argsort(~flags_BN, axis=1, stable=True)[:, :num].astype(jnp.int32)
