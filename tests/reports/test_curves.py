"""Curves of metrics: what is read, and what is left of a long run."""

import json
import math

import numpy as np

from electra_jax.reports.curves import MAX_POINTS, Curve, evenly, read_curves, thin
from electra_jax.reports.rows import MAX_LINE, RowFile, number


def write(path, lines):
    path.write_bytes(b"\n".join(line if isinstance(line, bytes) else line.encode() for line in lines))
    return RowFile(path)


def test_curves_have_all_values_of_their_metric(tmp_path):
    rows = [
        {"step": 2, "loss": 3.0, "rtd_precision": None},
        {"step": 2, "eval/loss": 2.5},
        {"step": 4, "loss": 2.0, "rtd_precision": 0.5},
    ]
    file = write(tmp_path / "metrics.jsonl", [*map(json.dumps, rows), ""])
    curves = read_curves(file)
    assert {name: curve.steps.tolist() for name, curve in curves.items()} == {
        "loss": [2, 4],
        "rtd_precision": [2, 4],
        "eval/loss": [2],
    }
    assert curves["loss"].values.tolist() == [3.0, 2.0] and curves["loss"].last() == 2.0
    assert math.isnan(curves["rtd_precision"].values[0])
    assert file.problem() == ""


def test_a_repeated_step_has_its_last_value_and_steps_increase(tmp_path):
    lines = ['{"step": 8, "loss": 1}', '{"step": 4, "loss": 2}', '{"step": 8, "loss": 3}', ""]
    curve = read_curves(write(tmp_path / "metrics.jsonl", lines))["loss"]
    assert (curve.steps.tolist(), curve.values.tolist()) == ([4, 8], [2.0, 3.0])


def test_what_cannot_be_read_is_counted_and_left_out(tmp_path):
    damaged = [
        "{",
        "[1]",
        '{"step": "x", "loss": 1}',
        '{"step": -1, "loss": 1}',
        '{"step": 1.5, "loss": 1}',
        '{"step": true, "loss": 1}',
        '{"step": NaN, "loss": 1}',
        '{"loss": 1}',
        b"\xff\xfe{}",
        "[" * 100_000,
        "x" * (2 * MAX_LINE + 5),
    ]
    good = [
        '{"step": 1, "loss": 1, "name": "x", "list": [1], "yes": 1e999}',
        '{"step": 2, "loss": ' + "9" * 400 + "}",
    ]
    file = write(tmp_path / "metrics.jsonl", [good[0], *damaged, good[1], ""])
    curves = read_curves(file)
    assert curves["loss"].steps.tolist() == [1, 2] and curves["loss"].last() is None
    assert set(curves) == {"loss", "yes"} and curves["yes"].last() is None
    assert file.problem() == f"metrics.jsonl: {len(damaged)} lines could not be read."


def test_an_incomplete_last_line_is_no_damage(tmp_path):
    file = write(tmp_path / "metrics.jsonl", ['{"step": 1, "loss": 1}', '{"step": 2, "lo'])
    assert len(list(file)) == 1 and file.problem() == ""
    whole = write(tmp_path / "metrics.jsonl", ['{"step": 1, "loss": 1}', '{"step": 2, "loss": 1}'])
    assert len(list(whole)) == 2


def test_a_missing_file_is_a_problem(tmp_path):
    file = RowFile(tmp_path / "metrics.jsonl")
    assert list(file) == [] and file.problem() == "metrics.jsonl is missing."
    (tmp_path / "metrics.jsonl").mkdir()
    assert list(file) == [] and file.problem() == "metrics.jsonl could not be read: Is a directory."


def test_only_finite_numbers_are_numbers():
    assert [number(value) for value in (1, 2.5)] == [1.0, 2.5]
    assert all(math.isnan(number(value)) for value in (True, None, "1", [], math.inf, math.nan, 10**400))


def test_a_thinned_curve_keeps_peaks_ends_and_gaps():
    values = np.sin(np.arange(1_000_000) / 50_000.0)
    values[123_456], values[777_777], values[500_000:500_003] = 9.0, -9.0, np.nan
    thinned = thin(Curve(np.arange(1_000_000), values))
    assert MAX_POINTS // 3 < len(thinned.steps) <= MAX_POINTS
    assert (np.diff(thinned.steps) > 0).all()
    assert thinned.steps[[0, -1]].tolist() == [0, 999_999]
    assert {123_456, 777_777} <= set(thinned.steps.tolist())
    assert (np.nanmin(thinned.values), np.nanmax(thinned.values)) == (-9.0, 9.0)
    assert np.isnan(thinned.values).sum() == 1
    np.testing.assert_array_equal(thinned.values, values[thinned.steps])


def test_a_short_curve_stays_and_one_without_numbers_is_thinned():
    short = Curve(np.arange(MAX_POINTS), np.zeros(MAX_POINTS))
    assert thin(short) is short
    nothing = thin(Curve(np.arange(5_000), np.full(5_000, np.nan)))
    assert 2 <= len(nothing.steps) <= MAX_POINTS


def test_items_are_chosen_evenly_with_both_ends():
    assert evenly(list(range(10)), 4) == [0, 3, 6, 9]
    assert evenly([1, 2], 4) == [1, 2] and evenly([1, 2, 3], 1) == [3] and evenly([], 3) == []
