"""Results of several seeds: medians, and the paired interval with its coverage and symmetries."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from electra_jax.finetuning.results import (
    Interval,
    Result,
    Summary,
    from_json,
    paired_interval,
    summarize,
    to_json,
)
from electra_jax.finetuning.tables import results_table
from support.results import VALUES, results_of


def test_summary_is_median_lowest_highest_and_count():
    results = [*results_of(VALUES), Result("late", 7, {"accuracy": 0.5})]
    assert summarize(results, "accuracy") == {
        "base": Summary(pytest.approx(0.725), 0.70, 0.78, 4),
        "ours": Summary(pytest.approx(0.755), 0.71, 0.79, 4),
        "late": Summary(0.5, 0.5, 0.5, 1),
    }
    assert list(summarize(results, "accuracy")) == ["base", "ours", "late"]


@pytest.mark.parametrize(
    ("results", "message"),
    [
        ([], "at least one result"),
        ([Result("a", 0, {"f1": 1.0})], "a, seed 0: expected metric accuracy, got f1"),
        (
            [Result("a", 3, {"accuracy": 1.0}), Result("a", 3, {"accuracy": 0.5})],
            "a: expected one .*, got two of seed 3",
        ),
    ],
)
@pytest.mark.parametrize("read", [summarize, lambda results, metric: results_table(results, [metric])])
def test_inconsistent_results_are_errors(results, message, read):
    with pytest.raises(ValueError, match=message):
        read(results, "accuracy")


@pytest.mark.parametrize("pairs", [3, 5, 6])
def test_interval_is_that_of_scipy(pairs):
    one, other = np.random.default_rng(pairs).normal(size=(2, pairs))
    expected = stats.ttest_rel(one, other).confidence_interval(0.95)
    got = paired_interval(one, other)
    assert got.difference == pytest.approx(one.mean() - other.mean())
    assert (got.low, got.high) == (pytest.approx(expected.low), pytest.approx(expected.high))


def test_19_in_20_intervals_of_five_pairs_hold_the_true_difference():
    draws, pairs = 20_000, 5
    differences = np.random.default_rng(0).normal(0.25, 1.0, size=(draws, pairs))
    # Half the width, in standard errors: of one draw, since it is the same for all.
    interval, error = paired_interval(differences[0], np.zeros(pairs)), differences.std(1, ddof=1) / 5**0.5
    factor = (interval.high - interval.difference) / error[0]
    covered = np.abs(differences.mean(1) - 0.25) <= factor * error
    assert 0.94 < covered.mean() < 0.96
    few = [paired_interval(one, np.zeros(pairs)) for one in differences[:100]]
    assert [one.low <= 0.25 <= one.high for one in few] == covered[:100].tolist()


def test_pairing_removes_what_seeds_share():
    seeds = np.array([0.1, 0.5, 0.9, 0.3, 0.7])  # differ far more from each other than the models do
    interval = paired_interval(seeds + np.array([0.010, 0.012, 0.008, 0.011, 0.009]), seeds)
    assert 0.0075 < interval.low < interval.difference < interval.high < 0.0125


PAIRS = st.lists(
    st.tuples(*[st.integers(0, 1000).map(lambda value: value / 1000)] * 2), min_size=3, max_size=9
)


@settings(max_examples=30, deadline=None)
@given(PAIRS)
def test_interval_contains_the_difference_and_swaps_sign_with_the_sides(pairs):
    one, other = zip(*pairs, strict=True)
    interval, swapped = paired_interval(one, other), paired_interval(other, one)
    assert interval.low - 1e-12 <= interval.difference <= interval.high + 1e-12
    assert swapped == pytest.approx((-interval.difference, -interval.high, -interval.low), abs=1e-12)
    assert interval == paired_interval(one, other)


@settings(max_examples=30, deadline=None)
@given(st.data())
def test_order_of_the_pairs_does_not_matter(data):
    differences = data.draw(st.lists(st.integers(-500, 500), min_size=3, max_size=8, unique_by=abs))
    pairs = [(0.5 + difference / 1024, 0.5) for difference in differences]
    interval, permuted = (
        paired_interval(*zip(*order, strict=True)) for order in (pairs, data.draw(st.permutations(pairs)))
    )
    assert permuted == interval


def test_equal_differences_have_an_interval_of_no_width_and_two_pairs_have_none():
    assert paired_interval([0.5] * 4, [0.25] * 4) == Interval(0.25, 0.25, 0.25)
    assert paired_interval([0.5, 0.6], [0.4, 0.5]) is None
    with pytest.raises(ValueError, match="expected pairs, got 3 and 4 values"):
        paired_interval([0.0] * 3, [0.0] * 4)


def test_json_reads_back():
    results = [Result("ours", np.int64(3), {"f1": np.float64(0.5), "accuracy": np.float32(0.25)})]
    assert from_json(json.loads(json.dumps(to_json(results)))) == results
