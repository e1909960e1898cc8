"""MCL's courses against their definitions, on rows of several documents."""

import collections
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from electra_jax.models.course_model import unstack
from electra_jax.models.inputs import derive_inputs
from electra_jax.objectives.corruption import chosen_positions
from electra_jax.objectives.course_losses import Courses
from electra_jax.objectives.course_weights import active_courses
from electra_jax.objectives.courses import (
    confusion_table,
    correct_generator,
    insert_tokens,
    stack,
    swap_tokens,
)
from support.tiny import SPECIAL, key, mcl, mcl_arguments

LENGTH, NUM_ROWS = 40, 4
SEEDS = st.integers(0, 2**20)
SPECIAL_IDS = [SPECIAL.pad, SPECIAL.cls, SPECIAL.sep, SPECIAL.mask]


def documents(seed, num_rows=NUM_ROWS, length=LENGTH, longest=9):
    """Rows of three documents, some of them cut off at the end of the row; ordinary ids are 5 … 99."""
    source = np.random.default_rng(seed)
    out = np.zeros((num_rows, length), np.int32)
    for row in out:
        ids = []
        for _ in range(3):
            ids += [SPECIAL.cls, *source.integers(5, 100, source.integers(1, longest)), SPECIAL.sep]
            ids += [*source.integers(5, 100, source.integers(1, longest)), SPECIAL.sep]
        row[: len(ids)] = ids[:length]
    return out


@functools.partial(jax.jit, static_argnames=("prob", "permutation"))
def swapped(seed, ids, prob=0.3, permutation="uniform"):
    return swap_tokens(key(seed), ids, SPECIAL, swap_prob=prob, permutation=permutation, type_vocab_size=2)


@functools.partial(jax.jit, static_argnames="prob")
def lengthened(seed, ids, prob=0.3):
    return insert_tokens(key(seed), ids, SPECIAL, insert_prob=prob, type_vocab_size=2)


@given(SEEDS, SEEDS, st.sampled_from(["uniform", "cyclic"]))
@settings(max_examples=40, deadline=None)
def test_swapping_keeps_the_tokens_of_each_document_and_all_other_positions(seed, noise, permutation):
    ids = documents(seed)
    batch = jax.device_get(swapped(noise, ids, permutation=permutation))
    segments = np.asarray(derive_inputs(jnp.asarray(ids), SPECIAL, 2).segments_BL)
    for row, (old, new) in enumerate(zip(ids, batch.masked_ids_BL, strict=True)):
        chosen = batch.positions_BP[row][batch.weights_BP[row] > 0]
        assert len(set(chosen)) == len(chosen) > 0 and not set(old[chosen]) & set(SPECIAL_IDS)
        rest = np.setdiff1d(np.arange(LENGTH), chosen)
        np.testing.assert_array_equal(new[rest], old[rest])
        for document in set(segments[row, chosen]):
            places = chosen[segments[row, chosen] == document]
            assert collections.Counter(new[places]) == collections.Counter(old[places])
        np.testing.assert_array_equal(batch.targets_BP[row][batch.weights_BP[row] > 0], old[chosen])


def orders(permutation):
    """Number of times that each order of a document's three tokens occurs."""
    ids = np.tile(np.asarray([SPECIAL.cls, 10, 20, 30, SPECIAL.sep, 0, 0, 0], np.int32), (6_000, 1))
    batch = jax.device_get(swapped(0, ids, prob=0.6, permutation=permutation))
    assert (batch.weights_BP.sum(1) == 3).all()
    return collections.Counter(map(tuple, batch.masked_ids_BL[:, 1:4].tolist()))


def test_permutations_and_cycles_are_uniform():
    uniform, cyclic = orders("uniform"), orders("cyclic")
    assert (
        len(uniform) == 6 and max(abs(count - 1_000) for count in uniform.values()) < 145
    )  # five standard deviations
    assert set(cyclic) == {(20, 30, 10), (30, 10, 20)} and abs(cyclic[20, 30, 10] - 3_000) < 195


@given(SEEDS, SEEDS)
@settings(max_examples=40, deadline=None)
def test_removing_the_insertions_gives_the_original_row(seed, noise):
    ids = documents(seed)
    batch = jax.device_get(lengthened(noise, ids))
    is_inserted = np.asarray(chosen_positions(batch.positions_BP, batch.weights_BP, LENGTH))
    for row, (old, new) in enumerate(zip(ids, batch.ids_BL, strict=True)):
        assert (new[is_inserted[row]] == SPECIAL.mask).all() and SPECIAL.mask not in new[~is_inserted[row]]
        kept = new[~is_inserted[row]]
        np.testing.assert_array_equal(kept, old[: len(kept)])  # the end of the row is dropped
        followers = new[np.minimum(np.flatnonzero(is_inserted[row]) + 1, LENGTH - 1)]
        is_inside = np.flatnonzero(is_inserted[row]) < LENGTH - 1
        assert not set(followers[is_inside]) & {SPECIAL.pad, SPECIAL.cls, SPECIAL.sep}
        num_tokens, num_candidates = (old != 0).sum(), (~np.isin(old, SPECIAL_IDS)).sum()
        expected = min(np.round(num_tokens * 0.3), num_candidates, int(0.305 * LENGTH))
        if num_tokens + expected <= LENGTH:
            assert is_inserted[row].sum() == expected and (new != 0).sum() == num_tokens + expected
        else:
            assert 0 < is_inserted[row].sum() <= expected and (new != 0).all()
    np.testing.assert_array_equal(batch.masked_ids_BL, batch.ids_BL)
    jax.tree.map(
        np.testing.assert_array_equal, batch.inputs, jax.device_get(derive_inputs(batch.ids_BL, SPECIAL, 2))
    )


@given(SEEDS, SEEDS)
@settings(max_examples=40, deadline=None)
def test_the_confusion_table_and_corrections_that_keep_the_found_tokens_alone(seed, noise):
    ids = documents(seed)
    batch = jax.device_get(swapped(noise, ids))
    source = np.random.default_rng(noise)
    chosen = np.asarray(chosen_positions(batch.positions_BP, batch.weights_BP, LENGTH))
    is_replaced = chosen & (source.random(ids.shape) < 0.7)
    logits = source.normal(size=ids.shape)
    table = jax.device_get(
        confusion_table(jnp.asarray(logits), jnp.asarray(is_replaced), jnp.asarray(ids), SPECIAL)
    )
    ordinary = ~np.isin(ids, SPECIAL_IDS)
    for mine, (replaced, accused) in zip(table, [(True, False), (False, True), (True, True)], strict=True):
        np.testing.assert_array_equal(mine, (is_replaced == replaced) & ((logits > 0) == accused) & ordinary)

    lesson = jax.device_get(correct_generator(batch, table, SPECIAL.mask))
    np.testing.assert_array_equal(lesson.masked_ids_BL, np.where(table.found, SPECIAL.mask, ids))
    np.testing.assert_array_equal(
        np.asarray(chosen_positions(lesson.positions_BP, lesson.weights_BP, LENGTH)), table.found
    )
    lesson = jax.device_get(correct_generator(batch, table, batch.masked_ids_BL))
    np.testing.assert_array_equal(lesson.masked_ids_BL, np.where(table.found, batch.masked_ids_BL, ids))


def test_unstacking_returns_the_courses_and_rows_stay_together():
    ids = documents(0)
    first, second = swapped(1, ids), lengthened(2, ids, prob=0.1)
    stacked = stack([first, second])
    assert stacked.ids_BL.shape == (2 * NUM_ROWS, LENGTH)
    np.testing.assert_array_equal(stacked.ids_BL[0::2], first.ids_BL)
    slots = second.positions_BP.shape[1]
    assert first.positions_BP.shape[1] > slots
    np.testing.assert_array_equal(stacked.inputs.rows_B, np.arange(2 * NUM_ROWS))  # each has its own dropout
    stacked, second = (
        batch._replace(inputs=batch.inputs._replace(rows_B=jnp.zeros((len(batch.ids_BL), 1))))
        for batch in (stacked, second)
    )
    for mine, theirs in zip(jax.tree.leaves(stacked), jax.tree.leaves(second), strict=True):
        np.testing.assert_array_equal(unstack(mine, 2)[1][:, : theirs.shape[1]], theirs)
    assert not unstack(stacked.weights_BP, 2)[1][:, slots:].any()


class Recorded(Courses):
    """Records the inputs of both encoders; their outputs are made up."""

    def detect(self, params, courses, ids, dropout_key, name):
        params[name] = dict(ids)
        return {
            course: jax.random.normal(key(7 + index), ids[course].shape) for index, course in enumerate(ids)
        }

    def predict(self, params, courses, dropout_key, name):
        params[name] = list(courses)
        return [Predictions(course.positions_BP) for course in courses]


class Predictions:
    """Every loss is 1, and every drawn token differs from the original."""

    def __init__(self, positions_BP):
        self.nll_BP = self.is_correct_BP = self.entropy_BP = jnp.ones(positions_BP.shape)
        self.samples_BP = jnp.full(positions_BP.shape, 101)


@pytest.mark.parametrize("normalizer", ["selected", "all"])
def test_corrections_ask_for_the_originals_and_have_their_weights(normalizer):
    weights = {"re_rtd_weight": 2.0, "re_std_weight": 0.0, "re_slm_weight": 3.0}
    courses, seen = Recorded(*mcl_arguments(correction_normalizer=normalizer, **weights)), {}
    batch = courses.prepare(key(0), jnp.asarray(documents(5)))
    total, (sums, _) = courses.loss(seen, batch, courses.normalizers(batch), None, None)
    corrupted, again = seen["discriminate"], seen["rediscriminate"]
    assert list(corrupted) == ["rtd", "std", "itd"] and list(again) == ["rtd"]
    logits = {
        name: np.asarray(jax.random.normal(key(7 + index), corrupted[name].shape))
        for index, name in enumerate(corrupted)
    }
    ids = np.asarray(batch.masked.ids_BL)
    replaced = {name: np.asarray(corrupted[name]) != ids for name in ("rtd", "std")}
    found = {name: replaced[name] & (logits[name] > 0) for name in replaced}
    np.testing.assert_array_equal(again["rtd"], np.where(found["rtd"], ids, corrupted["rtd"]))
    masked, swapped_again = seen["regenerate"]
    np.testing.assert_array_equal(masked.masked_ids_BL, np.where(found["rtd"], SPECIAL.mask, ids))
    np.testing.assert_array_equal(
        swapped_again.masked_ids_BL, np.where(found["std"], batch.swapped.masked_ids_BL, ids)
    )

    ordinary = ~np.isin(ids, SPECIAL_IDS)
    mistaken = ordinary & ((logits["rtd"] > 0) != replaced["rtd"])
    second = np.asarray(jax.random.normal(key(7), ids.shape))
    bce = np.logaddexp(0, second) - second * replaced["rtd"]
    mean = {  # re-MLM, re-SLM, whose losses are all 1, and re-RTD
        "selected": [
            found["rtd"].any(1).mean(),
            found["std"].any(1).mean(),
            np.ma.average(bce, 1, mistaken).filled(0).mean(),
        ],
        "all": [
            found["rtd"].sum() / batch.masked.weights_BP.sum(),
            found["std"].sum() / batch.swapped.weights_BP.sum(),
            (bce * mistaken).sum() / (ids != 0).sum(),
        ],
    }[normalizer]
    without = Recorded(
        *mcl_arguments(re_mlm_weight=0.0, re_rtd_weight=0.0, re_std_weight=0.0, re_slm_weight=0.0)
    )
    base, _ = without.loss({}, batch, without.normalizers(batch), None, None)
    np.testing.assert_allclose(total - base, mean[0] + 3.0 * mean[1] + 2.0 * mean[2], rtol=1e-4)
    assert (
        float(sums["re_rtd_weight"]) == mistaken.sum() and float(sums["re_slm_weight"]) == found["std"].sum()
    )


@pytest.mark.parametrize("normalizer", ["selected", "all"])
def test_nothing_selected_gives_no_loss_and_microbatches_add_up(normalizer):
    courses = Courses(*mcl_arguments(correction_normalizer=normalizer))
    normalizers = {"rows": 4.0, "rtd": 50.0}
    losses = jax.random.uniform(key(0), (4, 6))
    average = lambda losses, weights: float(courses.average(losses, weights, normalizers, "rtd")[0])
    assert average(losses, jnp.zeros((4, 6))) == 0.0
    weights = (losses > 0.5).astype(jnp.float32).at[1].set(0.0)
    assert average(losses, weights) == pytest.approx(
        sum(average(losses[i : i + 2], weights[i : i + 2]) for i in (0, 2))
    )


@pytest.mark.parametrize(
    "weights, expected",
    [
        ({}, (("rtd",), (), ())),
        ({"itd": 1}, (("rtd", "itd"), (), ())),
        ({"slm": 1}, (("rtd", "std"), (), ())),
        ({"re_std": 1}, (("rtd", "std"), (), ("std",))),
        ({"re_mlm": 1, "re_rtd": 1}, (("rtd",), ("rtd",), ("rtd",))),
        ({"re_slm": 1}, (("rtd", "std"), ("std",), ())),
    ],
)
def test_a_course_without_weight_is_not_computed(weights, expected):
    names = ("slm", "std", "itd", "re_mlm", "re_slm", "re_rtd", "re_std")
    assert active_courses({f"{name}_weight": weights.get(name, 0.0) for name in names}) == expected


@pytest.mark.parametrize("key_name", ["swap_permutation", "correction_normalizer"])
def test_an_unknown_choice_is_named(key_name):
    with pytest.raises(ValueError, match=rf"config\.objective\.{key_name}: got 'other', expected one of"):
        mcl(**{key_name: "other"})
