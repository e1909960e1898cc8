"""`python -m electra_jax.finetune`: encoders, seeds and settings compared, the files it writes, and wrong
settings."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import finetune as finetune_config
from electra_jax.configuration.flags import load_config
from electra_jax.finetuning.encoders import load_encoder
from electra_jax.finetuning.experiment import SEED, Plan, finetune, write_report
from electra_jax.finetuning.model_files import load_model
from electra_jax.finetuning.models import TaskModel
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
        lambda self, params, seed, train, held_out, progress: (
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
    assert kept == [{"model": inits[0], "seed": 0, "settings": {}, "metrics": first[0].metrics}]
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
        lambda self, params, seed, train, held_out, progress: Outcome(
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
    with pytest.raises(ValueError, match=r"none of the splits \['train', 'test'\] but train has labels"):
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


def test_every_task_has_settings_for_every_size_of_both_families():
    for task in finetune_config.TASKS:
        for model, sizes in finetune_config.MODELS.items():
            for size in sizes:
                config = load_config(f"configs/finetune.py:task={task},model={model},size={size}")
                assert config.task.metrics and config.train.num_epochs > 0
    large = load_config("configs/finetune.py:task=cola,model=deberta,size=large")
    assert (large.optimizer.learning_rate, large.train.num_epochs, large.task.max_length) == (5.5e-6, 10, 64)
    base = load_config("configs/finetune.py:task=rte,model=electra,size=base")
    assert (base.optimizer.learning_rate, base.optimizer.layer_decay, base.train.num_epochs) == (
        1e-4,
        0.8,
        10,
    )
