"""Curves are drawn from metrics.jsonl, with the unigram level, whatever subset of metrics a run has."""

import json
import sys

import numpy as np
import pytest
from matplotlib import image
from matplotlib.axes import Axes

from electra_jax.training.plots import plot_curves


def write_rows(run_dir, rows):
    (run_dir / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_draws_training_and_held_out_curves_and_the_unigram_level(tmp_path, monkeypatch):
    drawn, levels = [], []
    plot, axhline = Axes.plot, Axes.axhline
    monkeypatch.setattr(
        Axes,
        "plot",
        lambda self, x, y, **style: (
            drawn.append((list(x), list(y), style["label"])) or plot(self, x, y, **style)
        ),
    )
    monkeypatch.setattr(
        Axes, "axhline", lambda self, y, **style: levels.append(y) or axhline(self, y, **style)
    )
    write_rows(
        tmp_path,
        [
            {"step": 0, "eval/mlm_loss": 9.0, "eval/rtd_auc": 0.5, "eval/unigram_entropy": 6.5},
            {"step": 1, "mlm_loss": 8.0, "rtd_auc": 0.5},
            {"step": 2, "mlm_loss": None, "rtd_auc": 0.6},
            {"step": 3, "mlm_loss": 6.0, "rtd_auc": 0.7},
            {"step": 3, "eval/mlm_loss": 7.0, "eval/rtd_auc": 0.65, "eval/unigram_entropy": 6.5},
        ],
    )
    path = plot_curves(tmp_path)
    assert path == tmp_path / "plots" / "curves.png"
    picture = image.imread(path)
    assert picture.shape[0] > 300 and picture.shape[1] > 900 and np.ptp(picture) > 0.5
    np.testing.assert_equal(
        drawn,
        [
            ([1, 2, 3], [8.0, float("nan"), 6.0], "training"),
            ([0, 3], [9.0, 7.0], "held out"),
            ([1, 2, 3], [0.5, 0.6, 0.7], "training"),
            ([0, 3], [0.5, 0.65], "held out"),
        ],
    )
    assert levels == [6.5]


def test_a_run_without_evaluation_or_detection_still_has_curves(tmp_path):
    write_rows(tmp_path, [{"step": 1, "mlm_loss": 8.0}])
    assert plot_curves(tmp_path).stat().st_size > 1000


def test_no_rows_is_an_error(tmp_path):
    with pytest.raises(ValueError, match=r"expected metrics.jsonl with at least one row"):
        plot_curves(tmp_path)


def test_missing_matplotlib_names_the_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r"pip install 'electra_jax\[plots\]'"):
        plot_curves(tmp_path)
