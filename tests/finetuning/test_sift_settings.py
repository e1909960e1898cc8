"""The settings of scale-invariant fine-tuning: the recipe's, wrong ones, and several in one experiment."""

import types

import jax
import numpy as np
import pytest

from data_pipelines.tasks.load import load_task
from electra_jax.configuration.recipes import load_config
from electra_jax.distributed.mesh import make_mesh
from electra_jax.finetuning import task_finetuner
from electra_jax.finetuning.experiment import Plan, finetune
from electra_jax.finetuning.sift import Sift, make_sift
from electra_jax.finetuning.sweep import format_settings, parse_sweep
from electra_jax.finetuning.trainer import Outcome
from support.tiny import SPECIAL
from support.tiny_task import ONE, encoder_config


@pytest.fixture()
def task(tmp_path):
    """Settings of a task of four examples in files."""
    for split in ("train", "validation"):
        (tmp_path / f"{split}.tsv").write_text("text\tlabel\n" + "a\tlow\nb\thigh\n" * 2)
    config = load_config("configs/finetune.py:task=local,sift=true").to_dict()
    config["task"] |= {split: str(tmp_path / f"{split}.tsv") for split in ("train", "validation")}
    config["task"] |= {"text": "text", "label": "label"}
    return config


def test_wrong_values_are_found_before_anything_is_written(task, tmp_path):
    assert make_sift(task["sift"]) == Sift(vat_lambda=5.0, learning_rate=1e-4, init_perturbation=1e-2)
    task["sift"]["init_perturbation"] = -0.1
    with pytest.raises(ValueError, match=r"config\.sift\.init_perturbation: got -0\.1, expected 0 or more"):
        finetune(task, tmp_path / "run", Plan(["nowhere"], [0]))
    assert not (tmp_path / "run").exists()


def test_values_can_be_swept(task, monkeypatch):
    made = []

    class Recorder:
        def __init__(self, encoder, special, task_type, config, num_rows, mesh):
            made.append(config["sift"]["learning_rate"])

        def run(self, *arguments):
            return Outcome({}, {"validation": [np.zeros(2)] * 4})

    rows = {"train": [0] * 4, "validation": [0] * 4}
    monkeypatch.setattr(task_finetuner, "Trainer", Recorder)
    monkeypatch.setattr(task_finetuner.TaskFinetuner, "encode", lambda self, encoder: rows)
    mesh = make_mesh(ONE, jax.devices()[:1])
    finetuner = task_finetuner.TaskFinetuner(task, load_task(task["task"]), mesh)
    encoder = types.SimpleNamespace(config=encoder_config("electra"), special=SPECIAL, params=None)
    sweep = parse_sweep(["sift.learning_rate=1e-4,1e-3"], task)
    assert [format_settings(settings) for settings in sweep] == [
        "sift.learning_rate=0.0001",
        "sift.learning_rate=0.001",
    ]
    for settings in sweep:
        finetuner.finetune(encoder, settings, 0)
    assert made == [1e-4, 1e-3]


def test_the_recipe_turns_sift_on_with_its_published_settings():
    ordinary, sift = (
        load_config(f"configs/finetune.py:task=mnli,model=deberta,size=xsmall,sift={choice}")
        for choice in ("false", "true")
    )
    assert ordinary.sift.vat_lambda == 0.0 and sift.sift.vat_lambda == 3.0
    assert (ordinary.train.num_epochs, sift.train.num_epochs) == (3, 10)


def test_an_unknown_choice_is_an_error():
    with pytest.raises(ValueError, match="config argument sift: got 'yes', expected one of true, false"):
        load_config("configs/finetune.py:task=mnli,sift=yes")
