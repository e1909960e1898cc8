"""`python -m electra_jax.finetune`: encoders, seeds and settings compared, the files it writes, and wrong
settings."""

import json
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import finetune as finetune_config
from electra_jax.configuration.flags import load_config
from electra_jax.finetuning.encoders import load_encoder
from electra_jax.finetuning.experiment import DivergedError, Plan, finetune, write_report
from electra_jax.finetuning.experiment_directory import recorded_metrics
from electra_jax.finetuning.experiment_runs import SEED
from electra_jax.finetuning.model_files import load_model
from electra_jax.finetuning.models import TaskModel
from electra_jax.finetuning.results import to_json
from electra_jax.finetuning.trainer import Outcome, Trainer
from support import tiny_export
from support.tiny import SPECIAL
from support.tiny_task import ONE, make_encoder


@pytest.fixture(scope="module")
def run_directory(data, tmp_path_factory):
    """A pre-training run."""
    _, directory = make_encoder(data, tmp_path_factory)
    return str(directory)


@pytest.mark.slow
def test_pairs_are_seen_in_both_orders(run_directory, tmp_path, monkeypatch):
    rows = "".join(f"one {i}\ttwo {i}\t{i % 2}\n" for i in range(8))
    (tmp_path / "train.tsv").write_text(f"a\tb\tlabel\n{rows}")
    config = load_config("configs/finetune.py:task=local").to_dict()
    path = str(tmp_path / "train.tsv")
    config["task"] |= {
        "train": path,
        "validation": path,
        "text": "a",
        "pair": "b",
        "label": "label",
        "swaps_pairs": True,
    }
    config["mesh"] = ONE | {"data": 8}
    seen = {}
    monkeypatch.setattr(
        Trainer,
        "run",
        lambda self, params, seed, train, held_out, watch: (
            seen.update(train=train, held_out=held_out)
            or Outcome({"head": {"kernel": np.zeros(1)}}, {"validation": [np.zeros(2)] * 8})
        ),
    )
    finetune(config, tmp_path / "run", Plan([run_directory], [0]))
    assert len(seen["train"]) == 16 and len(seen["held_out"]["validation"]) == 8
    first, swapped = seen["train"][0].ids.tolist(), seen["train"][8].ids.tolist()
    middle = first.index(SPECIAL.sep)
    assert (
        swapped == [SPECIAL.cls, *first[middle + 1 : -1], SPECIAL.sep, *first[1:middle], SPECIAL.sep] != first
    )


@pytest.fixture()
def task(data, tmp_path):
    """Settings of a small task in files: whether the first word is one of the first half of the words."""
    words = sorted({word for line in (data / "train.txt").read_text().splitlines() for word in line.split()})[
        :60
    ]
    source = np.random.default_rng(0)
    for split, number in (("train", 64), ("validation", 20)):
        rows = [
            f"{' '.join(chosen)}\t{'low' if words.index(chosen[0]) < 30 else 'high'}\n"
            for chosen in (source.choice(words, size=4) for _ in range(number))
        ]
        (tmp_path / f"{split}.tsv").write_text("sentence\tclass\n" + "".join(rows))
    config = load_config("configs/finetune.py:task=local,model=electra,size=small").to_dict()
    config["task"] |= {
        "train": str(tmp_path / "train.tsv"),
        "validation": str(tmp_path / "validation.tsv"),
        "text": "sentence",
        "label": "class",
    }
    config["train"] |= {"num_epochs": 1}
    config["log"] = {"progress": False}
    config["mesh"] = ONE | {"data": 8}
    return config


@pytest.mark.slow
def test_encoders_are_compared_and_finished_runs_are_kept(run_directory, task, tmp_path):
    inits = [run_directory, f"random:{run_directory}"]
    first = finetune(task, tmp_path / "run", Plan(inits[:1], [0]))
    assert [(result.model, result.seed) for result in first] == [(inits[0], 0)] and 0 <= first[0].metrics[
        "accuracy"
    ] <= 1
    kept = json.loads((tmp_path / "run" / "results.json").read_text())
    assert len(first[0].encoder) == 64
    values = {"metrics": first[0].metrics, "encoder": first[0].encoder}
    assert kept == [{"model": inits[0], "seed": 0, "settings": {}} | values]
    every = finetune(task, tmp_path / "run", Plan(inits, [0, 1]))
    assert [(result.model, result.seed) for result in every] == [
        (name, seed) for name in inits for seed in (0, 1)
    ]
    assert every[0] == first[0]
    predictions = sorted(
        path.relative_to(tmp_path / "run").parts[1:] for path in (tmp_path / "run").rglob("validation.tsv")
    )
    assert len(predictions) == 4
    text = next((tmp_path / "run").rglob("validation.tsv")).read_text().splitlines()
    assert text[0] == "index\tprediction" and len(text) == 21
    assert {line.split("\t")[1] for line in text[1:]} <= {"low", "high"}
    again = finetune(task, tmp_path / "run", Plan(inits, [0, 1]))
    assert again == every
    assert [result.encoder for result in every] == [first[0].encoder] * 2 + [""] * 2
    edited = [row | ({"encoder": "0" * 64} if "encoder" in row else {}) for row in to_json(every)]
    (tmp_path / "run" / "results.json").write_text(json.dumps(edited))
    with pytest.raises(ValueError, match=r"has results of other weights of this name, expected the same"):
        finetune(task, tmp_path / "run", Plan(inits, [0, 1, 2]))
    assert json.loads((tmp_path / "run" / "results.json").read_text()) == edited
    with pytest.raises(ValueError, match=r"config\.train\.num_epochs: the run has 1, you gave 2"):
        finetune(task | {"train": task["train"] | {"num_epochs": 2}}, tmp_path / "run", Plan(inits, [0, 1]))


@pytest.mark.slow
def test_a_sweep_takes_more_values_later_and_keeps_the_best_model(run_directory, task, tmp_path):
    name = f"random:{run_directory}"
    sweep = [{"optimizer.learning_rate": rate} for rate in (1e-3, 3e-3)]
    some = finetune(task, tmp_path / "run", Plan([name], [0], sweep[:1]))
    every = finetune(task, tmp_path / "run", Plan([name], [0, 1], sweep))
    assert every[0] == some[0]
    assert [(result.settings, result.seed) for result in every] == [
        (one, seed) for one in sweep for seed in (0, 1)
    ]
    lines = list(write_report(every, ["accuracy"], tmp_path / "run"))
    assert any(line.startswith(f"| {name} learning_rate=0.003 | 2 |") for line in lines)
    assert {path.name for path in (tmp_path / "run" / "plots").iterdir()} == {"sweep.png", "results.png"}
    best = max(every, key=lambda result: result.metrics["accuracy"])
    [directory] = (tmp_path / "run" / "models").iterdir()
    saved = load_model(directory)
    assert saved.description["metrics"] == best.metrics and saved.description["labels"] == ["high", "low"]
    assert (
        saved.description["config"]["optimizer"]["learning_rate"] == best.settings["optimizer.learning_rate"]
    )
    further = load_encoder(str(directory), tmp_path / "none")
    jax.tree.map(
        np.testing.assert_array_equal, further.params, {part: saved.params[part] for part in further.params}
    )
    # The saved model gives the predictions in the file.
    model = TaskModel(saved.encoder, further.special, "classification", 2, "published", 0.1)
    folder = f"learning_rate={best.settings['optimizer.learning_rate']}"
    written = (
        tmp_path / "run" / "predictions" / directory.name / folder / f"seed_{best.seed}" / "validation.tsv"
    ).read_text()
    texts = [line.split("\t")[0] for line in (tmp_path / "validation.tsv").read_text().splitlines()[1:]]
    for text, line in zip(texts, written.splitlines()[1:], strict=True):
        ids = [SPECIAL.cls, *further.tokenizer.encode_batch([text])[0], SPECIAL.sep]
        outputs = model.apply({"params": saved.params}, jnp.asarray([ids]), False)
        assert line.split("\t")[1] == saved.description["labels"][int(outputs.argmax())]


@pytest.mark.slow
def test_starts_with_similar_names_keep_their_models(run_directory, task, tmp_path, monkeypatch):
    """Also "." and long names, whose folders must not be those of the run or too long for the file system."""
    monkeypatch.setattr(
        Trainer,
        "run",
        lambda self, params, seed, train, held_out, watch: Outcome(
            {"head": {"kernel": np.zeros(1)}}, {"validation": [np.zeros(2)] * len(held_out["validation"])}
        ),
    )
    (tmp_path / "m").mkdir()
    names = [str(tmp_path / "m" / "a"), str(tmp_path / "m_a"), f"{tmp_path}{'/.' * 150}/m_a"]
    for name in names[:2]:
        Path(name).symlink_to(run_directory)
    monkeypatch.chdir(run_directory)
    names += [".", f"{run_directory}/checkpoints/.."]
    for inits in (names[:1], names):
        finetune(task, tmp_path / "run", Plan(inits, [0]))
    found = {load_model(path).description["start"]: path for path in (tmp_path / "run" / "models").iterdir()}
    assert set(found) == set(names) and len(list((tmp_path / "run" / "predictions").iterdir())) == len(names)
    assert (tmp_path / "run" / "results.json").is_file()


@pytest.mark.slow
def test_each_seed_can_have_another_encoder(task, data, tmp_path):
    for seed in (0, 1):
        tiny_export.make_run(tmp_path / f"run_{seed}", data, tiny_export.electra_model())
    own = f"{tmp_path}/run_{SEED}"
    together = finetune(task, tmp_path / "a", Plan([own], [0, 1]))
    assert [(result.model, result.seed) for result in together] == [(own, 0), (own, 1)]
    alone = finetune(task, tmp_path / "b", Plan([f"{tmp_path}/run_1"], [1]))
    assert alone[0].metrics == together[1].metrics


def test_wrong_settings_are_errors(run_directory, task, tmp_path):
    (tmp_path / "test.tsv").write_text("sentence\nno label\n")
    alone = task["task"] | {"validation": "", "test": str(tmp_path / "test.tsv")}
    with pytest.raises(
        ValueError, match=r"only train has labels, of the splits train, test.*validation_fraction=0\.1"
    ):
        finetune(task | {"task": alone}, tmp_path / "run", Plan([run_directory], [0]))
    with pytest.raises(
        ValueError, match=r"config\.train\.batch_size: got 12, expected a multiple of the 8 devices"
    ):
        finetune(
            task | {"train": task["train"] | {"batch_size": 12}}, tmp_path / "run", Plan([run_directory], [0])
        )
    assert not (tmp_path / "run").exists()  # or the corrected settings would be refused
    for argument, message in (
        ("task=sst3", "config argument task: got 'sst3'"),
        ("model=bert", "config argument model"),
        ("model=deberta,size=huge", "config argument size"),
    ):
        with pytest.raises(ValueError, match=message):
            load_config(f"configs/finetune.py:{argument}")


def test_a_start_that_is_missing_is_found_before_the_first_run(run_directory, task, tmp_path):
    (tmp_path / "empty").mkdir()
    experiment = tmp_path / "experiment"
    experiment.mkdir()
    (experiment / "config.json").write_text(json.dumps({"config": task}))
    without_steps = tmp_path / "without_steps"
    without_steps.mkdir()
    shutil.copy(Path(run_directory) / "config.json", without_steps)
    for wrong, message in (
        (tmp_path / "nowhere", "there is no .*nowhere/config.json"),
        (tmp_path / "empty", "expected the directory of a run, of a fine-tuned model or of a Hugging"),
        (experiment, "the directory of a fine-tuning, expected one of its models: .*experiment/models"),
        (without_steps, "expected a checkpoint of any step"),
    ):
        for name in (str(wrong), f"random:{wrong}"):
            with pytest.raises((ValueError, OSError), match=message):
                finetune(task, tmp_path / "run", Plan([run_directory, name], [0, 1]))
    assert not (tmp_path / "run").exists()


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


def test_every_task_has_settings_for_every_size_of_both_families():
    for task in finetune_config.TASKS:
        for model, sizes in finetune_config.MODELS.items():
            for size in sizes:
                config = load_config(f"configs/finetune.py:task={task},model={model},size={size}")
                assert config.train.num_epochs > 0 and config.train.keep == "last"
                assert config.task.metrics or config.task.kind == "tagging"  # which the tags decide
    large = load_config("configs/finetune.py:task=cola,model=deberta,size=large")
    assert (large.optimizer.learning_rate, large.train.num_epochs, large.task.max_length) == (5.5e-6, 10, 64)
    base = load_config("configs/finetune.py:task=rte,model=electra,size=base")
    assert (base.optimizer.learning_rate, base.optimizer.layer_decay, base.train.num_epochs) == (
        1e-4,
        0.8,
        10,
    )
