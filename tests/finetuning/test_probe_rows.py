"""When a run is probed, and where the rows of its probes appear."""

import json
import time

import numpy as np

from electra_jax.runs.directory import is_measured
from electra_jax.runs.summary import summarize_run
from electra_jax.training.loop import Intervals
from electra_jax.training.plots import make_panels
from electra_jax.training.writers import MetricWriters, read_metrics
from support.fake_run import FakeRun


class ProbedRun(FakeRun):
    """Notes the order of evaluations and probes; a probe takes 0.3 seconds."""

    def evaluate(self, params):
        self.evaluated.append(("eval", params))
        return {"mlm_loss": 1.0}

    def probe(self, params):
        self.evaluated.append(("probe", params))
        time.sleep(0.3)
        return {"mlm_loss": 1.0}


def test_the_loop_probes_when_due_and_at_the_end_without_counting_the_time(tmp_path):
    run, intervals = ProbedRun(tmp_path), Intervals(6, log=2, evaluate=2, checkpoint=2, probe=3)
    run.go(0, intervals)
    order = [("eval", 2), ("probe", 3), ("eval", 4), ("eval", 6), ("probe", 6)]
    assert run.evaluated == order
    run.go(6, intervals._replace(num_steps=8))
    assert run.evaluated == [*order, ("eval", 8), ("probe", 8)]  # those of step 6 were there
    rows = read_metrics(tmp_path)
    assert [row["step"] for row in rows if "probe/mlm_loss" in row] == [3, 6, 8]
    (after,) = [row for row in rows if row["step"] == 4 and "loss" in row]
    assert 16 / after["tokens_per_second"] < 0.2  # its two steps took less than the probe between them


def write_rows(run_dir, rows):
    (run_dir / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_probes_belong_to_a_complete_run_its_summary_and_its_curves(tmp_path):
    rows = [
        {"step": 2, "probe/frozen_accuracy": 0.5, "probe/finetuned_accuracy": None},
        {"step": 4, "eval/mlm_loss": 2.0},
    ]
    write_rows(tmp_path, rows)
    assert is_measured(tmp_path, 4, has_probe=False) and not is_measured(tmp_path, 4, has_probe=True)
    shared = {"steps": 4, "tokens_per_second": None, "alarms": 0, "heldout_mlm_loss": 2.0}
    assert summarize_run(tmp_path) == shared
    write_rows(tmp_path, [*rows, {"step": 4, "probe/frozen_accuracy": 0.75, "probe/finetuned_accuracy": 1.0}])
    assert is_measured(tmp_path, 4, has_probe=True) and not is_measured(tmp_path, 3, has_probe=True)
    assert summarize_run(tmp_path) == shared | {
        "probe_frozen_accuracy": 0.75,
        "probe_finetuned_accuracy": 1.0,
    }
    probes = make_panels(read_metrics(tmp_path))[-1]
    finetuned, frozen = probes.curves
    assert (finetuned.label, finetuned.steps) == ("finetuned_accuracy", [2, 4])
    np.testing.assert_equal(finetuned.values, [float("nan"), 1.0])
    assert (frozen.label, frozen.steps, frozen.values) == ("frozen_accuracy", [2, 4], [0.5, 0.75])


def test_a_probe_is_printed_on_its_own_line(tmp_path, capsys):
    with MetricWriters(tmp_path, progress=True, total_steps=10, start_step=0) as writers:
        writers.write(5, {"frozen_accuracy": 0.5, "finetuned_accuracy": float("nan")}, prefix="probe/")
    assert (
        capsys.readouterr().err == "step 5/10 (50.0%)  probe  frozen_accuracy 0.500  finetuned_accuracy nan\n"
    )
    assert read_metrics(tmp_path) == [
        {"step": 5, "probe/frozen_accuracy": 0.5, "probe/finetuned_accuracy": None}
    ]
