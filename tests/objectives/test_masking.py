"""Masking by windows, against the released loop rewritten in plain Python."""

import functools
import random

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from electra_jax.models.inputs import derive_inputs
from electra_jax.objectives.masking import choose_windowed_positions, num_window_predictions
from support.tiny import SPECIAL, key, rows

MASK_PROB = 0.15
WORD = 50  # any id that is not special
NEVER = {SPECIAL.pad, SPECIAL.cls, SPECIAL.sep, SPECIAL.mask, SPECIAL.unk}
BOTH = pytest.mark.parametrize("keeps_first_windows", [True, False])


def choose(ids, seed=0, *, keeps_first_windows, mask_prob=MASK_PROB):
    """Positions and weights as numpy arrays; traced, as in training."""
    return jax.device_get(trace(key(seed), jnp.asarray(ids, jnp.int32), mask_prob, keeps_first_windows))


@functools.partial(jax.jit, static_argnums=(2, 3))
def trace(key, ids_BL, mask_prob, keeps_first_windows):
    return choose_windowed_positions(
        key,
        ids_BL,
        derive_inputs(ids_BL, SPECIAL, 1),
        SPECIAL,
        mask_prob,
        keeps_first_windows=keeps_first_windows,
    )


def chosen(positions, weights):
    """A list of predicted positions for each row."""
    return [row[weight > 0].tolist() for row, weight in zip(positions, weights, strict=True)]


def released(tokens, max_length, rng, mask_prob=MASK_PROB):
    """Positions that the released loop masks in one row without padding: windows first, then left to right up
    to a count."""
    candidates = [i for i, token in enumerate(tokens) if token not in NEVER]
    slots = -(-max_length * mask_prob // 10) * 10
    count = min(slots, max(1, round(len(tokens) * mask_prob)))
    window, picked, offset = int(1 / mask_prob), [], 0
    while offset < len(candidates):
        width = min(window, len(candidates) - offset)
        picked.append(candidates[offset + rng.randint(0, width - 1)])  # both ends included
        offset += width
    masked = []
    for position in picked:
        masked.append(position)
        if len(masked) >= count:
            break
    return masked


def windows(row, mask_prob=MASK_PROB):
    """Window number of each candidate position of a row."""
    candidates = [i for i, token in enumerate(row) if token not in NEVER]
    return {position: rank // int(1 / mask_prob) for rank, position in enumerate(candidates)}


def full_rows(num_rows, length):
    """[CLS] text [SEP] without padding, as the released data preparation cuts it."""
    ids = np.full((num_rows, length), WORD, np.int32)
    ids[:, 0], ids[:, -1] = SPECIAL.cls, SPECIAL.sep
    return ids


def mixed_rows():
    """Rows with padding, several documents, special tokens inside, fewer candidates than a window, or one
    candidate."""
    ids = [*rows(24, length=64, seed=1)]
    rng = np.random.default_rng(2)
    for length in (3, 4, 5, 7, 8, 9, 14, 20, 33, 47, 63, 64):
        row = np.zeros(64, np.int32)
        row[:length] = rng.integers(5, 256, size=length)
        row[0], row[length - 1] = SPECIAL.cls, SPECIAL.sep
        row[1 : length - 2] = np.where(rng.random(max(length - 3, 0)) < 0.2, SPECIAL.unk, row[1 : length - 2])
        row[1 : length - 2] = np.where(
            rng.random(max(length - 3, 0)) < 0.1, SPECIAL.mask, row[1 : length - 2]
        )
        ids.append(row)
    return np.stack(ids)


@pytest.mark.parametrize(
    "mask_prob, length, expected", [(0.15, 512, 80), (0.15, 128, 20), (0.15, 24, 10), (0.25, 512, 130)]
)
def test_number_of_slots(mask_prob, length, expected):
    assert num_window_predictions(mask_prob, length) == expected
    positions, weights = choose(full_rows(2, length), keeps_first_windows=True, mask_prob=mask_prob)
    assert positions.shape == weights.shape == (2, expected)
    assert positions.dtype == np.int32 and weights.dtype == np.float32


@BOTH
def test_one_candidate_a_window_and_the_released_count(keeps_first_windows):
    ids = mixed_rows()
    positions, weights = choose(ids, keeps_first_windows=keeps_first_windows)
    assert not positions[weights == 0].any()
    for row, picked in zip(ids, chosen(positions, weights), strict=True):
        window_of = windows(row)
        assert set(picked) <= set(window_of)  # so never a special token, never padding
        used = [window_of[position] for position in picked]
        assert used == sorted(set(used))  # one per window, left to right
        assert len(picked) == len(released(row[row != SPECIAL.pad].tolist(), 64, random.Random(0)))
        if keeps_first_windows:
            assert used == list(range(len(used)))


@BOTH
@pytest.mark.parametrize("mask_prob", [0.15, 0.3])
def test_count_of_every_length(keeps_first_windows, mask_prob):
    """Lengths at which n·mask_prob ends in one half, such as 190, round to even without the error of
    float32."""
    ids = np.zeros((510, 512), np.int32)
    for row, length in enumerate(range(3, 513)):
        ids[row, :length] = full_rows(1, length)
    _, weights = choose(ids, keeps_first_windows=keeps_first_windows, mask_prob=mask_prob)
    expected = [len(released(row[row != 0].tolist(), 512, random.Random(0), mask_prob)) for row in ids]
    np.testing.assert_array_equal(weights.sum(1), expected)
    assert mask_prob != 0.15 or expected[190 - 3] == 28


@BOTH
def test_nothing_is_predicted_without_candidates(keeps_first_windows):
    ids = np.zeros((3, 16), np.int32)
    ids[1, :2] = SPECIAL.cls, SPECIAL.sep
    ids[2, :3] = SPECIAL.cls, SPECIAL.unk, SPECIAL.sep
    positions, weights = choose(ids, keeps_first_windows=keeps_first_windows)
    assert not positions.any() and not weights.any()


@BOTH
def test_fewer_candidates_than_a_window(keeps_first_windows):
    """Three words: one prediction, on each of them equally often."""
    draws = 6000
    ids = np.zeros((draws, 16), np.int32)
    ids[:, :5] = SPECIAL.cls, WORD, WORD, WORD, SPECIAL.sep
    positions, weights = choose(ids, keeps_first_windows=keeps_first_windows)
    np.testing.assert_array_equal(weights.sum(1), 1)
    counts = np.bincount(positions[:, 0], minlength=5)
    assert counts[[0, 4]].sum() == 0
    assert (
        (counts[1:4] - draws / 3) ** 2 / (draws / 3)
    ).sum() < 13.8  # chi-square, 2 degrees of freedom, p = 0.001


@BOTH
def test_a_key_decides_everything(keeps_first_windows):
    ids = mixed_rows()
    first, again = (choose(ids, seed=5, keeps_first_windows=keeps_first_windows) for _ in range(2))
    np.testing.assert_array_equal(first, again)
    assert (first[0] != choose(ids, seed=6, keeps_first_windows=keeps_first_windows)[0]).any()


def test_released_masking_never_reaches_the_tail():
    """Full rows of 512: the last of the 77 windows kept ends at token 462. The released loop gives the same
    numbers."""
    draws = 2000
    ids = full_rows(draws, 512)
    positions, weights = choose(ids, keeps_first_windows=True)
    np.testing.assert_array_equal(weights.sum(1), 77)
    rng = random.Random(0)
    expected = [released(ids[0].tolist(), 512, rng) for _ in range(draws)]
    for last in (positions.max(axis=1), np.asarray(expected).max(axis=1)):
        assert abs(last.mean() - 459.5) < 0.2  # uniform over 457, …, 462: five standard errors
        assert last.max() == 462


def test_released_masking_has_the_released_frequencies():
    """Every position of a row with two documents, [UNK] and padding, as often as in the loop: two-sample
    chi-square."""
    row = np.zeros(72, np.int32)
    row[:67] = WORD
    row[[0, 29, 30, 66]] = SPECIAL.cls, SPECIAL.sep, SPECIAL.cls, SPECIAL.sep
    row[[3, 4, 40]] = SPECIAL.unk
    draws = 20_000
    positions, weights = choose(np.tile(row, (draws, 1)), keeps_first_windows=True)
    ours = np.bincount(positions[weights > 0], minlength=72)
    rng = random.Random(0)
    theirs = np.bincount(
        [p for _ in range(draws) for p in released(row[:67].tolist(), 72, rng)], minlength=72
    )
    seen = ours + theirs > 0
    np.testing.assert_array_equal(ours > 0, theirs > 0)
    # 10 windows of 6 positions, each with as many draws on both sides: 50 degrees of freedom, p = 0.001.
    assert seen.sum() == 60
    assert ((ours - theirs)[seen] ** 2 / (ours + theirs)[seen]).sum() < 86.7


def test_random_windows_reach_all_positions_equally():
    """The 510 tokens of a full row fall into 85 windows of 6 exactly, so each is predicted with probability
    77/510."""
    draws = 8000
    positions, weights = choose(full_rows(draws, 512), keeps_first_windows=False)
    np.testing.assert_array_equal(weights, np.tile(np.arange(80) < 77, (draws, 1)))
    positions = positions[:, :77]
    counts = np.bincount(positions.ravel(), minlength=512)
    assert counts[0] == counts[511] == 0
    expected = draws * 77 / 510
    # At most one draw per window makes the counts vary slightly less than independent ones: 509 degrees of
    # freedom, p = 0.001.
    assert ((counts[1:511] - expected) ** 2 / expected).sum() < 613
    per_window = counts[1:511].reshape(85, 6).sum(axis=1) / draws
    assert abs(per_window - 77 / 85).max() < 5 * np.sqrt(77 / 85 * 8 / 85 / draws)
    # Two windows are left out together as often as in a uniform subset.
    kept = np.zeros((draws, 85), bool)
    kept[np.arange(draws)[:, None], (positions - 1) // 6] = True
    together = (~kept[:, 0] & ~kept[:, 84]).mean()
    assert abs(together - 8 / 85 * 7 / 84) < 5 * np.sqrt(0.0078 / draws)
