"""A run that repeats the settings of the run that it starts from is told gentler ones."""

import json
import re

import pytest
from flax.traverse_util import flatten_dict

from configs import continued as continued_recipe
from configs import electra, modernbert
from electra_jax.configuration.resolve import resolve
from electra_jax.configuration.stages import last_stage
from electra_jax.runs.continued_settings import CONTINUED, continued_sections, propose_settings
from electra_jax.training.schedules import decay_length


@pytest.fixture
def continued(tmp_path):
    """Function that gives the configuration of a run which starts from one of ELECTRA base."""
    config = resolve(electra.get_config("size=base").to_dict()).values
    (tmp_path / "config.json").write_text(json.dumps({"config": config, "data": []}), encoding="utf-8")

    def make(**changes):
        made = json.loads(json.dumps(config))
        made["checkpoint"]["init_from"] = str(tmp_path)
        for name, value in changes.items():
            section, _, key = name.partition("__")
            made[section][key] = value
        return made

    return make


def test_the_settings_of_a_first_training_are_proposed_smaller(continued):
    text = propose_settings(continued())
    assert "--config.optimizer.learning_rate=3.3e-05 --config.optimizer.warmup_steps=7660" in text
    assert text.endswith("--config.train.num_steps=76600")


@pytest.mark.parametrize(
    ("schedule", "decay"),
    [("warmup_constant", None), ("warmup_constant_sqrt", 0.0), ("warmup_constant_sqrt", 0.1)],
)
def test_a_rate_that_stays_at_its_peak_is_proposed_with_a_decay(schedule, decay, continued, tmp_path):
    values = {"optimizer__schedule": schedule}
    ours = continued(**values if decay is None else values | {"optimizer__decay_share": decay})
    theirs = ours | {"checkpoint": ours["checkpoint"] | {"init_from": ""}}
    (tmp_path / "config.json").write_text(json.dumps({"config": theirs, "data": []}), encoding="utf-8")
    flag = " --config.optimizer.schedule=warmup_then_decay"
    assert propose_settings(ours).endswith(flag) == (not decay) and "num_steps=" in propose_settings(ours)


PHASES = resolve(modernbert.get_config("size=base,phases=3").to_dict()).values


def proposed_flags(text):
    """Key → value of the flags in a proposal."""
    return dict(flag.split("=", 1) for flag in re.findall(r"--config\.(\S+)", text))


@pytest.mark.parametrize(
    ("step", "rate", "changes"),
    [
        (0, "0.00013", {"optimizer.schedule": "warmup_then_decay"}),  # a sixth of 8e-4, the peak of phase 1
        (400_000, "5e-05", {"optimizer.schedule": "warmup_then_decay"}),  # of 3e-4
        (None, "5e-05", {"optimizer.decay_share": "0.9"}),  # phase 3 is nothing but a decay
    ],
)
def test_a_run_with_schedules_of_its_stages_is_proposed_gentler_settings(step, rate, changes, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"config": PHASES, "data": []}), encoding="utf-8")
    name = str(tmp_path) if step is None else f"{tmp_path}:{step}"
    ours = continued_recipe.get_config(f"run={name}")
    flags = proposed_flags(propose_settings(resolve(ours.to_dict()).values))
    num_steps = PHASES["train"]["num_steps"] // 10
    expected = {"train.num_steps": str(num_steps), "optimizer.warmup_steps": str(num_steps // 10)}
    assert flags == {"optimizer.learning_rate": rate} | expected | changes
    values = flatten_dict(ours.to_dict(), sep=".")
    ours.update_from_flattened_dict({key: type(values[key])(value) for key, value in flags.items()})
    resolve(ours.to_dict())  # warm-up and decay fit


def test_the_settings_of_an_import_fit_a_recipe_that_ends_in_a_decay():
    last = json.loads(json.dumps(last_stage(PHASES)))  # what is resolved is frozen
    config = resolve(last | continued_sections(last)).values
    optimizer = config["optimizer"]
    assert (optimizer["schedule"], optimizer["warmup_steps"]) == ("warmup_constant_sqrt", 10_000)
    assert decay_length(optimizer, config["train"]["num_steps"]) == 90_000


@pytest.mark.parametrize(
    "changes",
    [
        {"optimizer__learning_rate": 1e-4},
        {"optimizer__warmup_steps": 100},
        {"train__num_steps": 1000},
        {"objective__name": "two_stage"},
        {"checkpoint__init_from": ""},
    ],
)
def test_nothing_is_proposed_where_something_was_chosen(continued, changes):
    assert propose_settings(continued(**changes)) == ""


def test_settings_for_continuing_are_not_made_gentler_again(continued, tmp_path):
    imported = continued(**flatten_dict(CONTINUED, sep="__"))
    second = continued(checkpoint__init_from="runs/first")
    for theirs in (imported | {"checkpoint": imported["checkpoint"] | {"init_from": ""}}, second):
        (tmp_path / "config.json").write_text(json.dumps({"config": theirs, "data": []}), encoding="utf-8")
        ours = theirs | {"checkpoint": theirs["checkpoint"] | {"init_from": str(tmp_path)}}
        assert propose_settings(ours) == ""
