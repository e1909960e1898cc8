"""Results of several seeds: medians, the paired interval against full enumeration and its symmetries, table
and picture."""

import itertools
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib import image
from matplotlib.axes import Axes

from electra_jax.finetuning.results import (
    Interval,
    Result,
    Summary,
    paired_bootstrap,
    plot,
    summarize,
    table,
    to_json,
)

VALUES = {"base": [0.70, 0.74, 0.71, 0.78], "ours": [0.75, 0.76, 0.71, 0.79]}


def results_of(values, metric="accuracy"):
    return [
        Result(model, seed, {metric: value})
        for model, runs in values.items()
        for seed, value in enumerate(runs)
    ]


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
            [Result("a", 0, {"accuracy": 1.0}), Result("a", 1, {"f1": 1.0})],
            "a, seed 1: expected metric accuracy, got f1",
        ),
        (
            [Result("a", 3, {"accuracy": 1.0}), Result("a", 3, {"accuracy": 0.5})],
            "a: expected one .*, got two of seed 3",
        ),
    ],
)
@pytest.mark.parametrize("read", [summarize, lambda results, metric: table(results, [metric])])
def test_results_that_do_not_fit_are_errors(results, message, read):
    with pytest.raises(ValueError, match=message):
        read(results, "accuracy")


@pytest.mark.parametrize("pairs", [3, 5, 6])
def test_interval_is_that_of_all_resamples(pairs):
    one, other = np.random.default_rng(pairs).normal(size=(2, pairs))
    means = sorted(np.mean(chosen) for chosen in itertools.product(one - other, repeat=pairs))
    low, high = np.quantile(means, [0.025, 0.975], method="inverted_cdf")
    got = paired_bootstrap(one, other, samples=100_000)
    assert got.difference == pytest.approx(one.mean() - other.mean())
    tolerance = 0.02 * np.ptp(means)
    assert (got.low, got.high) == (pytest.approx(low, abs=tolerance), pytest.approx(high, abs=tolerance))
    if pairs == 3:  # 1 resample in 27 holds the same pair three times: more than 2.5 %
        assert (got.low, got.high) == (pytest.approx(means[0]), pytest.approx(means[-1]))


def test_pairing_removes_what_seeds_share():
    seeds = np.array([0.1, 0.5, 0.9, 0.3, 0.7])  # differ between each other far more than the models do
    interval = paired_bootstrap(seeds + np.array([0.010, 0.012, 0.008, 0.011, 0.009]), seeds)
    assert 0.008 < interval.low < interval.difference < interval.high < 0.012


PAIRS = st.lists(
    st.tuples(*[st.integers(0, 1000).map(lambda value: value / 1000)] * 2), min_size=3, max_size=9
)


@settings(max_examples=30, deadline=None)
@given(PAIRS)
def test_interval_contains_the_difference_and_swaps_sign_with_the_sides(pairs):
    one, other = zip(*pairs, strict=True)
    interval, swapped = paired_bootstrap(one, other, samples=2000), paired_bootstrap(other, one, samples=2000)
    assert interval.low - 1e-12 <= interval.difference <= interval.high + 1e-12
    assert swapped == pytest.approx((-interval.difference, -interval.high, -interval.low), abs=1e-12)
    assert interval == paired_bootstrap(one, other, samples=2000)


@settings(max_examples=30, deadline=None)
@given(st.data())
def test_order_of_the_pairs_does_not_matter(data):
    differences = data.draw(st.lists(st.integers(-500, 500), min_size=3, max_size=8, unique_by=abs))
    pairs = [(0.5 + difference / 1024, 0.5) for difference in differences]
    interval, permuted = (
        paired_bootstrap(*zip(*order, strict=True), samples=500)
        for order in (pairs, data.draw(st.permutations(pairs)))
    )
    assert permuted == interval


def test_seed_decides_the_resamples():
    one, other = np.random.default_rng(0).normal(size=(2, 8))
    assert paired_bootstrap(one, other, samples=200) != paired_bootstrap(one, other, samples=200, seed=1)


def test_equal_differences_leave_no_doubt_and_two_pairs_no_answer():
    assert paired_bootstrap([0.5] * 4, [0.25] * 4) == Interval(0.25, 0.25, 0.25)
    assert paired_bootstrap([0.5, 0.6], [0.4, 0.5]) is None
    with pytest.raises(ValueError, match="expected pairs, got 3 and 4 values"):
        paired_bootstrap([0.0] * 3, [0.0] * 4)


def test_table_of_one_model():
    results = [
        Result("ours", seed, {"f1": f1, "accuracy": accuracy})
        for seed, f1, accuracy in ((0, 0.8, 0.75), (1, 0.9, 0.5), (2, 0.85, 0.625))
    ]
    assert table(results, ["f1", "accuracy"]) == [
        "| | seeds | f1 | accuracy |",
        "|---|---|---|---|",
        "| ours | 3 | 0.850 (0.800–0.900) | 0.625 (0.500–0.750) |",
    ]


def test_table_compares_with_the_first_model_over_common_seeds():
    # Differences of seeds 1, 2, 3: 0.125, 0.25, 0, mean 0.125; seed 9 has no partner. Of three pairs the
    # interval is the range.
    values = {
        "base": {1: 0.5, 2: 0.25, 3: 0.625, 4: 0.5},
        "ours": {3: 0.625, 1: 0.625, 9: 0.875, 2: 0.5},
        "short": {1: 0.375, 2: 0.5},
    }
    results = [
        Result(model, seed, {"matthews": value})
        for model, runs in values.items()
        for seed, value in runs.items()
    ]
    golden = [
        "| | seeds | matthews | matthews, mean difference to base |",
        "|---|---|---|---|",
        "| base | 4 | 0.500 (0.250–0.625) |  |",
        "| ours | 4 | 0.625 (0.500–0.875) | +0.125 (+0.000 to +0.250) |",
        "| short | 2 | 0.438 (0.375–0.500) | too few seeds |",
    ]
    assert table(results, ["matthews"]) == golden
    by_model = {model: [result for result in results if result.model == model] for model in values}
    assert table([result for model in values for result in reversed(by_model[model])], ["matthews"]) == golden


def test_what_a_model_has_not_is_left_out(tmp_path, monkeypatch):
    places = []
    monkeypatch.setattr(
        Axes, "vlines", lambda self, x, low, high, **style: places.append((x, (low + high) / 2))
    )
    results = [
        *results_of({"base": [0.5] * 3}, "f1"),
        *results_of({"ours": [0.75] * 3}),
        *(Result("both", seed, {"f1": 0.5, "accuracy": 0.25}) for seed in range(3)),
    ]
    assert table(results, ["f1", "accuracy"]) == [
        "| | seeds | f1 | f1, mean difference to base | accuracy | accuracy, mean difference to base |",
        "|---|---|---|---|---|---|",
        "| base | 3 | 0.500 (0.500–0.500) |  | – |  |",
        "| ours | 3 | – | – | 0.750 (0.750–0.750) | – |",
        "| both | 3 | 0.500 (0.500–0.500) | +0.000 (+0.000 to +0.000) | 0.250 (0.250–0.250) | – |",
    ]
    plot(results, ["f1", "accuracy"], tmp_path / "plot.png")
    assert places == [(0.5, 0), (0.5, 2), (0.75, 1), (0.25, 2)]


def test_table_does_not_depend_on_the_order_of_the_results():
    values = {
        "base": [0.5] * 5,
        "ours": [0.625, 0.375, 0.75, 0.25, 0.6],
    }  # differences with opposites among them
    base, ours = (results_of({model: runs}) for model, runs in values.items())
    lines = {tuple(table([*base, *order], ["accuracy"])) for order in itertools.permutations(ours)}
    assert len(lines) == 1


def test_picture_has_a_dot_a_seed_and_a_bar_at_the_median(tmp_path, monkeypatch):
    dots, bars = [], []
    scatter, vlines = Axes.scatter, Axes.vlines
    monkeypatch.setattr(
        Axes, "scatter", lambda self, x, y, **style: dots.append((list(y), x)) or scatter(self, x, y, **style)
    )
    monkeypatch.setattr(
        Axes,
        "vlines",
        lambda self, x, low, high, **style: (
            bars.append((x, low < high)) or vlines(self, x, low, high, **style)
        ),
    )
    path = tmp_path / "plots" / "accuracy.png"
    plot([*results_of(VALUES), Result("late", 7, {"accuracy": 0.5})], ["accuracy"], path)
    picture = image.imread(path)
    assert picture.shape[0] > 300 and np.ptp(picture) > 0.5
    assert [values for _, values in dots] == [*VALUES.values(), [0.5]]
    for line, (y, _) in enumerate(dots):
        assert len(set(y)) == len(y) and np.mean(y) == pytest.approx(line) and np.ptp(y) < 0.5
    assert bars == [(pytest.approx(0.725), True), (pytest.approx(0.755), True), (0.5, True)]


def test_names_of_any_length_fit_the_picture(tmp_path, monkeypatch):
    labels, set_yticks = [], Axes.set_yticks
    monkeypatch.setattr(
        Axes,
        "set_yticks",
        lambda self, places, names: labels.extend(names) or set_yticks(self, places, names),
    )
    names = ["/".join(["a_directory_deep_down"] * 20) + end for end in ("/one", "/other")]
    plot(
        [Result(name, 0, {"f1": 0.5}) for name in names], ["f1"], tmp_path / "f1.png"
    )  # warns where there is no room
    assert image.imread(tmp_path / "f1.png").shape[1] == 9 * 120
    # Their ends, in a few lines, or those of neighbours would lie over each other.
    assert [
        label.endswith(end) and label.count("\n") < 4
        for label, end in zip(labels, ("/one", "/other"), strict=True)
    ] == [True, True]


def test_json_reads_back():
    results = [Result("ours", np.int64(3), {"f1": np.float64(0.5), "accuracy": np.float32(0.25)})]
    text = json.dumps(to_json(results))
    assert text == '[{"model": "ours", "seed": 3, "settings": {}, "metrics": {"f1": 0.5, "accuracy": 0.25}}]'
    assert [Result(**run) for run in json.loads(text)] == results
