"""Runs that start from the parameters of another run, or of an import."""

import json
import shutil

import jax
import numpy as np
import pytest

from electra_jax.models.config import encoder_shape
from electra_jax.runs.pretraining import pretrain
from electra_jax.runs.trained import check_initial, load_run
from support import tiny_export
from support.commands import run_module


@pytest.mark.slow
def test_training_continues_from_an_import(data, environment, tmp_path):
    one_layer = {name: encoder_shape(32, 1) | {"num_heads": 2} for name in ("generator", "discriminator")}
    model = tiny_export.deberta_model(**one_layer)
    source, params = tiny_export.make_run(tmp_path / "run", data, model, "deberta_v3")
    tiny_export.export_unverified(source, tmp_path / "out")
    flags = f"--from={tmp_path / 'out'}", "--kind=huggingface", f"--out={tmp_path / 'imported'}"
    imported = run_module("electra_jax.convert", "import", *flags, environment=environment)
    assert imported.returncode == 0, imported.stderr
    assert imported.stdout.splitlines()[-1] == str(tmp_path / "imported")
    outcome = run_module(
        "electra_jax.pretrain",
        f"--config=configs/continued.py:run={tmp_path / 'imported'}",
        f"--workdir={tmp_path / 'continued'}",
        f"--config.data.datasets={data / 'corpus'}",  # of which an export has the name alone
        "--config.train.num_steps=4",
        "--config.log.every=1",
        "--config.optimizer.warmup_steps=2",
        "--config.optimizer.learning_rate=1e-9",
        "--config.eval.max_batches=2",
        environment=environment,
    )
    assert outcome.returncode == 0, outcome.stderr
    assert f"starting from the parameters of {tmp_path / 'imported'}, step 0" in outcome.stderr
    rates = [
        json.loads(line)["learning_rate"]
        for line in (tmp_path / "continued" / "metrics.jsonl").read_text().splitlines()
        if "learning_rate" in line
    ]
    assert rates[0] < rates[1]  # it warms up again
    continued = load_run(tmp_path / "continued")
    assert continued.step == 4
    jax.tree.map(
        lambda one, other: np.testing.assert_allclose(one, other, atol=1e-6), continued.params, params
    )
    assert len((tmp_path / "continued" / "sessions.jsonl").read_text().splitlines()) == 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"model": {"layer_norm_epsilon": 1e-5}},
            r"config\.model\.layer_norm_epsilon: that run has 1e-12, this run has 1e-05",
        ),
        ({"objective": {"name": "mlm"}}, "was trained with objective 'electra', this run has 'mlm'"),
        ({"data": {"datasets": ["{data}/other"]}}, "was trained with another tokenizer"),
    ],
)
def test_initial_parameters_that_do_not_fit_are_refused(changes, message, data, tmp_path):
    initial, _ = tiny_export.make_run(tmp_path / "run", data, tiny_export.electra_model())
    config = tiny_export.make_config(tiny_export.electra_model(), data)
    config["checkpoint"]["init_from"] = str(initial)
    for section, values in changes.items():
        config[section] |= {
            key: [path.format(data=data) for path in value] if key == "datasets" else value
            for key, value in values.items()
        }
    with pytest.raises(ValueError, match=message):
        pretrain(config, tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_the_model_of_an_initial_run_is_that_of_the_stage_of_its_checkpoint(data, tmp_path):
    model = tiny_export.modern_model()
    initial, params = tiny_export.make_run(tmp_path / "run", data, model, "mlm")
    tiny_export.save_steps(initial, params, 5, 8)
    description = json.loads((initial / "config.json").read_text())
    description["config"]["stages"] = [[5, {"model.rotary.global_theta": 1e6}]]
    (initial / "config.json").write_text(json.dumps(description))
    config = description["config"] | {
        "stages": (),
        "model": model | {"rotary": model["rotary"] | {"global_theta": 1e6}},
    }
    fingerprint = load_run(initial).tokenizer.fingerprint
    for name in (f"{initial}", f"{initial}:8"):
        check_initial(name, config, fingerprint)
    check_initial(f"{initial}:5", config | {"model": model}, fingerprint)
    with pytest.raises(ValueError, match=r"global_theta: that run has 160000\.0, this run has 1000000\.0"):
        check_initial(f"{initial}:5", config, fingerprint)
    with pytest.raises(FileNotFoundError, match=r"expected a checkpoint of step 6, found those of \[5, 8\]"):
        check_initial(f"{initial}:6", config, fingerprint)


@pytest.mark.slow
def test_a_started_run_no_longer_needs_its_initial_run(one_device, data, tmp_path):
    initial, _ = tiny_export.make_run(tmp_path / "initial", data, tiny_export.electra_model())
    config = tiny_export.make_config(tiny_export.electra_model(), data)
    config["checkpoint"] |= {"init_from": str(initial), "every": 1}
    config["train"] |= {"num_steps": 1, "batch_size": 8}
    config["optimizer"]["warmup_steps"] = 0
    config["eval"] |= {"batch_size": 8, "max_batches": 1}
    config["log"]["progress"] = False
    summary = pretrain(config, tmp_path / "run")
    recorded = json.loads((tmp_path / "run" / "config.json").read_text())["config"]["checkpoint"]["init_from"]
    (session,) = map(json.loads, (tmp_path / "run" / "sessions.jsonl").read_text().splitlines())
    assert recorded == session["init_from"] == f"{initial}:0"
    shutil.rmtree(initial)
    assert pretrain(config, tmp_path / "run") == summary  # complete
