"""Rows of metrics survive crashes and resumption, and no step appears twice; progress on a terminal and in a
log file."""

import io
import json
import math
import sys

import numpy as np
import pytest

from data_pipelines import progress
from electra_jax.training import writers
from electra_jax.training.writers import MetricWriters, read_metrics


def open_writers(run_dir, **options):
    defaults = {"progress": False, "total_steps": 100, "start_step": 0}
    return MetricWriters(run_dir, **defaults | options)


def test_one_object_a_line_flushed_with_the_row(tmp_path):
    with open_writers(tmp_path / "new" / "run") as metrics:
        metrics.write(1, {"loss": np.float32(0.1), "lr": 1e-4})
        metrics.write(1, {"mlm_loss": 2.5}, prefix="eval/")
        lines = (tmp_path / "new" / "run" / "metrics.jsonl").read_text().splitlines()  # before close
    assert [json.loads(line) for line in lines] == [
        {"step": 1, "loss": float(np.float32(0.1)), "lr": 1e-4},
        {"step": 1, "eval/mlm_loss": 2.5},
    ]


def test_values_that_are_not_finite_become_null(tmp_path):
    with open_writers(tmp_path) as metrics:
        metrics.write(1, {"loss": math.nan, "grad_norm": math.inf, "lr": 0.5})
    assert "NaN" not in (tmp_path / "metrics.jsonl").read_text()
    assert read_metrics(tmp_path) == [{"step": 1, "loss": None, "grad_norm": None, "lr": 0.5}]


@pytest.mark.parametrize("value", ["0.5", True, [1.0], {"a": 1}])
def test_an_edited_value_is_named(value, tmp_path):
    rows = [{"step": 1, "loss": 0.5}, {"step": 2, "loss": None, "rtd_auc": value}]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for read in (lambda: read_metrics(tmp_path), lambda: open_writers(tmp_path, start_step=2)):
        with pytest.raises(ValueError, match=r"metrics\.jsonl, line 2: got .* as 'rtd_auc', expected a numb"):
            read()


def test_resuming_keeps_rows_up_to_the_restored_step(tmp_path):
    with open_writers(tmp_path) as metrics:
        for step in range(1, 8):
            metrics.write(step, {"loss": 1 / step})
            if step % 2 == 0:
                metrics.write(step, {"mlm_loss": 1.0}, prefix="eval/")
    with open_writers(tmp_path, start_step=4) as metrics:
        assert [row["step"] for row in read_metrics(tmp_path)] == [1, 2, 2, 3, 4, 4]
        metrics.write(4, {"mlm_loss": 1.0}, prefix="eval/")  # evaluation at the restored step runs again
        metrics.write(5, {"loss": 0.2})
    rows = read_metrics(tmp_path)
    assert [(row["step"], "loss" in row) for row in rows] == [
        (1, True),
        (2, True),
        (2, False),
        (3, True),
        (4, True),
        (4, False),
        (5, True),
    ]
    assert rows[2] == {"step": 2, "eval/mlm_loss": 1.0} and rows[3] == {"step": 3, "loss": 1 / 3}


def test_an_evaluation_lost_in_a_crash_is_written_when_it_runs_again(tmp_path):
    with open_writers(tmp_path) as metrics:
        metrics.write(4, {"loss": 0.25})
    with open_writers(tmp_path, start_step=4) as metrics:
        metrics.write(4, {"mlm_loss": 1.0}, prefix="eval/")
    assert read_metrics(tmp_path) == [{"step": 4, "loss": 0.25}, {"step": 4, "eval/mlm_loss": 1.0}]


@pytest.mark.parametrize(
    "torn", ['{"step": 3, "lo', '{"step": 3', "{", '{"step": 3, "loss": 0.3', "\x00\x00\x00"]
)
def test_an_incomplete_last_line_is_dropped(tmp_path, torn):
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "loss": 1.0}\n{"step": 2, "loss": 0.5}\n' + torn)
    assert [row["step"] for row in read_metrics(tmp_path)] == [1, 2]
    with open_writers(tmp_path, start_step=3) as metrics:
        metrics.write(4, {"loss": 0.2})
    assert [json.loads(line)["step"] for line in (tmp_path / "metrics.jsonl").read_text().splitlines()] == [
        1,
        2,
        4,
    ]


def test_a_row_that_lacks_only_its_newline_is_kept(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "loss": 1.0}')
    with open_writers(tmp_path, start_step=1) as metrics:
        metrics.write(2, {"loss": 0.5})
    assert [row["step"] for row in read_metrics(tmp_path)] == [1, 2]


def test_damage_before_the_last_line_is_an_error_that_loses_nothing(tmp_path):
    text = '{"step": 1, "loss": 1.0}\n{"step": 2, "lo\n{"step": 3, "loss": 0.5}\n'
    (tmp_path / "metrics.jsonl").write_text(text)
    with pytest.raises(ValueError, match=r"metrics.jsonl, line 2: .*Repair the file or move it away"):
        open_writers(tmp_path, start_step=1)
    assert (tmp_path / "metrics.jsonl").read_text() == text


def test_rewriting_is_all_or_nothing(tmp_path, monkeypatch):
    text = '{"step": 1, "loss": 1.0}\n{"step": 2, "loss": 0.5}\n'
    (tmp_path / "metrics.jsonl").write_text(text)

    def full_disk(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(writers.os, "fsync", full_disk)
    with pytest.raises(OSError, match="No space left"):
        open_writers(tmp_path, start_step=1)
    assert (tmp_path / "metrics.jsonl").read_text() == text


def test_other_processes_write_nothing(tmp_path):
    with open_writers(tmp_path / "run", is_writer=False, progress=True) as metrics:
        metrics.write(1, {"loss": 1.0})
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"start_step": 101}, r"start_step: got 101, expected 0 … config.train.num_steps=100"),
        ({"start_step": -1}, r"start_step: got -1"),
    ],
)
def test_impossible_start(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        open_writers(tmp_path, **options)


def test_object_stores_are_refused():
    with pytest.raises(ValueError, match="expected a local or mounted path"):
        open_writers("gs://bucket/run")


def test_step_is_not_a_metric_name(tmp_path):
    with open_writers(tmp_path) as metrics, pytest.raises(ValueError, match='may not be named "step"'):
        metrics.write(1, {"step": 2.0})


class Clock:
    """A time.monotonic that tests move by hand."""

    def __init__(self, monkeypatch):
        self.now = 1000.0
        monkeypatch.setattr(progress.time, "monotonic", lambda: self.now)


def test_plain_lines_are_throttled_and_tell_the_time_left(tmp_path, monkeypatch, capsys):
    clock = Clock(monkeypatch)
    with open_writers(tmp_path, progress=True) as metrics:
        for step in range(1, 101):
            metrics.write(step, {"loss": 2.0, "rtd_auc": 0.75, "tokens_per_second": 12345.6, "lr": 1e-3})
            if step == 50:
                metrics.write(step, {"mlm_loss": 3.5}, prefix="eval/")
            clock.now += 1.0
    lines = capsys.readouterr().err.splitlines()
    training = [line for line in lines if "evaluation" not in line]
    assert [int(line.split("/")[0].removeprefix("step ")) for line in training] == [
        1,
        *range(11, 100, 10),
        100,
    ]
    assert training[1] == "step 11/100 (11.0%)  loss 2.000  auc 0.750  tokens/s 12,346  ETA 01:29"
    assert "ETA" not in training[0] and "ETA" not in training[-1]
    (evaluation,) = [line for line in lines if "evaluation" in line]
    assert evaluation == "step 50/100 (50.0%)  evaluation  mlm_loss 3.500  ETA 00:50"


def test_a_long_wait_for_data_is_shown(tmp_path, capsys):
    with open_writers(tmp_path, progress=True) as metrics:
        for step, share in ((1, 0.049), (2, 0.05), (100, 0.314)):
            metrics.show(step, {"loss": 2.0, "data_wait_share": share})
    lines = [line for line in capsys.readouterr().err.splitlines() if "loss" in line]
    assert ["waits for data" in line for line in lines] == [False, True, True], lines
    assert "loss 2.000  waits for data 5%" in lines[1] and "waits for data 31%" in lines[2]


def test_time_left_counts_from_the_restored_step(tmp_path, monkeypatch, capsys):
    clock = Clock(monkeypatch)
    with open_writers(tmp_path, progress=True, start_step=80) as metrics:
        for step in (81, 91):
            metrics.write(step, {"loss": 2.0})
            clock.now += 20.0
    assert capsys.readouterr().err.splitlines()[-1].endswith("ETA 00:18")


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_bar_on_a_terminal(tmp_path, monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    with open_writers(tmp_path, progress=True, start_step=40) as metrics:
        metrics.write(41, {"loss": 2.0, "rtd_auc": 0.75})
        metrics.write(50, {"mlm_loss": 3.5}, prefix="eval/")
        metrics.write(100, {"loss": 1.5, "rtd_auc": 0.8, "tokens_per_second": 1000.0})
    shown = terminal.getvalue()
    assert "40/100" in shown and "100/100" in shown and "100%" in shown
    assert "loss=1.500, auc=0.800, tokens/s=1,000" in shown
    assert "step 50 evaluation  mlm_loss 3.500\n" in shown
