"""The launchers' commands in READMEs and help: each works as a dry run, and has the settings of its plan."""

import os
import subprocess
import sys

import pytest
from flax.traverse_util import flatten_dict

from configs import electra
from electra_jax.planning.stages import with_accelerator_settings
from support.documented_commands import commands_of_docstring, commands_of_markdown
from support.paths import ROOT

LAUNCHERS = ("launch/tpu_vm.py", "launch/gke.sh", "launch/gpu_slurm.sh")
ENVIRONMENT = os.environ | {"GCLUSTER_IMAGE_REPO": "my-repository"}


def run(*words):
    program = [sys.executable] if words[0].endswith(".py") else ["bash"]
    return subprocess.run(
        [*program, *words], cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True, timeout=60, check=False
    )


def documented():
    """Words of every launcher's command behind "python" or "bash"."""
    readmes = [
        ROOT / "README.md",
        *sorted((ROOT / "electra_jax").rglob("README.md")),
        ROOT / "launch/README.md",
    ]
    found = [
        command for path in readmes for command in commands_of_markdown(path.name, path.read_text("utf-8"))
    ]
    for launcher in LAUNCHERS:
        found += commands_of_docstring(launcher, run(launcher, "--help").stdout)
    return list(dict.fromkeys(command.words[1:] for command in found if command.words[1] in LAUNCHERS))


COMMANDS = documented()
STARTING = [words for words in COMMANDS if "--" in words]


def test_the_commands_are_found():
    assert {words[0] for words in STARTING} == set(LAUNCHERS)
    assert {words[1] for words in COMMANDS if words[0] == "launch/gke.sh"} == {"create", "status", "stop"}
    assert {words[1] for words in COMMANDS if words[0] == "launch/tpu_vm.py"} >= {
        "babysit",
        "create",
        "start",
    }


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_a_documented_command_is_a_dry_run(words):
    place = words.index("--") if "--" in words else len(words)
    outcome = run(*words[:place], "--dry_run", *words[place:])
    assert outcome.returncode == 0 and outcome.stdout, outcome.stderr


@pytest.mark.parametrize("words", STARTING, ids=" ".join)
def test_a_documented_run_has_the_settings_of_its_plan(words):
    """What the last line of `plan` names, where it differs from the recipe."""
    config = electra.get_config("size=base").to_dict()
    recipe = flatten_dict(config, sep=".")
    planned = flatten_dict(with_accelerator_settings(config), sep=".")
    expected = {f"--config.{key}={value}" for key, value in planned.items() if value != recipe[key]}
    assert len(expected) > 0 and expected <= set(words)
