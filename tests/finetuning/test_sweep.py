"""Sweeps: which combinations are tried, and which is best."""

import itertools

import pytest

from electra_jax.finetuning.results import Result
from electra_jax.finetuning.sweep import (
    apply_settings,
    best_settings,
    by_setting,
    format_settings,
    parse_sweep,
)
from electra_jax.finetuning.tables import results_table

CONFIG = {
    "optimizer": {"learning_rate": 1e-4, "schedule": "linear"},
    "train": {"num_epochs": 3, "batch_size": 32},
    "model": {"head": "published"},
    "task": {"max_length": 128},
}


def test_every_combination_is_tried_once():
    sweep = parse_sweep(["optimizer.learning_rate=1e-4,3e-4,1", "train.num_epochs=3,10"], CONFIG)
    assert [tuple(one.values()) for one in sweep] == list(itertools.product((1e-4, 3e-4, 1.0), (3, 10)))
    assert all(list(one) == ["optimizer.learning_rate", "train.num_epochs"] for one in sweep)
    assert parse_sweep([], CONFIG) == [{}]
    assert parse_sweep(["model.head=transformers"], CONFIG) == [{"model.head": "transformers"}]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["optimizer.rate=1"],
            r"got the key 'optimizer\.rate', expected one of model\.head, optimizer\.learning_rate, ",
        ),
        (["task.max_length=3"], r"got the key 'task\.max_length'"),
        (["train.num_epochs=1.5"], r"got '1\.5', expected int as in the default 3"),
        (["train.num_epochs=True"], "got 'True', expected int"),
        (["optimizer.learning_rate=fast"], "got 'fast', expected float"),
        (["train.num_epochs=3,3"], "expected one or more different values"),
        (["train.num_epochs="], "expected one or more different values"),
        (["train.num_epochs=3", "train.num_epochs=4"], r"train\.num_epochs is given twice"),
    ],
)
def test_wrong_sweeps_are_errors(words, message):
    with pytest.raises(ValueError, match=message):
        parse_sweep(words, CONFIG)


def test_settings_replace_values_and_leave_the_rest():
    changed = apply_settings(CONFIG, {"optimizer.learning_rate": 1.0, "train.num_epochs": 5})
    assert (
        changed["optimizer"] == {"learning_rate": 1.0, "schedule": "linear"}
        and changed["train"]["num_epochs"] == 5
    )
    assert CONFIG["optimizer"]["learning_rate"] == 1e-4 and apply_settings(CONFIG, {}) == CONFIG
    words = format_settings({"optimizer.learning_rate": 1e-4, "train.num_epochs": 3})
    assert words == "learning_rate=0.0001 num_epochs=3"


def results_of(model, values):
    return [
        Result(model, seed, {"f1": value}, {"train.num_epochs": epochs})
        for epochs, row in values.items()
        for seed, value in enumerate(row)
    ]


def test_each_model_gets_the_setting_with_its_best_median():
    one, other = (
        results_of("a", {3: (0.1, 0.5, 0.9), 10: (0.6, 0.6, 0.0)}),
        results_of("b", {3: (0.2,) * 3, 10: (0.2,) * 3}),
    )
    best = best_settings([*one, *other], "f1")
    assert best == [*one[3:], *other[:3]]  # the higher median, not the highest run; the earlier one of equals
    lines = results_table(by_setting([*one, *other]), ["f1"], with_differences=False)
    assert lines[0] == "| | seeds | f1 |" and lines[2:] == [
        "| a num_epochs=3 | 3 | 0.500 (0.100–0.900) |",
        "| a num_epochs=10 | 3 | 0.600 (0.000–0.600) |",
        "| b num_epochs=3 | 3 | 0.200 (0.200–0.200) |",
        "| b num_epochs=10 | 3 | 0.200 (0.200–0.200) |",
    ]


def test_settings_with_results_from_all_seeds_come_first():
    results = results_of("a", {3: (0.9, 0.9), 10: (0.2, 0.2, 0.2), 20: (0.3, 0.3, 0.3), 30: (0.8,)})
    assert best_settings(results, "f1") == results[5:8]
    assert best_settings(results[:2] + results[8:], "f1") == results[:2]
