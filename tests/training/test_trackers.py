"""TensorBoard, Weights & Biases and one's own tracker get the rows of metrics.jsonl, resume, and never end a
run."""

import json
import sys
import time
import types

import numpy as np
import pytest

from electra_jax.training.trackers import background
from electra_jax.training.trackers.background import open_trackers
from electra_jax.training.trackers.choose import find_trackers
from electra_jax.training.trackers.interface import TrackedRun
from electra_jax.training.writers import MetricWriters, read_metrics

CONFIG = {"train": {"num_steps": 100}, "data": {"datasets": ("a",)}}
OWN = """
import pathlib, threading
seen = []
class Own:
    def __init__(self, run):
        self.file = pathlib.Path(run.directory, "own.txt").open("a")
        print(run.name, run.start_step, run.config["train"]["num_steps"], file=self.file)
    def write(self, step, scalars):
        print(step, *(f"{name}={value}" for name, value in scalars.items()), file=self.file)
    def close(self):
        self.file.close()
        seen.append("closed")
"""


@pytest.fixture
def own(tmp_path, monkeypatch):
    """The module of somebody who uses this project."""
    (tmp_path / "own_trackers.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)
    yield "own_trackers:Own"
    sys.modules.pop("own_trackers", None)


def opened(workdir, names, start_step=0):
    trackers = open_trackers(names, TrackedRun(workdir, workdir.name, CONFIG, start_step))
    return MetricWriters(workdir, progress=False, total_steps=100, start_step=start_step, trackers=trackers)


def test_tensorboard_holds_the_same_values(tmp_path):
    with opened(tmp_path, ("tensorboard",)) as metrics:
        metrics.write(3, {"loss": 0.5})
        metrics.write(3, {"mlm_loss": 0.25}, prefix="eval/")
    (events,) = (tmp_path / "tensorboard").iterdir()
    content = events.read_bytes()
    assert b"loss" in content and b"eval/mlm_loss" in content
    assert np.float32(0.25).tobytes() in content


def test_a_tracker_of_ones_own_gets_every_row_once(tmp_path, own):
    run = tmp_path / "run"
    run.mkdir()
    with opened(run, [own]) as metrics:
        metrics.write(4, {"loss": float("nan")})
        metrics.write(4, {"mlm_loss": 2.5}, prefix="eval/")
    with opened(run, f"{own},tensorboard", start_step=4) as metrics:
        metrics.write(4, {"mlm_loss": 2.5}, prefix="eval/")  # the run was stopped after this evaluation
        metrics.write(5, {"loss": 1.0})
    expected = ["run 0 100", "4 loss=nan", "4 eval/mlm_loss=2.5", "run 4 100", "5 loss=1.0"]
    assert (run / "own.txt").read_text().splitlines() == expected
    assert sys.modules["own_trackers"].seen == ["closed"] * 2 and (run / "tensorboard").is_dir()


@pytest.mark.parametrize("when", ["open", "write", "close", "exit"])
def test_a_failure_is_one_warning_and_the_run_continues(tmp_path, monkeypatch, capsys, when):
    def fail(place):
        if when == "exit":
            sys.exit("no network")
        if place == when:
            raise ConnectionError("no network")

    class Failing:
        def __init__(self, run):
            fail("open")

        def write(self, step, scalars):
            fail("write")

        def close(self):
            fail("close")

    monkeypatch.setitem(sys.modules, "failing", types.SimpleNamespace(Failing=Failing))
    with opened(tmp_path, ("failing:Failing", "tensorboard")) as metrics:
        for step in range(1, 10):
            metrics.write(step, {"loss": 1.0})
            time.sleep(0.01)
    assert len(read_metrics(tmp_path)) == 9
    said = capsys.readouterr().err
    assert said.count("WARNING: tracker failing:Failing gets no more rows:") == 1
    assert "no network" in said and "metrics.jsonl has every row" in said
    assert (tmp_path / "tensorboard").is_dir()


def test_a_tracker_that_hangs_holds_up_neither_steps_nor_the_end(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(background, "CLOSE_SECONDS", 0.2)
    monkeypatch.setattr(background, "MAX_ROWS", 4)
    hanging = types.SimpleNamespace(Hanging=lambda run: time.sleep(5))
    monkeypatch.setitem(sys.modules, "hanging", hanging)
    began = time.monotonic()
    with opened(tmp_path, ("hanging:Hanging",)) as metrics:
        metrics.write(1, {"loss": 1.0})
    assert time.monotonic() - began < 3 and "it did not finish in time" in capsys.readouterr().err
    with opened(tmp_path, ("hanging:Hanging",), start_step=1) as metrics:
        for step in range(2, 12):
            metrics.write(step, {"loss": 1.0})
    assert capsys.readouterr().err.count("it hangs, and 4 rows wait for it") == 1
    assert len(read_metrics(tmp_path)) == 11


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (
            ("tensorbord",),
            r"got 'tensorbord', expected tensorboard, wandb or a class of your own",
        ),
        (("no_such_module:X",), r"got 'no_such_module:X', which cannot be imported: No module .* PYTHONPATH"),
        (("json:Absent",), r"got 'json:Absent', which cannot be imported: module 'json' has no attribute"),
        (("./tracker.py:X",), r"got './tracker\.py:X', which cannot be imported: .* PYTHONPATH"),
        ("json:", r"got 'json:', expected"),
    ],
)
def test_wrong_names_are_errors_before_the_run(names, message):
    with pytest.raises(ValueError, match=rf"config\.log\.trackers: {message}"):
        find_trackers(names)


@pytest.mark.parametrize(("name", "package"), [("tensorboard", "tensorboardX"), ("wandb", "wandb")])
def test_a_missing_package_names_the_extra(name, package, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    (tmp_path / package).mkdir()  # W&B leaves a directory of its name where it was used
    with pytest.raises(ImportError, match=rf"{name} needs {package}, which is not .*pip install .*\[track\]"):
        find_trackers((name,))


class FakeRun:
    """What `wandb.init` returns."""

    def __init__(self, options):
        self.options, self.rows, self.axes, self.offline, self.dir = options, [], {}, True, options["dir"]
        self.log, self.is_finished = self.rows.append, False

    def define_metric(self, name, step_metric=None, hidden=None):
        self.axes[name] = step_metric

    def finish(self):
        self.is_finished = True


@pytest.fixture
def wandb(monkeypatch):
    """A stand-in for the package, which is installed."""
    runs = []

    def init(**options):
        runs.append(FakeRun(options))
        return runs[-1]

    module = types.ModuleType("wandb")
    module.__spec__ = types.SimpleNamespace(origin="wandb/__init__.py")
    module.init, module.runs, module.login = init, runs, lambda **_: False
    module.Settings = lambda **options: options
    monkeypatch.setitem(sys.modules, "wandb", module)
    monkeypatch.delitem(sys.modules, "electra_jax.training.trackers.weights_and_biases", raising=False)
    monkeypatch.setenv("WANDB_MODE", "offline")
    yield module
    sys.modules.pop("electra_jax.training.trackers.weights_and_biases", None)


def test_a_run_that_resumes_is_one_run_of_weights_and_biases(tmp_path, wandb, monkeypatch):
    run = tmp_path / "small"
    with opened(run, ("wandb",)) as metrics:
        metrics.write(4, {"loss": 2.0})
    monkeypatch.setenv("WANDB_PROJECT", "mine")
    with opened(run, ("wandb",), start_step=4) as metrics:
        metrics.write(5, {"loss": 1.0})
    first, second = wandb.runs
    assert first.options["id"] == second.options["id"] and second.options["resume"] == "allow"
    assert (first.options["project"], second.options["project"]) == ("electra_jax", "mine")
    assert first.options["name"] == "small" and first.options["config"] == json.loads(json.dumps(CONFIG))
    assert first.rows == [{"train_step": 4, "loss": 2.0}] and second.rows == [{"train_step": 5, "loss": 1.0}]
    assert first.axes["*"] == "train_step" and first.is_finished and second.is_finished


def test_weights_and_biases_without_a_login_is_an_error_before_the_run(wandb, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "online")
    with pytest.raises(
        ValueError, match=r"config\.log\.trackers: wandb is not logged in\. .*WANDB_MODE=offline"
    ):
        find_trackers(("wandb",))
