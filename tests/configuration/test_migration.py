"""What older versions wrote is read: real files, and files without each key that came later."""

import copy
import dataclasses
import json

import pytest

from configs import continued
from electra_jax.configuration.flags import load_config
from electra_jax.configuration.migration import (
    DEFAULTS_OF_LATER_KEYS,
    upgrade_config,
    upgrade_datasets,
    upgrade_encoder,
    upgrade_metrics,
    with_tuples,
)
from electra_jax.configuration.resolve import resolve
from electra_jax.configuration.sizes import with_assumed_sizes
from electra_jax.models.config import make_encoder_config, make_pretraining_config
from electra_jax.runs.directory import check_run_directory
from electra_jax.runs.trained import read_description
from support.paths import ROOT

FILES = ROOT / "tests" / "golden" / "old_configs"  # config.json of runs that an earlier version trained
RECIPES = {
    "electra": "configs/debug.py",
    "deberta_v3": "configs/debug.py:model=deberta_v3",
    "mcl": "configs/debug.py:model=mcl",
    "all_tokens_mlm": "configs/debug.py:objective=all_tokens_mlm",
}
# What the command lines of these runs set.
GIVEN = (
    "data.datasets",
    "log.every",
    "eval.every",
    "eval.max_batches",
    "checkpoint.every",
    "train.num_steps",
    "optimizer.warmup_steps",
)


def old_run(name):
    return json.loads((FILES / f"{name}.json").read_text(encoding="utf-8"))


def todays_run(name):
    """Today's recipe with the values that the command line of the old run set."""
    config, old = load_config(RECIPES[name]).to_dict(), old_run(name)["config"]
    for key in GIVEN:
        section, _, leaf = key.partition(".")
        config[section][leaf] = with_tuples(old[section][leaf])
    return with_assumed_sizes(config)  # which are those of the datasets that they had


@pytest.mark.parametrize("name", RECIPES)
def test_an_old_run_has_todays_configuration(name):
    upgraded = with_tuples(upgrade_config(old_run(name)["config"]))
    assert upgraded == todays_run(name)
    assert resolve(upgraded).values == upgraded


@pytest.mark.parametrize("name", RECIPES)
def test_an_old_run_resumes_and_is_continued(name, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(old_run(name)), encoding="utf-8")
    same = {"config": resolve(todays_run(name)).values, "data": old_run(name)["data"]}
    check_run_directory(tmp_path, same)
    other = same["config"] | {"train": same["config"]["train"] | {"batch_size": 64}}
    with pytest.raises(
        ValueError, match=r"config\.train\.batch_size: the run has 32, you gave 64\nUse another"
    ):
        check_run_directory(tmp_path, same | {"config": other})
    config = continued.get_config(f"run={tmp_path}").to_dict()
    todays = todays_run(name)
    assert config == todays | {
        "checkpoint": todays["checkpoint"] | {"init_from": str(tmp_path)},
        "data": todays["data"] | {"sequence_length": 0},
        "assumed": {"vocab_size": 1024, "sequence_length": 64},
    }
    resolve(config)
    assert read_description(tmp_path)["data"] == same["data"]


@pytest.mark.parametrize("key", DEFAULTS_OF_LATER_KEYS)
def test_a_key_that_came_later_gets_what_held_before(key):
    new = upgrade_config(old_run("electra")["config"])
    old, (section, _, name) = copy.deepcopy(new), key.rpartition(".")
    del (old[section] if section else old)[name]
    assert upgrade_config(old) == new


def test_upgrading_changes_no_argument_and_is_done_once_and_for_all():
    old = old_run("deberta_v3")["config"]
    before = copy.deepcopy(old)
    upgraded = upgrade_config(old)
    assert old == before != upgraded and upgrade_config(upgraded) == upgraded


def test_an_old_finetuning_resumes_with_what_held_before(tmp_path):
    new = load_config("configs/finetune.py:task=local").to_dict()
    old = copy.deepcopy(new)
    for name in ("validate_every", "keep"):
        del old["train"][name]
    before = copy.deepcopy(old)
    assert upgrade_config(old) == new != old == before
    (tmp_path / "config.json").write_text(json.dumps({"config": old}), encoding="utf-8")
    check_run_directory(tmp_path, {"config": new})
    with pytest.raises(ValueError, match=r"config\.train\.keep: the run has 'last', you gave 'best'"):
        check_run_directory(tmp_path, {"config": new | {"train": new["train"] | {"keep": "best"}}})


@pytest.mark.parametrize("name", RECIPES)
def test_an_old_encoder_is_read(name):
    encoder = make_pretraining_config(todays_run(name)["model"]).discriminator
    old = json.loads(json.dumps(dataclasses.asdict(encoder)))
    if old["disentangled"]:
        old["disentangled"]["implementation"] = "gather"
    assert make_encoder_config(upgrade_encoder(old)) == encoder
    if old["relative_bias"] is None:
        del old["relative_bias"]
        assert make_encoder_config(upgrade_encoder(old)) == encoder


def test_the_entropy_of_an_evaluations_own_tokens_is_not_read():
    row = {"step": 3, "eval/mlm_loss": 6.9, "eval/unigram_entropy": 4.77}
    assert upgrade_metrics(row) == {"step": 3, "eval/mlm_loss": 6.9}


def test_old_datasets_have_one_stage():
    config = {"data": {"weights": [1.0, 3.0]}}
    entries = [{"path": "a"}, {"path": "b"}]
    upgraded = upgrade_datasets(entries, config)
    assert upgraded == [
        {"path": "a", "weight": 1.0, "first_step": 0},
        {"path": "b", "weight": 3.0, "first_step": 0},
    ]
    assert upgrade_datasets(upgraded, config) == upgraded and upgrade_datasets([], config) == []


def test_the_models_of_teachers_are_upgraded_as_the_run_s_own():
    config = with_assumed_sizes(load_config("configs/debug.py:objective=distillation").to_dict())
    older = {key: value for key, value in config["model"].items() if key not in ("rotary", "relative_bias")}
    teachers = [{"model": older, "checksum": "abc"}]
    config["objective"] |= {"teachers": ["runs/first:5"], "teacher_models": teachers}
    upgraded = upgrade_config(config)["objective"]["teacher_models"]
    assert upgraded == [{"model": config["model"], "checksum": "abc"}] and teachers[0]["model"] is older


def test_whole_numbers_of_an_imported_config_json_become_floats():
    config = old_run("electra")["config"]
    whole = {"hidden_dropout": 0, "attention_dropout": 0, "initializer_range": 0}
    upgraded = upgrade_config(config | {"model": config["model"] | whole})["model"]
    assert all(type(upgraded[key]) is float for key in (*whole, "layer_norm_epsilon"))
    assert type(upgraded["type_vocab_size"]) is int
