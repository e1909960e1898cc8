"""Real small runs with a failure raise the alarm that names it, and list their alarms at their end."""

import json
import shutil

import pytest

from data_pipelines.corpus_builder import build_corpus
from data_pipelines.corpus_settings import CorpusSettings
from electra_jax.training.events import read_events
from electra_jax.training.writers import read_metrics
from support import tiny_run
from support.commands import run_module

# Blocks of 6 steps; nothing is late before step 40.
SETTINGS = {
    "train__num_steps": 120,
    "eval__every": 20,
    "eval__max_batches": 4,
    "log__every": 2,
    "log__progress": False,
    "checkpoint__every": 60,
    "model__hidden_dropout": 0.0,
    "health__early_steps": 40,
    "health__silenced": "data_wait",  # depends on how busy the machine is
}


@pytest.fixture
def train(tmp_path, environment):
    """(data, settings) → (name → first alarm of that name, lines of stderr) of a run in `tmp_path`."""

    def run(data, module="electra_jax.pretrain", **changes):
        command = tiny_run.command(tmp_path, data, **SETTINGS | changes)
        outcome = run_module(module, *command[3:], environment=environment)
        assert outcome.returncode == 0, outcome.stderr
        events = [event for event in read_events(tmp_path) if event["kind"] == "alarm"]
        summary = json.loads((tmp_path / "summary.json").read_text())
        assert summary["alarms"] == len(events)
        return {event["name"]: event for event in reversed(events)}, outcome.stderr.splitlines()

    return run


@pytest.mark.slow
def test_a_discriminator_without_a_loss_learns_nothing(data, train, tmp_path):
    changes = {"objective__disc_weight": 0.0, "model__initializer": "published"}
    found, lines = train(data, **changes)
    stuck, plateau = found["auc_stuck"], found["unigram_plateau"]
    assert 40 <= stuck["step"] <= 120 and stuck["task"] == "rtd" and 0.4 < stuck["auc"] < 0.55
    assert "config.objective.disc_weight=0.0" in stuck["advice"]
    assert "config.model.initializer=published, set it to local" in plateau["advice"]
    assert f"step {stuck['step']}: {stuck['message']} {stuck['advice']}" in lines
    last = next(line for line in reversed(lines) if line.startswith("alarms: "))
    assert f"auc_stuck at step {stuck['step']}" in last and "unigram_plateau at step" in last
    # Resumed in the middle, it raises the same alarms, bit for bit.
    before = read_events(tmp_path)
    shutil.rmtree(tmp_path / "checkpoints" / "120")
    _, lines = train(data, **changes)
    assert read_events(tmp_path) == before and last in lines


@pytest.mark.slow
def test_almost_nothing_masked_leaves_the_discriminator_at_the_majority_class(data, train):
    found, _ = train(data, objective__mask_prob=0.03, train__batch_size=64)
    alarm = found["majority_class"]
    assert alarm["recall"] <= 0.001 and alarm["rate"] == pytest.approx(0.03, abs=0.005)
    assert "config.objective.mask_prob=0.03" in alarm["advice"]


@pytest.mark.slow
def test_a_slow_disk_and_a_learning_rate_of_zero(data, train, tmp_path):
    found, _ = train(
        data,
        "support.slow_reader",
        optimizer__learning_rate=1e-10,
        train__num_steps=40,  # blocks of 2 steps
        eval__every=40,
        health__silenced="auc_stuck",
    )
    assert found["zero_learning_rate"]["learning_rate"] < 1e-10
    assert found["data_wait"]["data_wait_share"] > 0.05
    assert "config.data.prefetch=2" in found["data_wait"]["advice"]
    shares = [row["data_wait_share"] for row in read_metrics(tmp_path) if "data_wait_share" in row]
    assert len(shares) == 20 and all(0 <= share <= 1 for share in shares)


@pytest.mark.slow
def test_a_text_that_is_too_short_is_learnt_by_heart(data, train, tmp_path):
    documents = (data / "train.txt").read_text(encoding="utf-8").split("\n\n")[100:103]
    (tmp_path / "few.txt").write_text("\n\n".join(documents), encoding="utf-8")
    settings = CorpusSettings(
        train=[str(tmp_path / "few.txt")],
        validation=[str(data / "validation.txt")],
        tokenizer=str(data / "tokenizer_corpus"),
        sequence_length=tiny_run.LENGTH,
        packing="documents",
    )
    build_corpus(str(tmp_path / "corpus"), settings)
    found, _ = train(
        tmp_path,
        train__num_steps=600,
        eval__every=50,
        log__every=10,
        checkpoint__every=600,
        optimizer__learning_rate=5e-3,
        model__embedding_size=64,
        model__generator__hidden_size=64,
        model__generator__intermediate_size=256,
    )
    assert {"data_repeating", "generator_strong", "generator_entropy_collapse"} <= found.keys()
    assert found["data_repeating"]["held_out"] > 1.02 * found["data_repeating"]["lowest"]
    assert found["data_repeating"]["passes"] > 50
    assert "unigram_plateau" not in found  # the generator has left it, in another direction
