"""Values of config.objective on the command line of `compare`: at least one variant has to read them."""

import types

import pytest

from data_pipelines.json_files import write_json
from electra_jax.comparison.given_settings import check_given_to_suite
from electra_jax.configuration.flags import load_config
from support.command_lines import mistakes_in


def check(suite, recipe, workdir=None, **given):
    """Check values of config.objective that are given to a recipe of configs/debug.py."""
    config = load_config(f"configs/debug.py:{recipe}")
    flat = {f"objective.{key}": value for key, value in config.objective.items()}
    config.objective.update(given)
    flag_values = types.SimpleNamespace(config=config, suite=suite, workdir=workdir and str(workdir))
    check_given_to_suite(flag_values, flat)


@pytest.mark.parametrize(
    ("suite", "recipe", "given"),
    [
        ("reference", "objective=mlm", {"disc_weight": 3.0}),
        ("embedding_sharing", "model=deberta_v3,objective=mlm", {"disc_weight": 3.0}),
        ("ablations", "model=electra", {"name": "mlm"}),  # every variant has its own
    ],
)
def test_a_value_that_changes_no_variant_is_refused(suite, recipe, given):
    [key] = given
    message = rf"^--config\.objective\.{key}: got .* no variant of --suite={suite} reads it"
    with pytest.raises(ValueError, match=message):
        check(suite, recipe, **given)


@pytest.mark.parametrize(
    ("suite", "recipe", "given"),
    [
        ("ablations", "model=electra", {"disc_weight": 3.0}),  # not mlm, but others
        ("ablations", "objective=mlm", {"disc_weight": 3.0}),
        ("backbones", "model=deberta_v3", {"mask_prob": 0.2}),  # RTD; those of MLM have their own
        ("courses", "model=mcl", {"re_std_weight": 3.0}),  # one variant
        ("objectives", "model=electra", {"temperature": 0.5}),
        ("reference", "objective=mlm", {"disc_weight": 5.0}),  # as in the recipe
    ],
)
def test_a_value_that_changes_one_variant_is_taken(suite, recipe, given):
    check(suite, recipe, **given)


def test_one_read_value_does_not_hide_another():
    with pytest.raises(ValueError, match=r"disc_weight: got 3\.0") as raised:
        check("reference", "objective=mlm", disc_weight=3.0, mask_prob=0.2)
    assert "mask_prob" not in str(raised.value)


@pytest.mark.parametrize("folder", ["recipe/seed_0", "tokens_9/recipe/seed_1"])
def test_a_comparison_that_has_begun_keeps_its_values(folder, tmp_path):
    with pytest.raises(ValueError, match="disc_weight"):
        check("reference", "objective=mlm", tmp_path, disc_weight=3.0)
    write_json(tmp_path / folder / "config.json", {}, makes_directories=True)
    check("reference", "objective=mlm", tmp_path, disc_weight=3.0)


def test_sizes_that_are_wrong_are_left_to_their_own_check(tmp_path):
    config = load_config("configs/debug.py:model=deberta_v3")
    config.model.discriminator.num_heads, config.objective.mask_prob = 0, 0.2
    flag_values = types.SimpleNamespace(config=config, suite="backbones", workdir=str(tmp_path))
    check_given_to_suite(flag_values, {})


def test_the_command_checks_it(tmp_path):
    words = ["python", "-m", "electra_jax.compare", f"--workdir={tmp_path}", "--suite=reference"]
    words += ["--config=configs/debug.py:objective=mlm"]
    settings = ("mask_prob=0.2", "disc_weight=3")
    read, unread = mistakes_in([[*words, f"--config.objective.{one}"] for one in settings])
    assert not read and "disc_weight: got 3.0, but no variant of --suite=reference reads it" in unread
