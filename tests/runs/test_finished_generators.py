"""Runs of Fast-ELECTRA: what they read and keep of a finished generator, resuming, and what is exported."""

import json
import shutil

import jax
import numpy as np
import pytest

from electra_jax.huggingface.card import make_card, read_record
from electra_jax.huggingface.published_models import to_published
from electra_jax.models.config import encoder_shape
from electra_jax.objectives.registry import own_settings
from electra_jax.runs.changed_length import describe_new_length
from electra_jax.runs.pretraining import pretrain
from electra_jax.runs.trained import load_run
from support import devices, tiny_export
from support.checkpoint_arrays import arrays_of
from support.tiny_export import PLAIN

DISCRIMINATOR = {"discriminator", "discriminator_predictions", "embeddings"}
STEPS, SHARE = 4, 0.5


def make_config(data, generator):
    """A run of four steps, whose discriminator is narrower than that of the generator's run."""
    small = encoder_shape(16, 1) | {"num_heads": 2}
    config = tiny_export.make_config(tiny_export.electra_model(discriminator=small), data)
    config["objective"] = own_settings(config["objective"] | {"name": "fast_electra"})
    config["objective"] |= {"teachers": [str(generator)], "temperature_share": SHARE}
    config["checkpoint"] |= {"every": 2}
    config["train"] |= {"num_steps": STEPS, "batch_size": 8}
    config["optimizer"] |= {"warmup_steps": 1, "learning_rate": 1e-2}
    config["eval"] |= {"batch_size": 8, "max_batches": 1, "every": STEPS}
    config["log"] |= {"progress": False, "every": 1}
    return config


@pytest.fixture(scope="module")
def trained(data, tmp_path_factory):
    """(configuration, run directory, the generator's run) of a run that was not interrupted."""
    root = tmp_path_factory.mktemp("fast_electra")
    generator, _ = tiny_export.make_run(root / "electra", data, tiny_export.electra_model())
    config = make_config(data, generator)
    with devices.one_device():
        pretrain(config, root / "run")
    return config, root / "run", generator


def rows_of(run):
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def test_the_generator_of_an_electra_run_stays_as_it_is(trained):
    """Its discriminator is not read; only the new discriminator has an optimizer state."""
    _, run, generator = trained
    (entry,) = json.loads((run / "config.json").read_text())["config"]["objective"]["teacher_models"]
    assert entry["form"] == "electra"
    state, theirs = arrays_of(run, STEPS), load_run(generator).params
    saved = state["params"]["teachers"]["teacher_0"]
    assert set(saved) == {"embeddings", "generator", "generator_predictions"}
    jax.tree.map(np.testing.assert_array_equal, saved, {name: theirs[name] for name in saved})
    size = lambda tree: sum(leaf.nbytes for leaf in jax.tree.leaves(tree) if leaf.size > 1)
    # Adam's two moments.
    assert size(state["opt_state"]) == 2 * sum(size(state["params"][name]) for name in DISCRIMINATOR)


def test_the_temperature_follows_the_step(trained):
    _, run, _ = trained
    rows = [row for row in rows_of(run) if "sampling_temperature" in row]
    expected = 1.0 + np.exp(-np.arange(STEPS) / STEPS / SHARE)  # from 2 to 1, `exponential`
    np.testing.assert_allclose([row["sampling_temperature"] for row in rows], expected, rtol=1e-6)
    [evaluation] = [row for row in rows_of(run) if "eval/rtd_loss" in row and row["step"] == STEPS]
    np.testing.assert_allclose(evaluation["eval/sampling_temperature"], 1.0, rtol=1e-6)
    assert evaluation["eval/mlm_loss"] > 0 and evaluation["eval/replaced_rate"] > 0


def test_a_new_length_says_what_becomes_of_the_temperature(trained, capsys):
    config, run, _ = trained
    longer = config | {"train": config["train"] | {"num_steps": 2 * STEPS}}
    assert describe_new_length(run, 2, longer) == {"num_steps": [STEPS, 2 * STEPS]}
    after, before = (1.0 + np.exp(-2 / num_steps / SHARE) for num_steps in (2 * STEPS, STEPS))
    said = f"temperature follows the new length, too: it is {after:.4g} at this step instead of {before:.4g}."
    assert said in capsys.readouterr().err


def test_a_resumed_run_needs_no_generator_and_is_the_same(one_device, trained, tmp_path):
    config, run, generator = trained
    shutil.copytree(run, tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "checkpoints" / str(STEPS))
    (tmp_path / "run" / "summary.json").unlink()
    hidden = generator.rename(generator.with_name("hidden"))
    try:
        pretrain(config, tmp_path / "run")
    finally:
        hidden.rename(generator)
    jax.tree.map(np.testing.assert_array_equal, arrays_of(run, STEPS), arrays_of(tmp_path / "run", STEPS))


def test_readers_and_exports_have_the_discriminator_alone(trained):
    _, run, _ = trained
    read = load_run(run)
    assert set(read.params) == DISCRIMINATOR
    [(role, model)] = to_published(read.params, read.model).items()
    assert role == "discriminator" and model.config == read.model.discriminator
    card = make_card(
        role, model.config, read_record(run, STEPS), PLAIN.publication, is_exact=True, with_code=False
    )
    assert "Fast-ELECTRA" in card and "the model to fine-tune" in card and "fills in masks" not in card


def test_a_run_without_a_generator_is_refused(trained, data, tmp_path):
    """Before anything is written."""
    _, run, _ = trained
    message = r"run:4 was trained with objective 'fast_electra', expected a run with the models of 'mlm' or"
    with pytest.raises(ValueError, match=message):
        pretrain(make_config(data, run), tmp_path / "new")
    assert not (tmp_path / "new").exists()
