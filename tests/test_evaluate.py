"""`python -m electra_jax.evaluate`: equal FLOPs, every start on every task, one table."""

import json

import numpy as np
import pytest
import tiny_run

from electra_jax import evaluate
from electra_jax.command_line import load_config
from electra_jax.models.config import make_pretraining_config
from electra_jax.models.flops import mlm_flops, rtd_flops


def test_objectives_cost_the_same():
    config = load_config("configs/evaluate.py").pretraining.to_dict()
    model = make_pretraining_config(config["model"])
    tokens = config["train"]["num_steps"] * config["train"]["batch_size"] * 128
    steps = evaluate.equal_steps(config, "mlm")
    assert evaluate.equal_steps(config, "electra") == config["train"]["num_steps"] < steps
    cost = steps * config["train"]["batch_size"] * 128 * mlm_flops(model, 128, 0.15)
    np.testing.assert_allclose(cost, tokens * rtd_flops(model, 128, 0.15), rtol=1e-3)


@pytest.fixture()
def config(data, tmp_path):
    """Two small tasks, a run of a few steps."""
    for split, number in (("train", 32), ("validation", 16)):
        rows = [f"{'abc defg' if i % 2 else 'hij klm'}\t{i % 2}\n" for i in range(number)]
        (tmp_path / f"{split}.tsv").write_text("".join(rows))
    config = load_config("configs/evaluate.py").to_dict()
    pretraining = load_config("configs/debug.py")
    pretraining.update_from_flattened_dict({key: value for key, value in tiny_run.values(
        data, train__num_steps=4, eval__every=4, checkpoint__every=4, log__every=2).items() if key != "data.datasets"})
    pretraining.data.datasets = (str(data / "corpus"),)
    task = load_config("configs/finetune.py:task=local").to_dict()
    task["task"] |= {split: str(tmp_path / f"{split}.tsv") for split in ("train", "validation")} | {"text": "0", "label": "1"}
    task["train"] |= {"num_epochs": 1, "batch_size": 8}
    task["log"] = {"progress": False}
    other = task | {"task": task["task"] | {"metrics": ("f1", "matthews")}}
    return config | {"pretraining": pretraining.to_dict(), "tasks": {"one": task, "two": other}}


@pytest.mark.slow
def test_every_start_is_fine_tuned_on_every_task(config, tmp_path):
    workdir = tmp_path / "run"
    runs = evaluate.pretrain_objectives(config["pretraining"], ["mlm", "electra"], workdir, [0, 1])
    assert {name: sorted(path.name for path in directory.iterdir()) for name, directory in runs.items()} == {
        "mlm": ["seed_0", "seed_1"], "electra": ["seed_0", "seed_1"]}
    for name, directory in runs.items():
        described = json.loads((directory / "seed_1" / "config.json").read_text())["config"]
        assert (described["objective"]["name"], described["train"]["seed"], described["data"]["seed"]) == (name, 1, 1)
    starts = {"random": f"random:{runs['electra']}/seed_0", "mlm": f"{runs['mlm']}/seed_{{seed}}"}
    results = evaluate.evaluate(config, workdir, starts, [0, 1])
    assert [(result.model, result.seed) for result in results] == [("random", 0), ("random", 1), ("mlm", 0), ("mlm", 1)]
    assert all(list(result.metrics) == ["one accuracy", "two f1", "two matthews"] for result in results)
    assert evaluate.evaluate(config, workdir, starts, [0, 1]) == results
