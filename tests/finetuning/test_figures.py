"""Figures of results: what a panel shows, and a picture that is written."""

import numpy as np
import pytest
from matplotlib import image

from electra_jax.finetuning.figures import panel_rows, plot, row_label
from electra_jax.finetuning.results import Result
from support.results import VALUES, results_of

LONG_NAMES = ["/".join(["a_directory_deep_down"] * 20) + end for end in ("/one", "/other")]


def test_a_panel_has_a_dot_a_seed_and_the_median():
    rows = panel_rows([*results_of(VALUES), Result("late", 7, {"accuracy": 0.5})], "accuracy")
    assert [row.values for row in rows] == [*VALUES.values(), [0.5]]
    assert [row.median for row in rows] == [pytest.approx(0.725), pytest.approx(0.755), 0.5]
    for place, row in enumerate(rows):
        assert row.row == place and len(set(row.heights)) == len(row.values)
        assert np.mean(row.heights) == pytest.approx(place) and np.ptp(row.heights) < 0.5


def test_a_model_keeps_its_row_in_panels_of_metrics_that_others_do_not_have():
    results = [
        *results_of({"base": [0.5] * 3}, "f1"),
        *results_of({"ours": [0.75] * 3}),
        *(Result("both", seed, {"f1": 0.5, "accuracy": 0.25}) for seed in range(3)),
    ]
    places = lambda metric: [(row.median, row.row) for row in panel_rows(results, metric)]
    assert places("f1") == [(0.5, 0), (0.5, 2)] and places("accuracy") == [(0.75, 1), (0.25, 2)]


def test_a_label_is_the_end_of_a_name_in_a_few_lines():
    for name, end in zip(LONG_NAMES, ("/one", "/other"), strict=True):
        assert row_label(name).endswith(end) and row_label(name).count("\n") < 4
    assert row_label("runs/debug") == "runs/debug"


def test_a_picture_is_written(tmp_path):
    path = tmp_path / "plots" / "accuracy.png"
    plot(results_of(VALUES), ["accuracy"], path)
    picture = image.imread(path)
    assert picture.shape[0] > 300 and np.ptp(picture) > 0.5


def test_names_of_any_length_fit_the_picture(tmp_path):
    results = [Result(name, 0, {"f1": 0.5}) for name in LONG_NAMES]
    plot(results, ["f1"], tmp_path / "f1.png")  # matplotlib would warn of too little room
    assert image.imread(tmp_path / "f1.png").shape[1] == 9 * 120


def test_names_of_any_characters_are_drawn(tmp_path):
    names = ["runs/$x_{$", "a$b$c", "caf\udce9", "[1] 100% 'q'"]
    assert row_label("a$b$c") == r"a\$b\$c" and row_label("caf\udce9") == "caf\ufffd"
    plot([Result(name, 0, {"f1": 0.5}) for name in names], ["f1"], tmp_path / "f1.png")
    assert (tmp_path / "f1.png").stat().st_size > 1000
