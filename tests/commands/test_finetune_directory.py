"""The directory of a fine-tuning: which settings it belongs to, the metrics of its results, and what is kept
when runs diverge."""

import json
import shutil

import numpy as np
import pytest

from electra_jax.configuration.flags import load_config
from electra_jax.finetuning.experiment import DivergedError, Plan, finetune, write_report
from electra_jax.finetuning.experiment_directory import recorded_metrics
from electra_jax.finetuning.trainer import Outcome, Trainer
from support.local_task import local_task
from support.tiny_task import make_encoder


@pytest.fixture(scope="module")
def run_directory(data, tmp_path_factory):
    """A pre-training run."""
    return str(make_encoder(data, tmp_path_factory)[1])


@pytest.fixture()
def task(data, tmp_path):
    """Settings of a small task in files."""
    return local_task(data, tmp_path)


@pytest.fixture()
def runs_without_training(monkeypatch):
    """Titles of the runs, which take no time; a run whose title has a word of `bad` diverges."""
    titles, bad = [], []

    def run(self, params, seed, train, held_out, watch):
        titles.append(watch.title)
        if any(word in watch.title for word in bad):
            raise FloatingPointError("the loss of step 2 of 8 is nan.")
        outputs = {split: [np.zeros(2)] * len(rows) for split, rows in held_out.items()}
        return Outcome({"head": {"kernel": np.zeros(1)}}, outputs)

    monkeypatch.setattr(Trainer, "run", run)
    return titles, bad


def test_runs_that_diverge_do_not_stop_the_others(
    run_directory, task, tmp_path, runs_without_training, capsys
):
    titles, bad = runs_without_training
    bad.append("learning_rate=0.5")
    task["log"] = {"progress": True}
    sweep = [{"optimizer.learning_rate": rate} for rate in (0.5, 1e-3)]
    with pytest.raises(DivergedError) as error:
        finetune(task, tmp_path / "run", Plan([run_directory], [0, 1], sweep))
    expected = [
        f"run {number} of 4, {run_directory}, seed {seed}, learning_rate={rate}"
        for number, (rate, seed) in enumerate([(0.5, 0), (0.5, 1), (0.001, 0), (0.001, 1)], start=1)
    ]
    assert titles == expected
    text = str(error.value)
    assert text.startswith("2 of 4 runs diverged and have no result:\n")
    assert f"{expected[1]}: the loss of step 2 of 8 is nan." in text.splitlines()
    assert [(result.settings, result.seed) for result in error.value.results] == [
        (sweep[1], 0),
        (sweep[1], 1),
    ]
    assert len(json.loads((tmp_path / "run" / "results.json").read_text())) == 2
    shown = capsys.readouterr().err
    assert f"{expected[0]}: the loss of step 2 of 8 is nan. The other runs follow." in shown
    assert f"{expected[2]}: accuracy 0." in shown
    bad.clear()
    titles.clear()
    assert len(finetune(task, tmp_path / "run", Plan([run_directory], [0, 1], sweep))) == 4
    assert titles == expected[:2]
    assert "2 of 4 runs are done already." in capsys.readouterr().err


def test_a_directory_without_results_takes_other_settings(
    run_directory, task, tmp_path, runs_without_training, capsys
):
    _, bad = runs_without_training
    bad.append("seed")
    task["log"] = {"progress": True}
    with pytest.raises(DivergedError, match="1 of 1 runs diverged"):
        finetune(task, tmp_path / "run", Plan([run_directory], [0]))
    kept = json.loads((tmp_path / "run" / "config.json").read_text())["config"]
    assert kept["optimizer"]["learning_rate"] == 3e-4
    bad.clear()
    lower = task | {"optimizer": task["optimizer"] | {"learning_rate": 1e-5}}
    capsys.readouterr()
    finetune(lower, tmp_path / "run", Plan([run_directory], [0]))
    assert f"{tmp_path / 'run'}: no run has ended in it, so its settings are" in capsys.readouterr().err
    kept = json.loads((tmp_path / "run" / "config.json").read_text())["config"]
    assert kept["optimizer"]["learning_rate"] == 1e-5
    with pytest.raises(ValueError, match=r"learning_rate: the run has 1e-05, you gave 0\.0003"):
        finetune(task, tmp_path / "run", Plan([run_directory], [0]))


def test_a_directory_of_another_kind_is_refused(run_directory, task, tmp_path, runs_without_training):
    shutil.copytree(run_directory, tmp_path / "run")
    with pytest.raises(ValueError, match="belongs to a run with other settings"):
        finetune(task, tmp_path / "run", Plan([run_directory], [0]))
    assert "objective" in json.loads((tmp_path / "run" / "config.json").read_text())["config"]
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text('{"model_type": "electra"}')
    with pytest.raises(ValueError, match=r"model: got a config\.json of something else, such as an exported"):
        finetune(task, tmp_path / "model", Plan([run_directory], [0]))


def tagging_task(task, tmp_path, tags):
    """A task of tagging whose words have these two tags in turn."""
    sentence = "".join(f"word\t{tags[i % 2]}\n" for i in range(4)) + "\n"
    (tmp_path / "rows.conll").write_text(sentence * 8)
    own = load_config("configs/finetune.py:task=local_tagging").to_dict()["task"]
    own |= dict.fromkeys(("train", "validation"), str(tmp_path / "rows.conll")) | {"text": "0", "label": "1"}
    return task | {"task": own}


@pytest.mark.parametrize(
    ("tags", "expected"),
    [(["B-X", "O"], ["span_f1", "tagging_accuracy"]), (["NOUN", "VERB"], ["tagging_accuracy"])],
)
def test_tags_decide_their_metrics(tags, expected, run_directory, task, tmp_path, monkeypatch):
    def run(self, params, seed, train, held_out, watch):
        return Outcome({"head": {"kernel": np.zeros(1)}}, {"validation": [np.eye(2)[[0] * 32]] * 8})

    monkeypatch.setattr(Trainer, "run", run)
    config, workdir = tagging_task(task, tmp_path, tags), tmp_path / "run"
    [result] = finetune(config, workdir, Plan([run_directory], [0]))
    assert list(result.metrics) == list(recorded_metrics(workdir)) == expected
    table = "\n".join(write_report([result], recorded_metrics(workdir), workdir))
    assert all(f"| {name} " in table for name in expected)


def test_older_results_keep_their_metrics(run_directory, task, tmp_path, monkeypatch):
    """They were made when token accuracy was the default."""

    def run(self, params, seed, train, held_out, watch):
        return Outcome({"head": {"kernel": np.zeros(1)}}, {"validation": [np.eye(2)[[0] * 32]] * 8})

    monkeypatch.setattr(Trainer, "run", run)
    config, workdir = tagging_task(task, tmp_path, ["B-X", "O"]), tmp_path / "run"
    older = config | {"task": config["task"] | {"metrics": ("tagging_accuracy",)}}
    finetune(older, workdir, Plan([run_directory], [0]))
    both = finetune(config, workdir, Plan([run_directory], [0, 1]))
    assert [list(result.metrics) for result in both] == [["tagging_accuracy"]] * 2
    given = config | {"task": config["task"] | {"metrics": ("span_f1",)}}
    with pytest.raises(ValueError, match=r"task\.metrics: the run has \['tagging_accuracy'\], you gave"):
        finetune(given, workdir, Plan([run_directory], [0]))


def test_a_wrong_metric_is_found_before_the_data_are_read(run_directory, task, tmp_path):
    task["task"] |= {"metrics": ("accuracy", "seqeval_f1"), "train": "nowhere.tsv"}
    with pytest.raises(ValueError, match=r"config\.task\.metrics: got seqeval_f1, expected some of accuracy"):
        finetune(task, tmp_path / "run", Plan([run_directory], [0]))
    assert not (tmp_path / "run").exists()


def test_a_test_set_chooses_no_model(run_directory, task, tmp_path):
    task["task"] |= {"test": task["task"]["validation"], "validation": ""}
    sweep = [{"train.keep": "last"}, {"train.keep": "best"}]
    for settings, plan in (
        (task | {"train": task["train"] | {"keep": "best"}}, Plan([run_directory], [0])),
        (task, Plan([run_directory], [0], sweep)),
    ):
        with pytest.raises(ValueError, match=r"config\.train\.keep: got best, but only test has labels"):
            finetune(settings, tmp_path / "run", plan)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("task", [3, {}, {"metrics": 5}, {"metrics": [1]}], ids=str)
def test_settings_without_metrics_are_named(task, tmp_path):
    sections = {name: {} for name in ("model", "optimizer", "sift", "train")}
    (tmp_path / "config.json").write_text(json.dumps({"config": sections | {"task": task}}))
    with pytest.raises(ValueError, match=r"config\.json: .*metrics|config\.json: .*config\.task"):
        recorded_metrics(tmp_path)
