"""Real small runs with a failure raise the alarm that names it, and tell of it at their end."""

import json
import time

import pytest

from configs import debug
from data_pipelines.corpus_builder import build_corpus
from data_pipelines.corpus_settings import CorpusSettings
from data_pipelines.mixture import Mixture
from electra_jax.runs.data_passes import most_passes
from electra_jax.runs.data_sizes import resolve_run
from electra_jax.runs.inputs import open_inputs
from electra_jax.runs.pretraining import pretrain
from electra_jax.training.events import read_events
from electra_jax.training.writers import read_metrics
from support import tiny_run

# Blocks of 6 steps; nothing is late before step 40.
SETTINGS = {
    "train.num_steps": 120,
    "eval.every": 20,
    "eval.max_batches": 4,
    "log.every": 2,
    "checkpoint.every": 60,
    "model.hidden_dropout": 0.0,
    "health.early_steps": 40,
    "health.silenced": ("data_wait",),  # depends on how busy the machine is
}


@pytest.fixture(scope="module")
def few(data):
    """A dataset of three documents, which a model soon knows by heart."""
    documents = (data / "train.txt").read_text(encoding="utf-8").split("\n\n")[100:103]
    (data / "few.txt").write_text("\n\n".join(documents), encoding="utf-8")
    settings = CorpusSettings(
        train=[str(data / "few.txt")],
        validation=[str(data / "validation.txt")],
        tokenizer=str(data / "tokenizer_corpus"),
        sequence_length=tiny_run.LENGTH,
        packing="documents",
    )
    build_corpus(str(data / "few"), settings)
    return data / "few"


def config_of(data, changes, model="electra"):
    config = debug.get_config(f"model={model}")
    config.update_from_flattened_dict(
        tiny_run.values(data)
        | {"data.datasets": (str(data / "corpus"),), "log.progress": False}
        | SETTINGS
        | changes
    )
    return config.to_dict()


def alarms(workdir):
    return {event["name"] for event in read_events(workdir) if event["kind"] == "alarm"}


def test_a_discriminator_without_a_loss_learns_nothing(data, tmp_path, capfd):
    changes = {"objective.disc_weight": 0.0, "model.initializer": "published"}
    summary = pretrain(config_of(data, changes), tmp_path)
    assert {"auc_stuck", "unigram_plateau"} <= alarms(tmp_path)
    assert (
        summary["alarms"]
        == len(read_events(tmp_path))
        == json.loads((tmp_path / "summary.json").read_text())["alarms"]
    )
    stuck = next(event for event in read_events(tmp_path) if event["name"] == "auc_stuck")
    assert 40 <= stuck["step"] <= 120 and stuck["task"] == "rtd" and 0.4 < stuck["auc"] < 0.55
    assert "config.objective.disc_weight=0.0" in stuck["advice"]
    plateau = next(event for event in read_events(tmp_path) if event["name"] == "unigram_plateau")
    assert "config.model.initializer=published, set it to local" in plateau["advice"]
    err = capfd.readouterr().err
    assert f"step {stuck['step']}: ALARM auc_stuck: " in err
    assert err.splitlines()[-1].startswith("alarms: ") and "auc_stuck at step" in err.splitlines()[-1]


def test_almost_nothing_masked_leaves_the_discriminator_at_the_majority_class(data, tmp_path):
    pretrain(config_of(data, {"objective.mask_prob": 0.03, "train.batch_size": 64}), tmp_path)
    event = next(event for event in read_events(tmp_path) if event["name"] == "majority_class")
    assert event["recall"] <= 0.001 and event["rate"] == pytest.approx(0.03, abs=0.005)
    assert "config.objective.mask_prob=0.03" in event["advice"]


def test_a_slow_disk_and_a_learning_rate_of_zero(data, tmp_path, monkeypatch):
    read = Mixture.read

    def read_slowly(self, *args):
        time.sleep(0.3)
        return read(self, *args)

    monkeypatch.setattr(Mixture, "read", read_slowly)
    changes = {"health.silenced": (), "optimizer.learning_rate": 1e-10, "train.num_steps": 40}
    pretrain(config_of(data, changes), tmp_path)
    found = {event["name"]: event for event in read_events(tmp_path)}
    assert {"data_wait", "zero_learning_rate"} <= found.keys()
    assert found["data_wait"]["data_wait_share"] > 0.5
    assert "config.data.prefetch=2" in found["data_wait"]["advice"]
    shares = [row["data_wait_share"] for row in read_metrics(tmp_path) if "data_wait_share" in row]
    assert len(shares) == 20 and all(0 <= share <= 1 for share in shares)


def test_a_text_that_is_too_short_is_learnt_by_heart(data, few, tmp_path):
    changes = {
        "data.datasets": (str(few),),
        "train.num_steps": 600,
        "eval.every": 50,
        "log.every": 10,
        "checkpoint.every": 600,
        "optimizer.learning_rate": 5e-3,
        "model.embedding_size": 64,
        "model.generator.hidden_size": 64,
        "model.generator.intermediate_size": 256,
    }
    config = config_of(data, changes)
    pretrain(config, tmp_path)
    found = {event["name"]: event for event in read_events(tmp_path)}
    assert {"data_repeating", "generator_strong", "generator_entropy_collapse"} <= found.keys()
    repeating = found["data_repeating"]
    assert repeating["held_out"] > 1.02 * repeating["lowest"]
    inputs = open_inputs(resolve_run(config, tmp_path), tmp_path)
    rows = inputs.stages[0].mixture.num_rows
    assert repeating["passes"] == pytest.approx(repeating["step"] * 16 / rows)
    assert most_passes(inputs.stages, 100) == pytest.approx(1600 / rows)
    assert "unigram_plateau" not in found  # the generator has left it, in another direction


def test_without_alarms_nothing_is_judged(data, tmp_path, capfd):
    changes = {"health.alarms": False, "optimizer.learning_rate": 1e-10, "train.num_steps": 40}
    assert pretrain(config_of(data, changes), tmp_path)["alarms"] == 0
    assert read_events(tmp_path) == []
