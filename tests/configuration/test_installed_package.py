"""The package installed without its checkout, started beside another project's configs/."""

import os
import shutil

import pytest

from electra_jax.configuration.recipes import find_recipe, own_recipe
from electra_jax.conversion.import_checkpoint import RECIPES
from support.commands import run_module, run_python
from support.paths import ROOT

LOOKED_UP = """
import sys
import electra_jax.huggingface.custom_code as custom_code
from pathlib import Path
from electra_jax.configuration.recipes import find_recipe, load_config, own_recipe
from electra_jax.finetuning.probes import finetuning_config
for recipe in sys.argv[1:]:
    config = load_config(own_recipe(recipe)).to_dict()
    finetuning_config(config)  # reads the recipe that config.probe names
load_config("configs/mine.py")
print(find_recipe("configs/prices.json"), len(list(Path(custom_code.__file__).parent.glob("modeling_*.py"))))
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """A folder with the installed packages alone."""
    source, target = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("installed")
    for folder in ("electra_jax", "data_pipelines", "configs"):
        shutil.copytree(ROOT / folder, source / folder, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "setup.py", source)
    words = ["pip", "install", "--quiet", "--no-deps", "--no-index", "--no-build-isolation", "--target"]
    outcome = run_module(*words, target, source)
    assert outcome.returncode == 0, outcome.stderr
    return target


@pytest.fixture
def elsewhere(tmp_path):
    """A working directory with another project's folder configs/."""
    folder = tmp_path / "another [1] project" / "configs"
    folder.mkdir(parents=True)
    (folder / "__init__.py").write_text("")
    (folder / "finetune.py").write_text("raise SystemExit('of the other project')\n")
    (folder / "mine.py").write_text("from configs.base import x\nfrom configs.debug import get_config\n")
    (folder / "base.py").write_text("x = 1\n")
    return folder.parent


def run(installed, folder, *arguments):
    environment = os.environ | {"PYTHONPATH": str(installed)}
    del environment["HOME"]
    return run_python(*arguments, environment=environment, cwd=folder)


def test_recipes_prices_and_code_are_installed(installed, elsewhere):
    assert sorted(path.name for path in installed.iterdir() if not path.name.endswith("-info")) == [
        "data_pipelines",
        "electra_jax",
    ]
    outcome = run(installed, elsewhere, "-c", LOOKED_UP, *{*RECIPES.values(), "configs/debug.py"})
    assert outcome.returncode == 0, outcome.stderr
    assert outcome.stdout.split() == [str(installed / "electra_jax" / "recipes" / "prices.json"), "2"]


def test_a_command_finds_its_recipe(installed, elsewhere):
    arguments = ["--config=configs/electra.py:size=small", "--workdir=w", "--config.train.num_step=1"]
    outcome = run(installed, elsewhere, "-m", "electra_jax.pretrain", *arguments)
    assert outcome.returncode == 1 and "Did you mean --config.train.num_steps?" in outcome.stderr
    missing = run(
        installed, elsewhere, "-m", "electra_jax.pretrain", "--config=configs/none.py", "--workdir=w"
    )
    assert f"Its recipes are in {installed / 'electra_jax' / 'recipes'}." in missing.stderr


def test_a_file_here_comes_before_a_recipe_of_that_name(elsewhere, monkeypatch):
    monkeypatch.chdir(elsewhere)
    assert find_recipe("configs/finetune.py:task=rte") == "configs/finetune.py:task=rte"
    assert find_recipe("configs/debug.py") == str(ROOT / "configs" / "debug.py")
    assert find_recipe("debug.py") == "debug.py"
    assert own_recipe("configs/finetune.py:task=rte") == f"{ROOT / 'configs' / 'finetune.py'}:task=rte"
    for other in ("./configs/finetune.py", "configs/mine.py", "/x/configs/finetune.py:a=b"):
        assert own_recipe(other) == other
