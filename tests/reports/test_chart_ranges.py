"""Which values of its curves a chart shows, and what the page says of the others."""

import re

import numpy as np
import pytest

from electra_jax.reports.charts import ChartMaker
from electra_jax.reports.curves import Curve
from electra_jax.reports.page import Page, render, visible
from electra_jax.reports.panels import Panel
from electra_jax.reports.run_view import read_run
from electra_jax.reports.token_views import NOTHING

BULK = 2 + np.arange(10_000) % 100 / 100  # 2 to 2.99


def runs_of(tmp_path, *curves):
    """Runs with these values of `loss`."""
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "loss": 2.0}\n')
    run = read_run(str(tmp_path))
    return {
        f"run{number}": run._replace(curves={"loss": Curve(np.arange(1, len(values) + 1), values)})
        for number, values in enumerate(curves)
    }


def make_chart(tmp_path, *curves):
    return ChartMaker(runs_of(tmp_path, *curves), visible).make(Panel("Loss", "loss", ""))


def has_own_range(chart):
    """Whether the chart leaves the range to Bokeh, which shows all values."""
    return type(chart.figure.y_range).__name__ == "DataRange1d"


def test_spikes_leave_the_chart_and_each_of_their_rows_is_counted(tmp_path):
    values = BULK.copy()
    values[500:507] = range(50, 57)  # neighbours, of which a thinned curve has two
    values[5000] = -40
    values[6000] = np.nan
    chart = make_chart(tmp_path, values)
    assert chart.outside == "Outside the chart, of 9,999 values: 7 above (50 to 56), 1 below (-40)"
    pad = 0.05 * 0.99
    assert np.allclose([chart.figure.y_range.start, chart.figure.y_range.end], [2 - pad, 2.99 + pad])


@pytest.mark.parametrize("share", [0.0001, 0.005, 0.015])
@pytest.mark.parametrize("newest", [25.0, -25.0])
@pytest.mark.parametrize("gap", [0, 30])
def test_a_run_that_diverged_at_its_end_is_shown_there(share, newest, gap, tmp_path):
    values = BULK.copy()
    values[500] = 1e4
    values[-round(10_000 * share) - gap :] = newest
    values[len(values) - gap :] = np.nan
    chart = make_chart(tmp_path, values, BULK)
    assert chart.outside == f"Outside the chart, of {20_000 - gap:,} values: 1 above (1e+04)"
    assert chart.figure.y_range.start < min(newest, 2) and chart.figure.y_range.end > max(newest, 2.99)


@pytest.mark.parametrize("warmup", [3, 60, 100, 900])
def test_nothing_is_an_outlier_of_one_value(warmup, tmp_path):
    chart = make_chart(tmp_path, 5e-4 * np.minimum(1, np.arange(1, 10_001) / warmup))
    assert has_own_range(chart) and chart.outside == ""


def test_numbers_that_overflow_are_all_shown(tmp_path):
    chart = make_chart(tmp_path, 1e308 * (-1.0) ** np.arange(100))
    assert has_own_range(chart) and chart.outside == ""


def test_the_remark_stands_visibly_below_the_title(tmp_path):
    values = BULK.copy()
    values[500] = 50
    runs = runs_of(tmp_path, values)
    html = render(Page(runs, {name: NOTHING for name in runs}))
    [caption] = re.findall("<figcaption>(.*?)</figcaption>", html, re.DOTALL)
    title, _, remark = re.sub('<span class="hidden">.*?</span>', "", caption).partition("\n")
    assert title == "Loss that is minimised"
    assert remark.strip() == '<span class="outside">Outside the chart, of 10,000 values: 1 above (50)</span>'
    rules = re.findall(r"\.outside \{(.*?)\}", html)
    assert rules and not any("hidden" in rule or "none" in rule for rule in rules)
