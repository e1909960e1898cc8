"""Masking as DeBERTa's code does it: one position of every few tokens, so that masks are neither crowded nor
far apart.

microsoft/DeBERTa, apps/tasks/mlm_task.py, NGramMaskGenerator with max_gram = 1, which its RTD task uses. The
candidates of a row – the tokens that are not special – are cut into windows, and one candidate of each is
chosen. There are more windows than predictions, because 1/mask_prob is rounded down: 85 for 77 in a full row
of 512. The released code keeps the first 77, so it never predicts the last 50 tokens or so. Keeping a random
subset instead treats all windows alike.

Windows do not know documents: they run on from one to the next in packed rows.

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
    """Positions [B, P], one in each window that is kept, and weights [B, P] (1 used, 0 not).

    Of a row with n tokens, min(P, max(1, round(n·mask_prob))) are predicted, or one a window where that is
    fewer; never [CLS], [SEP], [MASK], [UNK] or padding. Used slots come first and their positions ascend;
    unused ones hold position 0.

    Args: keeps_first_windows: as the released code. Otherwise the windows kept are a uniformly random subset
      of the row's.
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
    )  # less in a row's last window, 0 beyond it
    # A window that does not exist draws an offset too, but is not kept.
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
    """[B, 1] int32, at most P: for every possible number of tokens the released code's count, made while
    tracing.

    In float64, half to even, as Python's round: in float32 15 % of 190 tokens would be 29, not 28.
    """
    length = inputs.segments_BL.shape[1]
    count_N = np.clip(
        np.round(np.arange(length + 1) * mask_prob), 1, num_window_predictions(mask_prob, length)
    )
    return jnp.asarray(count_N, jnp.int32)[inputs.is_token_BL.sum(axis=1, keepdims=True)]


def priority(key: jax.Array, is_window_BW: jax.Array, keeps_first_windows: bool) -> jax.Array:
    """[B, W]: 0 for the window to be kept before all others, 1 for the next, and so on; those that do not
    exist come last."""
    if keeps_first_windows:
        return jnp.arange(is_window_BW.shape[1])[None, :]
    # A random permutation of the windows that exist: they are a row's first, and those that do not stay where
    # they are.
    return jnp.where(is_window_BW, jax.random.uniform(key, is_window_BW.shape), 1.0).argsort(axis=1)


def first_true(flags_BN: jax.Array, num: int) -> jax.Array:
    """Indices [B, num], int32, of the True elements of each row in ascending order, then of the others."""
    return jnp.argsort(~flags_BN, axis=1, stable=True)[:, :num].astype(jnp.int32)
