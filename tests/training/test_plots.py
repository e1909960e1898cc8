"""Curves are made from metrics.jsonl, with the unigram level, whatever subset of metrics a run has."""

import json

import numpy as np
import pytest
from matplotlib import image

from electra_jax.training.plots import make_panels, plot_curves

ROWS = [
    {"step": 0, "eval/mlm_loss": 9.0, "eval/rtd_auc": 0.5, "eval/unigram_cross_entropy": 6.0},
    {"step": 1, "mlm_loss": 8.0, "rtd_auc": 0.5},
    {"step": 2, "mlm_loss": None, "rtd_auc": 0.6},
    {"step": 3, "mlm_loss": 6.0, "rtd_auc": 0.7},
    {"step": 3, "eval/mlm_loss": 7.0, "eval/rtd_auc": 0.65, "eval/unigram_cross_entropy": 6.5},
    {"step": 4, "eval/unigram_cross_entropy": None},
]


def data_of(panels):
    """Title → (label, steps, values) of the curves."""
    return {panel.title: [curve[:3] for curve in panel.curves] for panel in panels}


def test_training_and_held_out_curves_and_the_unigram_level():
    loss, auc = panels = make_panels(ROWS)
    np.testing.assert_equal(
        data_of(panels),
        {
            "masked language modelling loss (nats)": [
                ("training", [1, 2, 3], [8.0, float("nan"), 6.0]),
                ("held out", [0, 3], [9.0, 7.0]),
            ],
            "replaced token detection AUC": [
                ("training", [1, 2, 3], [0.5, 0.6, 0.7]),
                ("held out", [0, 3], [0.5, 0.65]),
            ],
        },
    )
    assert (loss.level, auc.level) == (6.5, None)


def test_probes_have_a_panel():
    rows = [*ROWS, {"step": 3, "probe/frozen_accuracy": 0.75, "probe/finetuned_accuracy": None}]
    *_, probes = make_panels(rows)
    np.testing.assert_equal(
        data_of([probes]),
        {"probes": [("finetuned_accuracy", [3], [float("nan")]), ("frozen_accuracy", [3], [0.75])]},
    )


def test_a_run_without_evaluation_or_detection_still_has_curves():
    loss, auc = make_panels([{"step": 1, "mlm_loss": 8.0}])
    assert [curve.label for curve in loss.curves] == ["training"] and loss.level is None and auc.curves == []


@pytest.mark.parametrize("rows", [ROWS, [{"step": 1, "mlm_loss": 8.0}]])
def test_the_picture_is_drawn(rows, tmp_path):
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    path = plot_curves(tmp_path)
    assert path == tmp_path / "plots" / "curves.png"
    picture = image.imread(path)
    assert picture.shape[0] > 300 and picture.shape[1] > 900 and np.ptp(picture) > 0.5


def test_no_rows_is_an_error(tmp_path):
    with pytest.raises(ValueError, match=r"expected metrics.jsonl with at least one row"):
        plot_curves(tmp_path)
