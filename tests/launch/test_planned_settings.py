"""The launch commands train with the settings for which `plan` computes memory, time and price."""

import ast
import re

import pytest

from electra_jax.planning.stages import with_accelerator_settings
from support.documented_commands import commands_of_docstring, commands_of_markdown
from support.paths import ROOT

LAUNCH = ROOT / "launch"


def launched_runs():
    """(file, arguments) of every run of a recipe that a document of launch/ starts on several devices."""
    commands = commands_of_markdown("README.md", (LAUNCH / "README.md").read_text(encoding="utf-8"))
    for path in sorted(LAUNCH.glob("*.py")):
        docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
        commands += commands_of_docstring(path.name, docstring)
    for path in sorted(LAUNCH.glob("*.sh")):
        for text in re.findall(
            r"<<'END'\n(.*?)^END$", path.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE
        ):
            commands += commands_of_docstring(path.name, text)
    wanted = [each for each in commands if {"--distributed"} & set(each.words)]
    return [(each.source, each.words) for each in wanted if any("size=" in word for word in each.words)]


def test_every_launcher_has_an_example():
    assert {source for source, _ in launched_runs()} == {"README.md", "tpu_vm.py", "gke.sh", "gpu_slurm.sh"}


@pytest.mark.parametrize(("source", "words"), launched_runs())
def test_a_launch_command_has_the_settings_of_a_plan(source, words):
    planned = with_accelerator_settings({"model": {}, "train": {}})
    flags = [
        f"--config.{section}.{name}={value}"
        for section, values in planned.items()
        for name, value in values.items()
    ]
    assert len(flags) == 2 and set(flags) <= set(words), f"{source}: expected {flags} in {words}"
