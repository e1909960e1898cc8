"""Fine-tuning that resumes: it keeps the checkpoint that it began from, and makes missing models
again."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from data_pipelines.tasks.datasets import Origin
from electra_jax.finetuning import experiment as experiments
from electra_jax.finetuning import model_files
from electra_jax.finetuning.encoders import check_start
from electra_jax.finetuning.experiment import Plan, finetune
from electra_jax.finetuning.trainer import Outcome, Trainer
from electra_jax.runs.trained import load_run
from support import tiny_export
from support.local_task import local_task


@pytest.fixture
def start(data, tmp_path):
    """A run with a checkpoint of step 10."""
    directory, params = tiny_export.make_run(tmp_path / "start", data, tiny_export.electra_model())
    tiny_export.save_steps(directory, params, 10)
    return directory


@pytest.fixture
def experiment(data, tmp_path, monkeypatch):
    """`do(inits, seeds)` → titles of the runs that were done, without training. Odd seeds give one answer,
    even ones the other, and one of two classes is more frequent among 21 examples."""
    titles, task = [], local_task(data, tmp_path, num_validation=21)
    task["log"] = {"progress": True}

    def run(self, params, seed, train, held_out, watch):
        titles.append(watch.title)
        answer = np.eye(2)[seed % 2]
        outputs = {split: [answer] * len(rows) for split, rows in held_out.items()}
        return Outcome({"head": {"kernel": np.zeros(1)}}, outputs)

    monkeypatch.setattr(Trainer, "run", run)

    def do(inits, seeds, workdir=tmp_path / "tuned"):
        titles.clear()
        finetune(task, workdir, Plan([str(init) for init in inits], seeds))
        return [title.partition(", ")[2] for title in titles]

    return do


def results_of(workdir):
    return json.loads((workdir / "results.json").read_text())


def add_checkpoint(start, step):
    tiny_export.save_steps(start, load_run(start).params, step)


def test_later_seeds_begin_from_the_same_step(start, experiment, tmp_path):
    workdir = tmp_path / "tuned"
    experiment([start], [0])
    add_checkpoint(start, 20)
    assert experiment([start], [0, 1]) == [f"{start}, seed 1"]
    assert [(row["seed"], row["step"]) for row in results_of(workdir)] == [(0, 10), (1, 10)]
    assert experiment([start, f"{start}:20"], [0, 1]) == [f"{start}:20, seed 0", f"{start}:20, seed 1"]
    rows = [(row["model"], row["step"]) for row in results_of(workdir)]
    assert rows == [(str(start), 10)] * 2 + [(f"{start}:20", 20)] * 2
    assert [json.loads(path.read_text())["start_step"] for path in models(workdir)] == [10, 20]


def models(workdir):
    return sorted(workdir.glob("models/*/model.json"))


def test_a_step_that_is_gone_is_an_error(start, experiment, tmp_path):
    experiment([start], [0])
    add_checkpoint(start, 20)
    shutil.rmtree(start / "checkpoints" / "10")
    with pytest.raises(FileNotFoundError) as error:
        experiment([start], [0, 1])
    text = str(error.value)
    assert "expected a checkpoint of step 10, found those of [20]" in text
    assert f"began from step 10. To begin from another step, give {start}:STEP" in text
    assert experiment([f"random:{start}"], [0]) == [f"random:{start}, seed 0"]
    assert "step" not in results_of(tmp_path / "tuned")[-1]


def test_a_step_that_is_removed_while_the_command_works_is_an_error_that_helps(
    start, experiment, monkeypatch
):
    other = start.with_name("other")
    shutil.copytree(start, other)
    train = Trainer.run

    def run(self, *rest):
        add_checkpoint(other, 20)
        shutil.rmtree(other / "checkpoints" / "10")
        return train(self, *rest)

    monkeypatch.setattr(Trainer, "run", run)
    message = (
        rf"--init_from={other}: .*expected a checkpoint of step 10, found those of \[20\]\. This command "
        r"began with step 10\. Run the same command again\. .*config\.checkpoint\.keep\."
    )
    with pytest.raises(FileNotFoundError, match=message):
        experiment([start, other], [0])
    monkeypatch.setattr(Trainer, "run", train)
    assert experiment([start, other], [0]) == [f"{other}, seed 0"]


def test_only_runs_have_steps(start, experiment, tmp_path):
    assert (
        check_start(str(start)) == check_start(f"{start}:10") == 10 and check_start(f"random:{start}") is None
    )
    experiment([start], [0])
    (model,) = (path.parent for path in models(tmp_path / "tuned"))
    assert check_start(str(model)) is None
    with pytest.raises(ValueError, match=r"got a step for .*expected it only for a pre-training run"):
        check_start(f"{model}:10")


def test_a_missing_best_model_is_made_again(start, experiment, tmp_path, capsys):
    workdir = tmp_path / "tuned"
    experiment([start], [0, 1, 2])
    before = results_of(workdir)
    assert experiment([start], [0, 1, 2]) == []
    (model,) = (path.parent for path in models(workdir))
    best = json.loads((model / "model.json").read_text())["seed"]
    shutil.rmtree(model)
    capsys.readouterr()
    assert experiment([start], [0, 1, 2]) == [f"{start}, seed {best}"]
    assert f"{model} is gone: {start}, seed {best} is done again, which made it." in capsys.readouterr().err
    assert json.loads((model / "model.json").read_text())["seed"] == best
    assert sorted(map(str, results_of(workdir))) == sorted(map(str, before))
    # Also if the plan does not name the run that made it.
    shutil.rmtree(model)
    others = [seed for seed in range(3) if seed != best]
    assert experiment([start], others) == [f"{start}, seed {best}"]
    assert json.loads((model / "model.json").read_text())["seed"] == best


def test_a_model_made_again_replaces_no_better_one(start, experiment, tmp_path):
    """New runs that come first in the plan may be better, or worse, than the one whose model is gone."""
    workdir = tmp_path / "tuned"
    experiment([start], [0, 1])
    accuracies = [row["metrics"]["accuracy"] for row in results_of(workdir)]
    better, worse = sorted(range(2), key=lambda seed: -accuracies[seed])
    assert accuracies[better] > accuracies[worse]
    title = lambda seed: f"{start}, seed {seed}"
    for earlier, new in ((worse, better), (better, worse)):
        other = tmp_path / f"new_{new}"
        experiment([start], [earlier], other)
        (model,) = (path.parent for path in models(other))
        shutil.rmtree(model)
        assert experiment([start], [new, earlier], other) == [title(new), title(earlier)]
        assert json.loads((model / "model.json").read_text())["seed"] == better


def test_an_older_model_stays_until_its_successor_is_there(tmp_path, monkeypatch):
    model, unfinished, rename = tmp_path / "model", tmp_path / "new", Path.rename
    for directory in (model, unfinished):
        directory.mkdir()
        (directory / "model.json").write_text(directory.name)

    def fails(self, target):
        assert (model / "model.json").exists() or (tmp_path / "older" / "model.json").exists()
        if self == unfinished:
            raise OSError("the disk is gone")
        return rename(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", fails)
        with pytest.raises(OSError, match="the disk is gone"):
            model_files.put_in_place(unfinished, model, tmp_path / "older")
    assert (model / "model.json").read_text() == "model"
    model_files.put_in_place(unfinished, model, tmp_path / "older")
    assert (model / "model.json").read_text() == "new"


def test_a_model_says_which_dataset_it_is_trained_on(start, experiment, tmp_path, monkeypatch):
    """By its name, which shows the columns to predict: in the configuration it may be a directory."""
    experiment([start], [0], tmp_path / "files")
    load, origins = experiments.load_task, {"train": Origin("glue/mnli", "train", False)}
    monkeypatch.setattr(experiments, "load_task", lambda task: load(task)._replace(origins=origins))
    experiment([start], [0], tmp_path / "dataset")
    found = {name: models(tmp_path / name) for name in ("files", "dataset")}
    names = {name: json.loads(path.read_text())["dataset"] for name, [path] in found.items()}
    assert names == {"files": "", "dataset": "glue/mnli"}
