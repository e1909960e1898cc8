"""The package installed by `pip install git+URL`, started without its checkout beside another project's
configs/."""

import json
import os
import random
import re
import shutil
import subprocess

import pytest

from data_pipelines.installation import install_command
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


FOLDERS = ("electra_jax", "data_pipelines", "configs")
# Prints what an installed package knows of its source and of the packages that it lacks.
ORIGIN = """
from electra_jax.runs.provenance import commit
from data_pipelines.installation import install_command
print(commit())
print(install_command("finetune"))
"""


def git(folder, *words):
    """What `git WORDS` prints in a folder."""
    settings = ["-c", "user.name=a", "-c", "user.email=a@b", "-c", "init.defaultBranch=main"]
    outcome = subprocess.run(
        ["git", *settings, *words], cwd=folder, capture_output=True, text=True, check=True
    )
    return outcome.stdout.strip()


def make_repository(folder):
    """Commit all files of a folder; returns the commit."""
    git(folder, "init", "--quiet", "--template=")
    git(folder, "add", "--all", "--force")
    git(folder, "commit", "--quiet", "--message=a")
    return git(folder, "rev-parse", "HEAD")


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A repository with what pip needs of this checkout."""
    folder = tmp_path_factory.mktemp("source")
    for name in FOLDERS:
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder)
    make_repository(folder)
    return folder


@pytest.fixture(scope="module")
def installed(tmp_path_factory, source):
    """The folder of the installed packages, in the repository of another project."""
    project = tmp_path_factory.mktemp("project")
    (project / "notes.txt").write_text("of another project")
    make_repository(project)
    target = project / "site-packages"
    words = ["pip", "install", "--quiet", "--no-deps", "--no-index", "--no-build-isolation", "--target"]
    outcome = run_module(*words, target, f"git+{source.as_uri()}")
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
    environment.pop("HOME", None)
    return run_python(*arguments, environment=environment, cwd=folder)


def succeed(installed, folder, *words):
    """What the console command prints."""
    outcome = run(installed, folder, installed / "bin" / "electra-jax", *words)
    assert outcome.returncode == 0, outcome.stderr
    return outcome.stdout


def test_recipes_prices_and_code_are_installed(installed, elsewhere):
    folders = sorted(path.name for path in installed.iterdir() if not path.name.endswith("-info"))
    assert folders == ["bin", "data_pipelines", "electra_jax"]
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


def test_every_file_of_the_packages_is_installed(installed, source):
    """Data files, too, which setup.py has to name, and the READMEs, which --help names."""
    files = git(source, "ls-files", *FOLDERS).splitlines()
    places = [path.replace("configs/", "electra_jax/recipes/", 1) for path in files]
    assert len(places) > 200 and [place for place in places if not (installed / place).is_file()] == []


def test_the_licence_is_installed_and_named(installed):
    [metadata] = installed.glob("electra_jax-*.dist-info")
    assert (metadata / "licenses" / "LICENSE").read_text() == (ROOT / "LICENSE").read_text()
    lines = (metadata / "METADATA").read_text(encoding="utf-8").splitlines()
    assert {"License-Expression: Apache-2.0", "License-File: LICENSE"} < set(lines)
    assert "Description-Content-Type: text/markdown" in lines and "# electra_jax" in lines


def test_the_readme_has_a_row_for_every_extra(installed):
    [path] = installed.glob("electra_jax-*.dist-info/METADATA")
    text = path.read_text(encoding="utf-8")
    extras = re.findall("^Provides-Extra: (.*)$", text, re.MULTILINE)
    table = text.partition("\n| extra |")[2].partition("\n\n")[0]
    named = [name for row in table.splitlines()[2:] for name in re.findall("`(.*?)`", row.split("|")[1])]
    assert len(extras) > 10 and sorted(named) == sorted(extras)


def test_an_installed_package_knows_its_commit_and_its_extras(installed, source, elsewhere):
    outcome = run(installed, elsewhere, "-c", ORIGIN)
    assert outcome.returncode == 0, outcome.stderr
    commit, command = outcome.stdout.splitlines()
    assert commit == git(source, "rev-parse", "HEAD")
    assert command == "`pip install 'scikit-learn>=1.5' 'seqeval>=1.2.2' 'threadpoolctl>=3.5'`"
    assert install_command("finetune") == "`pip install -e '.[finetune]'` in the checkout"


def test_the_console_command_imports_modules_beside_a_recipe(installed, elsewhere):
    """As `python -m` does; the recipe of the other project imports configs.base."""
    words = ["pretrain", "--config=configs/mine.py", "--workdir=w", "--config.train.num_step=1"]
    outcome = run(installed, elsewhere, installed / "bin" / "electra-jax", *words)
    assert outcome.returncode == 1 and "Did you mean --config.train.num_steps?" in outcome.stderr


@pytest.mark.slow
def test_from_text_to_an_export_with_the_console_command(installed, tmp_path):
    """Also what starts processes of its own, and plan, which reads prices."""
    source = random.Random(0)
    words = ["pan", "tea", "sun", "road", "walks", "sings", "far", "old"]
    lines = [json.dumps({"text": " ".join(source.choices(words, k=40))}) for _ in range(300)]
    (tmp_path / "text.jsonl").write_text("\n".join(lines))
    succeed(installed, tmp_path, "tokenizer", "--input=text.jsonl", "--out=tokenizer", "--vocab_size=26")
    built = ["--train", "text.jsonl", "--validation_fraction=0.1", "--tokenizer=tokenizer", "--out=corpus"]
    built += ["--sequence_length=64", "--packing=documents", "--num_processes=2"]
    succeed(installed, tmp_path, "corpus", *built)
    config = ["--config=configs/debug.py", "--config.model.discriminator.num_layers=1"]
    config += ["--config.train.num_steps=2"]
    config += [
        "--config.train.batch_size=8",
        "--config.optimizer.warmup_steps=1",
        "--config.log.progress=False",
    ]
    trained = ["pretrain", *config, "--config.data.datasets=corpus", "--workdir=run"]
    assert succeed(installed, tmp_path, *trained).endswith("run/summary.json\n")
    [session] = map(json.loads, (tmp_path / "run" / "sessions.jsonl").read_text().splitlines())
    assert session["command"] == ["python", "-m", "electra_jax.pretrain", *trained[1:]]
    assert "memory of each device" in succeed(installed, tmp_path, "plan", *config, "--device=cpu:2")
    assert "export" in succeed(installed, tmp_path, "convert", "export", "--workdir=run", "--out=export")
    assert (tmp_path / "export" / "discriminator" / "model.safetensors").is_file()
