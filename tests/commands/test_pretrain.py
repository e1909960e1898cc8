"""`python -m electra_jax.pretrain`: to the end, killed, on a full disk, with NaN, with wrong settings."""

import functools
import json
import shutil
import signal
import time
from pathlib import Path

import pytest

from electra_jax.configuration.flags import load_config
from electra_jax.runs.pretraining import pretrain
from electra_jax.training.writers import read_metrics
from support.run_records import checkpoints, comparable
from support.tiny_run import NUM_STEPS, VOCAB, running, start, values


@pytest.mark.slow
def test_a_run_to_the_end(finished):
    workdir, outcome = finished
    assert outcome.returncode == 0, outcome.stderr
    path = Path(outcome.stdout.splitlines()[-1])
    assert path == workdir / "summary.json"
    summary = json.loads(path.read_text())
    assert summary["steps"] == NUM_STEPS and summary["tokens_per_second"] > 0
    assert (
        0 < summary["heldout_unigram_cross_entropy"] < summary["heldout_mlm_loss"] < 6
    )  # 60 steps do not teach it more
    assert 0 <= summary["heldout_mlm_accuracy"] < 1 and 0 < summary["heldout_rtd_auc"] < 1
    assert (workdir / "plots" / "curves.png").exists()
    assert checkpoints(workdir) == [NUM_STEPS - 10, NUM_STEPS]
    assert (workdir / "parameters.txt").read_text().splitlines()[-1] in outcome.stderr


@pytest.mark.slow
def test_rows_of_a_run(finished):
    workdir, _ = finished
    rows = read_metrics(workdir)
    training, evaluation = (
        [row for row in rows if ("eval/mlm_loss" in row) == kind] for kind in (False, True)
    )
    assert [row["step"] for row in training] == list(range(4, NUM_STEPS + 1, 4))
    assert [row["step"] for row in evaluation] == [20, 40, 60]
    weight = load_config("configs/debug.py").objective.disc_weight
    for row in training:
        assert row["data_wait_seconds"] >= 0 and row["tokens_per_second"] > 0
        # Close and not equal: "loss" is a mean over steps, the others are means over tokens.
        assert row["loss"] == pytest.approx(row["mlm_loss"] + weight * row["rtd_loss"], rel=0.02)
    assert training[-1]["loss"] < training[0]["loss"]


@pytest.mark.slow
def test_a_complete_run_started_again_changes_nothing(finished, data, environment):
    workdir, _ = finished
    before = (workdir / "metrics.jsonl").read_bytes()
    outcome = start(workdir, data, environment)
    assert outcome.returncode == 0 and "the run is complete" in outcome.stderr
    assert outcome.stdout.splitlines()[-1] == str(workdir / "summary.json")
    assert (workdir / "metrics.jsonl").read_bytes() == before


def kill_after_a_checkpoint(workdir, data, environment):
    """Start a run, and end it by SIGKILL as soon as rows lie beyond a checkpoint."""
    with running(workdir, data, environment) as process:
        deadline = time.monotonic() + 300
        while process.poll() is None and time.monotonic() < deadline:
            saved = checkpoints(workdir)
            if saved and (workdir / "metrics.jsonl").read_bytes().count(b"\n") * 4 > saved[-1] + 8:
                break
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    assert checkpoints(workdir)[-1] < NUM_STEPS


@pytest.mark.slow
def test_killed_then_on_a_full_disk_then_resumed_equals_uninterrupted(finished, data, environment, tmp_path):
    expected, workdir = comparable(finished[0]), tmp_path / "killed"
    kill_after_a_checkpoint(workdir, data, environment)
    killed_at = checkpoints(workdir)
    starved = tmp_path / "starved"
    shutil.copytree(workdir, starved)

    assert start(workdir, data, environment).returncode == 0
    assert comparable(workdir) == expected

    outcome = start(
        starved, data, environment, file_limit=50_000
    )  # less than the largest file of a checkpoint
    assert outcome.returncode == 1
    message = outcome.stderr[outcome.stderr.index("error: ") :]
    assert f"could not be saved in {starved / 'checkpoints'}" in message and "Traceback" not in message
    assert f"The checkpoints of steps {killed_at} are complete" in message
    assert checkpoints(starved) == killed_at
    assert start(starved, data, environment).returncode == 0
    assert comparable(starved) == expected


@pytest.mark.slow
def test_a_nonfinite_loss_stops_the_run(data, environment, tmp_path):
    outcome = start(
        tmp_path / "run",
        data,
        environment,
        optimizer__learning_rate=10,
        optimizer__groups="((r'.*', 1e6, 0.0),)",
        objective__disc_weight=1e6,
        optimizer__warmup_steps=50,
        checkpoint__every=1,
    )
    assert outcome.returncode == 1 and "Traceback" not in outcome.stderr
    (kept,) = (tmp_path / "run" / "incidents").iterdir()
    report = json.loads(kept.read_text())
    step = report["step"]
    assert kept.name == f"step_{step}_nonfinite.json" and kept.name in outcome.stderr
    assert report["parameters_of_step"] == step - 1 and len(report["row_losses"]) == 16
    assert f"error: The gradient or update of step {step} is not finite" in outcome.stderr
    assert len(report["rows"]) == 16 and all(
        path == str(data / "corpus") and row >= 0 for path, row in report["rows"]
    )
    assert (
        checkpoints(tmp_path / "run")[-1] == step - 1
        and f"good checkpoint is of step {step - 1}" in outcome.stderr
    )
    again = start(
        tmp_path / "run",
        data,
        environment,
        optimizer__learning_rate=10,
        optimizer__groups="((r'.*', 1e6, 0.0),)",
        objective__disc_weight=1e6,
        optimizer__warmup_steps=50,
        checkpoint__every=1,
    )
    assert (
        f"The gradient or update of step {step} is not finite" in again.stderr
    )  # restored, and the same happens again


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        (
            {"data__datasets": ""},
            ValueError,
            r"config\.data\.datasets: got none, .* Build one with `python -m data_pipelines\.corpus",
        ),
        (
            {"data__datasets": "{data}/corpus,{data}/other"},
            ValueError,
            r"config\.data\.weights: got \(1\.0,\) for 2 datasets",
        ),
        (
            {"data__datasets": "{data}/corpus,{data}/other", "data__weights": (1, 1)},
            ValueError,
            "sequence_length and tokenizer",
        ),
        ({"data__datasets": "{data}/nothing"}, FileNotFoundError, r"no such dataset directory: .*nothing"),
        ({"data__datasets": "{data}"}, FileNotFoundError, r"no corpus\.json; expected a directory made by"),
        (
            {"data__datasets": "{truncated}"},
            OSError,
            r"-train\.array_record-00000-of-0000\d: got 1000 bytes, expected",
        ),
        (
            {"data__sequence_length": 64},
            ValueError,
            r"config\.data\.sequence_length: got 64, but the datasets hold rows of 32",
        ),
        (
            {"model__vocab_size": VOCAB - 1},
            ValueError,
            r"config\.model\.vocab_size: got 127, but the datasets' tokenizer has 128",
        ),
        (
            {"model__max_position_embeddings": 16},
            ValueError,
            r"max_position_embeddings: got 16, expected at least .* 32",
        ),
        ({"mesh__tensor": 3}, ValueError, r"config\.mesh: got .* for 8 devices"),
        ({"mesh__tensor": 8}, ValueError, r"config\.mesh does not fit the model"),
        ({"train__batch_size": 12}, ValueError, r"config\.train\.batch_size: got 12, expected a multiple of"),
        ({"eval__batch_size": 12}, ValueError, r"config\.eval\.batch_size: got 12"),
        ({"log__every": 0}, ValueError, r"config\.log\.every: got 0, expected 1 or more"),
        (
            {"objective__name": "elektra"},
            ValueError,
            r"config\.objective\.name: got 'elektra', expected one of",
        ),
    ],
)
def test_a_wrong_setting_names_its_key_and_nothing_is_written(changes, error, message, data, tmp_path):
    truncated = tmp_path / "truncated"
    shutil.copytree(data / "corpus", truncated)
    shard = next(truncated.glob("*-train.array_record-00000*"))
    shard.write_bytes(shard.read_bytes()[:1000])
    changes = {
        key: value.format(data=data, truncated=truncated) if isinstance(value, str) else value
        for key, value in changes.items()
    }
    config, workdir = load_config("configs/debug.py").to_dict(), tmp_path / "run"
    for key, value in values(data, **changes).items():
        *sections, name = key.split(".")
        functools.reduce(dict.__getitem__, sections, config)[name] = value
    with pytest.raises(error, match=message):
        pretrain(config, workdir)
    assert not workdir.exists()


@pytest.mark.slow
def test_the_directory_of_another_run_is_refused_with_the_keys_that_differ(finished, data, environment):
    workdir, _ = finished
    before = (workdir / "config.json").read_bytes()
    outcome = start(workdir, data, environment, train__seed=3, optimizer__learning_rate=0.5, log__every=7)
    assert outcome.returncode == 1 and "Traceback" not in outcome.stderr
    assert "config.train.seed: the run has 0, you gave 3" in outcome.stderr
    assert "config.optimizer.learning_rate: the run has 0.002, you gave 0.5" in outcome.stderr
    assert "log.every" not in outcome.stderr  # may differ
    assert (workdir / "config.json").read_bytes() == before
