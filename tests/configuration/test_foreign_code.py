"""A run directory may come from anybody: its config.json makes no command run code."""

import json

import pytest

from configs import continued, debug
from electra_jax.configuration.foreign_code import is_own_recipe, without_code
from electra_jax.configuration.recipes import RECIPES
from electra_jax.configuration.sizes import with_assumed_sizes


@pytest.fixture
def run(tmp_path):
    """(directory, config) of a run whose config.json names code."""
    code = tmp_path / "evil.py"
    code.write_text(f"open({str(tmp_path / 'opened')!r}, 'w')\n")
    config = with_assumed_sizes(debug.get_config().to_dict())
    config["probe"] |= {"every": 1, "config": str(code)}
    config["log"] |= {"trackers": ["tensorboard", "evil:Tracker", "evil:Other"]}
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.json").write_text(json.dumps({"config": config, "data": []}))
    return tmp_path / "run", config


def test_a_continued_run_takes_no_code_over(run, capsys):
    directory, found = run
    config = continued.get_config(f"run={directory}")
    assert config.probe.config == "configs/finetune.py:task=trec6" and config.probe.every == 0
    assert tuple(config.log.trackers) == ("tensorboard",)
    said = capsys.readouterr().err
    assert f"--config.probe.every=1 --config.probe.config={found['probe']['config']} if you trust" in said
    assert "pass --config.log.trackers=tensorboard,evil:Tracker,evil:Other if you trust it" in said
    assert not (directory.parent / "opened").exists()


def test_what_is_this_projects_own_stays(run, capsys):
    _, config = run
    config["probe"]["config"], config["log"]["trackers"] = (
        "configs/finetune.py:task=rte,model=electra",
        "wandb",
    )
    kept = without_code(config, "a run")
    assert kept["probe"] == config["probe"] and kept["log"]["trackers"] == ["wandb"]
    assert capsys.readouterr().err == ""


def test_which_recipes_are_this_projects(tmp_path, monkeypatch):
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "finetune.py").touch()
    (tmp_path / "configs" / "other.py").touch()
    monkeypatch.chdir(tmp_path)
    for argument in (
        "configs/finetune.py",
        "configs/finetune.py:task=a:b",
        f"{RECIPES}/electra.py:size=small",
    ):
        assert is_own_recipe(argument), argument
    for argument in (
        "configs/other.py",
        str(tmp_path / "configs" / "finetune.py"),
        f"{RECIPES}/../setup.py",
        "configs/../setup.py",
        "/dev/stdin",
        "",
    ):
        assert not is_own_recipe(argument), argument


@pytest.mark.parametrize(
    "text", ["[]", "{", '{"config": 5}', '{"config": {"objective": {"name": "electra"}}}', '{"config": null}']
)
def test_another_config_json_is_named(text, run):
    directory, _ = run
    (directory / "config.json").write_text(text)
    with pytest.raises(ValueError, match=str(directory)):
        continued.get_config(f"run={directory}")


def test_a_key_that_no_configuration_takes_is_an_error_that_names_the_file(run):
    directory, found = run
    found["train"]["a.b"] = 1
    (directory / "config.json").write_text(json.dumps({"config": found, "data": []}))
    with pytest.raises(ValueError, match=rf"^{directory}/config\.json: .*a\.b"):
        continued.get_config(f"run={directory}")
