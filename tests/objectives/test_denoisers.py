"""A mixture of denoisers: which rows, which spans and which words are masked, against counts of all cases and
a plain loop in NumPy."""

import functools
import itertools
from collections import Counter

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax.linen import unbox

from electra_jax.distributed.mesh import make_mesh
from electra_jax.distributed.sharding import axis_context, batch_sharding
from electra_jax.models.config import make_pretraining_config
from electra_jax.models.inputs import derive_inputs
from electra_jax.objectives.denoisers import (
    Denoiser,
    PieceTables,
    choose_denoised_positions,
    choose_spans,
    draw_denoisers,
    mean_mask_prob,
)
from electra_jax.objectives.registry import OBJECTIVES, forward_flops, make_objective
from support import tiny
from support.tiny import SPECIAL, key, rows
from support.tiny_ablations import full_config

NEVER = [SPECIAL.pad, SPECIAL.cls, SPECIAL.sep, SPECIAL.mask]
WORD_STARTS = np.random.default_rng(3).random(256) < 0.6
PIECES = PieceTables(WORD_STARTS)
MIXTURE = (
    Denoiser(2.0, 0.15, 3.0, "tokens"),
    Denoiser(1.0, 0.15, 32.0, "tokens"),
    Denoiser(1.0, 0.5, 3.0, "tokens"),
    Denoiser(4.0, 0.2, 1.0, "words"),
)


@functools.partial(jax.jit, static_argnums=(2, 3))
def trace(key, ids_BL, denoisers, knows_words):
    return choose_denoised_positions(
        key,
        ids_BL,
        derive_inputs(ids_BL, SPECIAL, 1),
        SPECIAL,
        0.15,  # not read
        denoisers=denoisers,
        pieces=PIECES if knows_words else PieceTables(),
    )


def choose(ids, denoisers, seed=0, knows_words=True):
    """Positions, weights, and whether each token is masked [B, L]."""
    ids = jnp.asarray(ids, jnp.int32)
    positions, weights = jax.device_get(trace(key(seed), ids, denoisers, knows_words))
    is_masked = np.zeros(ids.shape, bool)
    np.put_along_axis(is_masked, positions, True, axis=1)  # unused slots hold position 0, which is [CLS]
    return positions, weights, is_masked & (np.arange(ids.shape[1]) > 0)


def long_rows(num_rows, length, seed=0):
    """Rows of several documents of random lengths, with padding at the end."""
    rng = np.random.default_rng(seed)
    ids = rng.integers(5, 256, size=(num_rows, length)).astype(np.int32)
    for row in ids:
        ends = np.sort(rng.choice(np.arange(3, length - 3, 2), size=4, replace=False))
        row[0], row[ends], row[ends[:-1] + 1], row[ends[-1] + 1 :] = SPECIAL.cls, SPECIAL.sep, SPECIAL.cls, 0
    return ids


def drawn(ids, denoisers, seed=0):
    """The number of the denoiser of each row."""
    return np.asarray(draw_denoisers(jax.random.split(key(seed))[0], len(ids), denoisers))


def words_of(row):
    """Lists of positions, one for each word."""
    words, inside = [], False
    for position, token in enumerate(row):
        if token in NEVER:
            inside = False
        elif inside and not WORD_STARTS[token]:
            words[-1].append(position)
        else:
            words.append([position])
            inside = True
    return words


def chi_square(counts, expected):
    return ((np.asarray(counts) - expected) ** 2 / expected).sum()


def test_rows_are_shared_out_by_the_weights():
    number = np.asarray(draw_denoisers(key(1), 8000, MIXTURE))
    counts = np.bincount(number, minlength=4)
    assert chi_square(counts, 8000 * np.array([2, 1, 1, 4]) / 8) < 16.3  # 3 degrees of freedom, p = 0.001
    uniforms = np.asarray(jax.random.uniform(key(1), (8000,)))
    np.testing.assert_array_equal(number, np.searchsorted([0.25, 0.375, 0.5], uniforms, side="right"))
    assert abs(np.corrcoef(number[:-1], number[1:])[0, 1]) < 4 / 8000**0.5
    assert not np.asarray(draw_denoisers(key(1), 9, MIXTURE[:1])).any()


@pytest.mark.parametrize(
    ("units", "masked", "spans"), [(7, 3, 2), (6, 3, 3), (5, 4, 1), (6, 5, 2), (4, 4, 2)]
)
def test_every_arrangement_of_spans_is_equally_likely(units, masked, spans):
    """All ways to divide the masked units, to order spans and the rest, and to turn the line, counted."""
    cases, draws = Counter(), 20_000
    for cuts in itertools.combinations(range(1, masked), spans - 1):
        lengths = np.diff([0, *cuts, masked])
        for places in itertools.combinations(range(units - masked + spans), spans):
            line, remaining = [], iter(lengths)
            for place in range(units - masked + spans):
                line += [True] * next(remaining) if place in places else [False]
            for turn in range(units):
                cases[tuple(np.roll(line, turn))] += 1
    full = lambda number: jnp.full((draws, 1), number, jnp.int32)
    chosen, is_used = jax.device_get(
        jax.jit(choose_spans, static_argnums=4)(key(2), full(units), full(masked), full(spans), 9)
    )
    np.testing.assert_array_equal(is_used, np.tile(np.arange(9) < masked, (draws, 1)))
    is_masked = np.zeros((draws, 9), bool)
    np.put_along_axis(is_masked, chosen[:, :masked], True, axis=1)
    assert not is_masked[:, units:].any()
    counts = Counter(map(tuple, is_masked[:, :units]))
    assert set(counts) == set(cases)
    expected = np.array(list(cases.values())) * draws / cases.total()
    degrees = max(len(cases) - 1, 1)
    # The 0.999 quantile by Wilson and Hilferty.
    limit = degrees * (1 - 2 / (9 * degrees) + 3.09 * (2 / (9 * degrees)) ** 0.5) ** 3
    assert chi_square([counts[case] for case in cases], expected) < limit


def test_spans_of_one_token_are_the_uniform_choice():
    """Every token equally often, and neighbours together as often as in a uniform subset: 4 of 26."""
    draws = 6000
    ids = np.tile(np.array([1, *range(10, 20), 2, 1, *range(30, 46), 2, 0, 0], np.int32), (draws, 1))
    _, weights, is_masked = choose(ids, (Denoiser(1.0, 0.15, 1.0, "tokens"),))
    is_word = ~np.isin(ids[0], NEVER)
    np.testing.assert_array_equal(weights.sum(1), 4)
    assert chi_square(is_masked[:, is_word].sum(0), draws * 4 / 26) < 52.7  # 25 degrees of freedom, p = 0.001
    pairs = is_masked[:, 1:] & is_masked[:, :-1]
    expected = 4 / 26 * 3 / 25 * (is_word[1:] & is_word[:-1]).sum()
    assert abs(pairs.sum(1).mean() - expected) < 4 * pairs.sum(1).std() / draws**0.5


@pytest.mark.parametrize(("mask_prob", "mean_span"), [(0.15, 3.0), (0.15, 32.0), (0.5, 8.0)])
def test_lengths_of_spans_and_rates(mask_prob, mean_span):
    """On full rows: the exact number of tokens, and runs that are as long as touching spans make them."""
    ids = np.full((400, 512), 50, np.int32)
    ids[:, 0], ids[:, -1] = SPECIAL.cls, SPECIAL.sep
    _, weights, is_masked = choose(ids, (Denoiser(1.0, mask_prob, mean_span, "tokens"),))
    count = round(510 * mask_prob)
    np.testing.assert_array_equal(weights.sum(1), count)
    np.testing.assert_array_equal(is_masked.sum(1), count)
    circle = is_masked[:, 1:511]
    num_runs = (circle & ~np.roll(circle, 1, axis=1)).sum(1)
    spans, objects = round(count / mean_span), 510 - count + round(count / mean_span)
    expected = spans - spans * (spans - 1) / (objects - 1)  # a span that follows another does not begin a run
    assert abs(num_runs.mean() - expected) < 4 * num_runs.std() / 20 + 0.01
    assert abs(count / num_runs.mean() / mean_span - 1) < 0.4
    # Every token equally often, those at both ends of the row, too.
    tenths = circle.reshape(400, 10, 51).mean(axis=(0, 2))
    assert abs(tenths / mask_prob - 1).max() < 0.15


def test_each_row_is_masked_by_its_own_denoiser():
    """The number of units that the mixture's entry for a row says, whole words whole, nothing special."""
    ids = long_rows(256, 96)
    number = drawn(ids, MIXTURE)
    positions, weights, is_masked = choose(ids, MIXTURE)
    assert positions.shape == weights.shape == (256, int(0.505 * 96))
    assert positions.dtype == np.int32 and weights.dtype == np.float32
    assert not positions[weights == 0].any() and not (is_masked & np.isin(ids, NEVER)).any()
    assert set(number.tolist()) == {0, 1, 2, 3}
    has_part_of_a_word = False
    for row, mask, which, slots, used in zip(ids, is_masked, number, positions, weights, strict=True):
        words, denoiser = words_of(row), MIXTURE[which]
        shares = [mask[word].mean() for word in words]
        units = len(words) if denoiser.units == "words" else sum(map(len, words))
        chosen = sum(share == 1 for share in shares) if denoiser.units == "words" else mask.sum()
        assert chosen == max(1, round(units * denoiser.mask_prob))
        has_part_of_a_word |= denoiser.units != "words" and any(0 < share < 1 for share in shares)
        assert denoiser.units != "words" or set(shares) <= {0, 1}
        assert slots[used > 0].tolist() == np.flatnonzero(mask).tolist()  # ascending, used slots first
    assert has_part_of_a_word


def test_spans_end_with_their_document():
    """Spans of 32 in documents of 8: each run of masks lies between two special tokens, and all places of a
    document are masked equally often."""
    document = [SPECIAL.cls, *range(10, 16), SPECIAL.sep]
    ids = np.tile(np.array(document * 16, np.int32), (2000, 1))
    _, _, is_masked = choose(ids, (Denoiser(1.0, 0.3, 32.0, "tokens"),))
    by_document = is_masked.reshape(2000, 16, 8)
    assert not by_document[:, :, [0, 7]].any()
    inner = by_document[:, :, 1:7]
    assert 0.7 < (inner.all(2) | ~inner.any(2)).mean() < 1  # most documents are masked whole, or not at all
    assert abs(inner.mean((0, 1)) / 0.3 - 1).max() < 0.05


def test_a_word_also_begins_with_its_document():
    """Pieces that continue a word, first in a document, are no part of the word before [SEP]."""
    inside = np.flatnonzero(~WORD_STARTS[5:])[0] + 5
    ids = np.tile(np.array([1, 60, inside, 2, 1, inside, inside, 2], np.int32), (200, 1))
    WORD_STARTS[60] = True
    _, weights, is_masked = choose(ids, (Denoiser(1.0, 0.5, 1.0, "words"),))
    assert {tuple(np.flatnonzero(mask)) for mask in is_masked} == {(1, 2), (5, 6)}
    np.testing.assert_array_equal(weights.sum(1), 2)


def test_words_beyond_the_slots_are_left_out_whole():
    """10 of 40 tokens at most: of words of 4 tokens only two at a time."""
    inside, start = np.flatnonzero(~WORD_STARTS[5:])[0] + 5, np.flatnonzero(WORD_STARTS[5:])[0] + 5
    fours = np.array([1, *[start, inside, inside, inside] * 9, 2, 0, 0], np.int32)
    _, weights, is_masked = choose(
        np.tile(fours, (300, 1)), (Denoiser(1.0, 0.2, 1.0, "words"), Denoiser(1e-6, 0.25, 1.0, "tokens"))
    )
    assert weights.shape[1] == 10
    assert set(weights.sum(1)) == {8.0}
    expected = np.full(9, 300 * 2 / 9)
    assert chi_square(is_masked[:, 1:37:4].sum(0), expected) < 26.1  # 8 degrees of freedom, p = 0.001


def test_a_word_longer_than_the_slots_is_cut_into_units():
    """10 of 40 tokens: a word of 30 has three units, each as likely as each of the 8 words behind it; two of
    the 11 are chosen, and one that does not fit behind the other is left out."""
    inside, start = np.flatnonzero(~WORD_STARTS[5:])[0] + 5, np.flatnonzero(WORD_STARTS[5:])[0] + 5
    giant = np.array([1, start, *[inside] * 29, *[start] * 8, 2], np.int32)
    denoisers = (Denoiser(1.0, 0.2, 1.0, "words"), Denoiser(1e-6, 0.5, 1.0, "tokens"))
    _, weights, is_masked = choose(np.tile(giant, (600, 1)), denoisers)
    assert weights.shape[1] == 20  # a mixture may have more slots than the denoiser of the words
    parts = is_masked[:, 1:31].reshape(600, 3, 10)
    assert (parts.all(2) | ~parts.any(2)).all()
    units = np.concatenate([parts[:, :, 0], is_masked[:, 31:39]], axis=1)
    np.testing.assert_array_equal(units.sum(1), 2)
    assert chi_square(units.sum(0), np.full(11, 600 * 2 / 11)) < 29.6  # 10 degrees of freedom, p = 0.001


@pytest.mark.parametrize("mean_span", [1.0, 3.0])
@pytest.mark.parametrize("word", [24, 25, 31, 63, 126])
def test_rows_of_long_words_are_masked(word, mean_span):
    """As with a script without spaces: no row of 24 slots is without a mask, whatever the words' lengths."""
    inside, start = np.flatnonzero(~WORD_STARTS[5:])[0] + 5, np.flatnonzero(WORD_STARTS[5:])[0] + 5
    ids = np.full((400, 128), inside, np.int32)
    ids[:, 1::word], ids[:, 0], ids[:, -1] = start, SPECIAL.cls, SPECIAL.sep
    _, weights, _ = choose(ids, (Denoiser(1.0, 0.15, mean_span, "words"),))
    assert weights.shape[1] == 24 and weights.sum(1).min() >= 1
    assert 0.08 < weights.sum() / (400 * 126) < 0.18


def test_rate_of_whole_words():
    """The share of the tokens is that of the words: hardly any row has more tokens than slots."""
    ids = np.random.default_rng(4).integers(5, 256, size=(1500, 128))
    ids[:, 0], ids[:, -1] = SPECIAL.cls, SPECIAL.sep
    _, weights, _ = choose(ids, (Denoiser(1.0, 0.15, 2.0, "words"),))
    assert weights.sum() / (~np.isin(ids, NEVER)).sum() == pytest.approx(0.15, rel=0.02)


def test_rows_of_no_and_of_few_words():
    ids = np.zeros((4, 16), np.int32)
    ids[1, :2] = SPECIAL.cls, SPECIAL.sep
    ids[2, :3] = SPECIAL.cls, 50, SPECIAL.sep
    ids[3, :5] = SPECIAL.cls, 50, 51, 52, SPECIAL.sep
    _, weights, is_masked = choose(ids, MIXTURE[:2])
    assert weights.sum(1).tolist() == [0, 0, 1, 1] and is_masked[2].tolist() == [False, True] + [False] * 14


def test_masks_do_not_depend_on_the_mesh():
    ids = jnp.asarray(long_rows(16, 32))
    prepare = tiny.electra(denoisers=MIXTURE, pieces=PIECES).prepare
    alone = jax.device_get(jax.jit(prepare)(key(5), ids))
    with axis_context(mesh := make_mesh({"data": 4, "fsdp": 2, "tensor": 1})):
        shared = jax.jit(prepare)(key(5), jax.device_put(ids, batch_sharding(mesh)))
    for one, other in zip(jax.tree.leaves(alone), jax.tree.leaves(jax.device_get(shared)), strict=True):
        np.testing.assert_array_equal(one, other)
    assert (jax.device_get(jax.jit(prepare)(key(6), ids)).positions_BP != alone.positions_BP).any()


@pytest.mark.parametrize("name", OBJECTIVES)
def test_objectives_and_their_flops(name):
    """All that mask take a mixture; their heads run on as many positions as the denoiser with the most
    needs."""
    full = full_config(name, denoisers=MIXTURE)
    model = make_pretraining_config(full["model"])
    if name == "electric":
        with pytest.raises(ValueError, match=r"^config\.objective\.denoisers: got .*, expected \(\) with"):
            make_objective(full, model, SPECIAL, PIECES)
        return
    objective = make_objective(full, model, SPECIAL, PIECES)
    batch = jax.eval_shape(objective.prepare, key(), jax.ShapeDtypeStruct((4, 24), jnp.int32))
    num_rows = 2 if name == "prop" else 1  # for each row of text
    assert jax.eval_shape(objective.targets, batch)[0].shape == (4, num_rows * int(0.505 * 24))
    plain = {**full, "objective": full["objective"] | {"denoisers": (), "mask_prob": 0.5}}
    assert forward_flops(full, model) == forward_flops(plain, model) > 0
    words = full["objective"] | {"denoisers": ((1.0, 0.2, 1.0, "words"),)}
    plain["objective"]["mask_prob"] = 0.25  # slots for words, whose number of tokens varies
    assert forward_flops({**full, "objective": words}, model) == pytest.approx(forward_flops(plain, model))
    assert mean_mask_prob(full["objective"]) == pytest.approx((2 * 0.15 + 0.15 + 0.5 + 4 * 0.2) / 8)


def test_the_loss_is_the_mean_over_real_predictions_and_training_lowers_it():
    """Rows have 1 to 12 predictions in 12 slots: nothing in an unused one changes the loss. The text has 11
    of 256 words, which 30 steps learn."""
    objective = tiny.mlm(denoisers=MIXTURE, pieces=PIECES)
    optimizer, ids = optax.adam(0.02), jnp.asarray(rows(16, vocab_size=16))

    @jax.jit
    def step(params, state, batch, key):
        def loss(params):
            return objective.phases[0].loss(params, batch, objective.normalizers(batch), None, None)

        (value, (sums, _)), gradients = jax.value_and_grad(loss, has_aux=True)(params)
        updates, state = optimizer.update(gradients, state)
        following = objective.prepare(key, ids)
        return optax.apply_updates(params, updates), state, following, value, sums

    params = unbox(jax.jit(objective.init, static_argnums=1)(key(), tiny.LENGTH))
    state, batch = optimizer.init(params), jax.jit(objective.prepare)(key(0), ids)
    used = batch.weights_BP > 0
    assert used.shape[1] == 12 and used.sum(1).min() == 1 and used.sum(1).max() > 3
    changed = batch._replace(
        targets_BP=jnp.where(used, batch.targets_BP, 77), positions_BP=jnp.where(used, batch.positions_BP, 9)
    )
    *_, expected, _ = step(params, state, changed, key(1))
    losses = []
    for number in range(30):
        params, state, following, value, sums = step(params, state, batch, key(number + 1))
        assert sums["mlm_weight"] == (batch.weights_BP > 0).sum()
        losses.append(float(value))
        assert losses[-1] == pytest.approx(float(sums["mlm_nll"] / sums["mlm_weight"]), rel=1e-5)
        batch = following
    assert losses[0] == expected
    assert losses[0] > 5 and np.mean(losses[-5:]) < 3
