"""Tables of results: medians, differences to the first model, and columns that state what they hold."""

import itertools

from electra_jax.finetuning.results import Result
from electra_jax.finetuning.tables import results_table
from support.results import results_of


def test_table_of_one_model():
    results = [
        Result("ours", seed, {"f1": f1, "accuracy": accuracy})
        for seed, f1, accuracy in ((0, 0.8, 0.75), (1, 0.9, 0.5), (2, 0.85, 0.625))
    ]
    assert results_table(results, ["f1", "accuracy"]) == [
        "| | seeds | f1 | accuracy |",
        "|---|---|---|---|",
        "| ours | 3 | 0.850 (0.800–0.900) | 0.625 (0.500–0.750) |",
    ]


def test_table_compares_with_the_first_model_over_common_seeds():
    # Differences of seeds 1, 2, 3: 0.125, 0.25, 0, mean 0.125; seed 9 has no partner.
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
        "| | seeds | matthews | matthews, mean difference to base (lowest–highest difference) |",
        "|---|---|---|---|",
        "| base | 4 | 0.500 (0.250–0.625) |  |",
        "| ours | 4 | 0.625 (0.500–0.875) | +0.125 (+0.000 to +0.250) |",
        "| short | 2 | 0.438 (0.375–0.500) | too few seeds |",
    ]
    assert results_table(results, ["matthews"]) == golden
    by_model = {model: [result for result in results if result.model == model] for model in values}
    assert (
        results_table([result for model in values for result in reversed(by_model[model])], ["matthews"])
        == golden
    )


def test_a_model_that_lacks_a_metric_from_some_seeds_has_no_median_of_the_others():
    results = results_of({"base": [0.5] * 3, "ours": [0.75] * 3})
    results[4] = Result("ours", 1, {})  # it diverged
    expected = ["| base | 3 | 0.500 (0.500–0.500) |  |", "| ours | 3 | – (2 of 3 seeds) | – |"]
    assert results_table(results, ["accuracy"])[2:] == expected
    none_is_whole = results_table(results[3:], ["accuracy"])
    assert none_is_whole[2:] == ["| ours | 3 | – (2 of 3 seeds) |"]


def test_a_metric_that_a_model_does_not_have_is_a_dash():
    results = [
        *results_of({"base": [0.5] * 3}, "f1"),
        *results_of({"ours": [0.75] * 3}),
        *(Result("both", seed, {"f1": 0.5, "accuracy": 0.25}) for seed in range(3)),
    ]
    assert results_table(results, ["f1", "accuracy"]) == [
        "| | seeds | f1 | f1, mean difference to base (lowest–highest difference) | accuracy | "
        "accuracy, mean difference to base |",
        "|---|---|---|---|---|---|",
        "| base | 3 | 0.500 (0.500–0.500) |  | – |  |",
        "| ours | 3 | – | – | 0.750 (0.750–0.750) | – |",
        "| both | 3 | 0.500 (0.500–0.500) | +0.000 (+0.000 to +0.000) | 0.250 (0.250–0.250) | – |",
    ]


def test_table_does_not_depend_on_the_order_of_the_results():
    values = {
        "base": [0.5] * 5,
        "ours": [0.625, 0.375, 0.75, 0.25, 0.6],
    }  # differences with opposites among them
    base, ours = (results_of({model: runs}) for model, runs in values.items())
    lines = {tuple(results_table([*base, *order], ["accuracy"])) for order in itertools.permutations(ours)}
    assert len(lines) == 1


def test_an_interval_of_few_pairs_is_named_a_range():
    four, five = [0.0, 0.125, 0.25, 0.375], [0.0, 0.125, 0.25, 0.375, 0.5]

    def difference(**values):
        header, _, *rows = results_table(results_of({"base": [0.0] * 5, **values}, "f1"), ["f1"])
        title = header.removesuffix(" |").split(" | ")[-1].removeprefix("f1, mean difference to base")
        return title, [row.removesuffix(" |").split(" | ")[-1] for row in rows[1:]]

    assert difference(ours=four) == (" (lowest–highest difference)", ["+0.188 (+0.000 to +0.375)"])
    title, [cell] = difference(ours=five)
    low, high = map(float, cell.split("(")[1].removesuffix(")").split(" to "))
    assert title == " (95 % t interval)"
    assert (low, high) == (0.005, 0.495)  # 0.25 ± 2.776 · 0.1976 / √5
    title, cells = difference(four=four, five=five)
    assert title == " (95 % t interval; with fewer than 5 seeds lowest–highest difference)"
    assert cells == ["+0.188 (+0.000 to +0.375)", cell]
    assert difference(two=four[:2]) == ("", ["too few seeds"])
