"""What a chart of several runs shows beside their curves: the loss of counting tokens, and the band of the
recipe's own runs."""

import types

import numpy as np
import pytest

from electra_jax.reports.charts import ChartMaker
from electra_jax.reports.curves import Curve
from electra_jax.reports.page import visible
from electra_jax.reports.panels import Panel
from electra_jax.reports.run_view import read_run

MLM = Panel("MLM", "mlm_loss", "eval/mlm_loss")
GREY = "#808080"


def glyphs_of(run, kind, *changes):
    """The glyphs of a kind in the chart of runs that differ from `run` in these fields."""
    runs = {f"run{number}": run._replace(**one) for number, one in enumerate(changes)}
    chart = ChartMaker(runs, visible).make(MLM)
    return [one for one in chart.figure.renderers if type(one.glyph).__name__ == kind]


def level_of(line):
    return list(line.data_source.data["y"])


@pytest.fixture()
def run(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "mlm_loss": 2.0}\n')
    return read_run(str(tmp_path))


def with_levels(*levels):
    curve = Curve(np.array([10, 20]), np.array([6.0, 5.0]))
    return [
        {
            "curves": {
                "mlm_loss": curve,
                "eval/unigram_cross_entropy": Curve(np.array([20]), np.array([level])),
            }
        }
        for level in levels
    ]


def test_runs_on_one_text_share_a_level_of_counting(run):
    [level] = glyphs_of(run, "HSpan", *with_levels(5.85, 5.85, np.nan))
    assert (level_of(level), level.glyph.line_color) == ([5.85], GREY)


def test_each_run_has_its_own_level_of_counting(run):
    levels = glyphs_of(run, "HSpan", *with_levels(5.85, 3.9))
    assert [level_of(one) for one in levels] == [[5.85], [3.9]]
    lines = glyphs_of(run, "Line", *with_levels(5.85, 3.9))
    assert [one.glyph.line_color for one in levels] == [one.glyph.line_color for one in lines]


@pytest.mark.parametrize(
    ("tokens_per_step", "steps"), [(4096, [100.0, 200.0]), (8192, [50.0, 100.0]), (None, None)]
)
def test_the_band_is_where_a_run_has_as_many_tokens(tokens_per_step, steps, run):
    band = types.SimpleNamespace(tokens=[409_600, 819_200], low=[5.0, 4.0], high=[6.0, 5.0])
    reference = types.SimpleNamespace(
        recipe="configs/debug.py", seeds=[0], differences=[], curves={"mlm_loss": band}
    )
    bands = glyphs_of(run, "VArea", {"reference": reference, "tokens_per_step": tokens_per_step})
    assert [list(one.data_source.data["x"]) for one in bands] == ([] if steps is None else [steps])
