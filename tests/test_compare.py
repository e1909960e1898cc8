"""`python -m electra_jax.compare`, what it measures, and the run directories it reads."""

import json

import jax
import numpy as np
import pytest
import tiny_export
from tiny_run import NUM_STEPS, start

from electra_jax.comparisons import average_cosine
from electra_jax.trained_run import load_run


def test_average_cosine_is_that_of_all_pairs():
    table_VE = np.random.default_rng(0).normal(0.3, 1.0, size=(9, 4))
    cosine = lambda u, v: u @ v / np.sqrt((u @ u) * (v @ v))  # noqa: E731
    pairs = [cosine(table_VE[i], table_VE[j]) for i in range(9) for j in range(9) if i != j]
    assert average_cosine(table_VE) == pytest.approx(np.mean(pairs), abs=1e-12)


@pytest.mark.slow
def test_embedding_sharing_by_command_and_again(data, environment, tmp_path):
    choices = {"module": "electra_jax.compare", "config": "configs/debug.py:model=deberta_v3", "train__num_steps": 8,
               "eval__every": 8, "checkpoint__every": 8, "arguments": ("--suite=embedding_sharing", "--seeds=1")}
    outcome = start(tmp_path, data, environment, **choices)
    assert outcome.returncode == 0, outcome.stderr
    lines = outcome.stdout.splitlines()
    assert lines[1] == "| | mlm_loss | rtd_auc | generator_cosine | discriminator_cosine |"
    assert [line.split(" ")[1] for line in lines[3:6]] == ["tied", "none", "gdes"]
    figures = json.loads((tmp_path / "comparison.json").read_text())["figures"]
    tied, none, gdes = (figures[name][0] for name in ("tied", "none", "gdes"))
    assert tied["generator_cosine"] == tied["discriminator_cosine"]
    assert none["generator_cosine"] != none["discriminator_cosine"]
    # Eight steps have hardly moved the deltas, which started at zero; separate tables start apart.
    assert 0 < abs(gdes["generator_cosine"] - gdes["discriminator_cosine"]) < 0.05

    again = start(tmp_path, data, environment, **choices)
    assert again.stdout == outcome.stdout and again.stderr.count("the run is complete") == 3


@pytest.mark.slow
def test_load_run_reads_the_checkpoint_that_is_asked_for(finished):
    workdir, _ = finished
    newest, older = load_run(workdir), load_run(workdir, NUM_STEPS - 10)
    assert (newest.step, older.step) == (NUM_STEPS, NUM_STEPS - 10)
    assert newest.model.discriminator.hidden_size == newest.config["model"]["discriminator"]["hidden_size"] == 32
    leaves = [jax.tree.leaves(run.params) for run in (newest, older, load_run(workdir, NUM_STEPS))]
    assert any((a != b).any() for a, b in zip(leaves[0], leaves[1], strict=True))
    assert all((a == b).all() for a, b in zip(leaves[0], leaves[2], strict=True))
    with pytest.raises(FileNotFoundError, match=rf"expected a checkpoint of step 3, found those of \[{NUM_STEPS - 10}, 60\]"):
        load_run(workdir, 3)


def test_load_run_leaves_alone_what_is_being_saved(data, tmp_path):
    run, _ = tiny_export.make_run(tmp_path / "run", data, tiny_export.electra_model())
    unfinished = run / "checkpoints" / "5.orbax-checkpoint-tmp"
    unfinished.mkdir()
    assert load_run(run).step == 0
    assert unfinished.is_dir()


def test_load_run_wants_a_run_directory(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"expected a run directory of electra_jax\.pretrain, or one .* has no config"):
        load_run(tmp_path)
