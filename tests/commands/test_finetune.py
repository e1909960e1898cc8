"""`python -m electra_jax.finetune`: encoders, seeds and settings compared, the files it writes, and wrong
settings."""

import json
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from electra_jax.configuration.flags import load_config
from electra_jax.finetuning.encoders import load_encoder
from electra_jax.finetuning.experiment import Plan, finetune, write_report
from electra_jax.finetuning.experiment_directory import FINE_TUNING
from electra_jax.finetuning.experiment_runs import SEED
from electra_jax.finetuning.model_files import load_model
from electra_jax.finetuning.models import TaskModel
from electra_jax.finetuning.results import to_json
from electra_jax.finetuning.trainer import Outcome, Trainer
from support import tiny_export
from support.jitted import apply_jitted
from support.local_task import local_task
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
    """Settings of a small task in files."""
    return local_task(data, tmp_path)


@pytest.mark.slow
def test_encoders_are_compared_and_finished_runs_are_kept(one_device, run_directory, task, tmp_path):
    inits = [run_directory, f"random:{run_directory}"]
    first = finetune(task, tmp_path / "run", Plan(inits[:1], [0]))
    assert [(result.model, result.seed) for result in first] == [(inits[0], 0)] and 0 <= first[0].metrics[
        "accuracy"
    ] <= 1
    kept = json.loads((tmp_path / "run" / "results.json").read_text())
    assert len(first[0].encoder) == 64
    values = {"metrics": first[0].metrics, "encoder": first[0].encoder, "step": 0}
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
def test_a_sweep_takes_more_values_later_and_keeps_the_best_model(one_device, run_directory, task, tmp_path):
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
    # All that is there was looked for before the work.
    left = {path.name for path in (tmp_path / "run").iterdir() if not path.name.startswith(".")}
    plots = {f"plots/{path.name}" for path in (tmp_path / "run" / "plots").iterdir()}
    assert left | plots == {*FINE_TUNING.files, *FINE_TUNING.directories} - {"tokenizers"}
    best = max(every, key=lambda result: result.metrics["accuracy"])
    [directory] = (tmp_path / "run" / "models").iterdir()
    saved = load_model(directory)
    assert saved.description["trained_length"] == min(
        task["task"]["max_length"], saved.encoder.max_position_embeddings
    )
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
    rows = [[SPECIAL.cls, *ids, SPECIAL.sep] for ids in further.tokenizer.encode_batch(texts)]
    longest = max(map(len, rows))
    ids = np.array([row + [SPECIAL.pad] * (longest - len(row)) for row in rows])
    found = apply_jitted(model, saved.params, jnp.asarray(ids), False).argmax(-1)
    assert [line.split("\t")[1] for line in written.splitlines()[1:]] == [
        saved.description["labels"][number] for number in found
    ]


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
    models = (tmp_path / "run" / "models").iterdir()
    found = {json.loads((path / "model.json").read_text())["start"]: path for path in models}
    assert set(found) == set(names) and len(list((tmp_path / "run" / "predictions").iterdir())) == len(names)
    assert (tmp_path / "run" / "results.json").is_file()


@pytest.mark.slow
def test_each_seed_can_have_another_encoder(one_device, task, data, tmp_path):
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
