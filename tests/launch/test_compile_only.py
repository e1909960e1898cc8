"""launch/compile_only.sh with a simulated environment: what it starts, and where."""

import shutil
import subprocess

import pytest

from support.paths import ROOT
from support.stand_in_gcloud import THIS_PYTHON, write_program

ENVIRONMENT = """make_environment() { echo "$1" > "made with"; PATH="$PWD/programs:$PATH"; }
install_compilers() { mkdir -p .venv/compilers; }
"""
PYTHON = """import os, sys
print(os.getcwd(), os.environ["PYTHONPATH"], os.environ["JAX_PLATFORMS"], *sys.argv[1:], sep="|")
"""


@pytest.fixture
def checkout(tmp_path):
    """A checkout whose path has a blank and brackets."""
    checkout = tmp_path / "my [checkout]"
    (checkout / "launch").mkdir(parents=True)
    shutil.copy(ROOT / "launch" / "compile_only.sh", checkout / "launch")
    (checkout / "launch" / "environment.sh").write_text(ENVIRONMENT)
    return checkout


def launch(checkout, directory, *words):
    write_program(checkout / "programs" / "python", PYTHON, THIS_PYTHON)
    return subprocess.run(
        ["bash", checkout / "launch" / "compile_only.sh", *words],
        cwd=directory,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize(("command", "extra"), [("plan", "formats"), ("benchmark", "test")])
def test_it_runs_where_it_was_called_so_that_files_are_the_callers(command, extra, checkout, tmp_path):
    outcome = launch(checkout, tmp_path, command, "--prices=my prices.json", "--json=plan.json")
    assert outcome.returncode == 0, outcome.stderr
    assert outcome.stdout.strip().split("|") == [
        str(tmp_path),
        str(checkout / ".venv" / "compilers"),
        "cpu",
        "-m",
        f"electra_jax.{command}",
        "--prices=my prices.json",
        "--json=plan.json",
    ]
    assert (checkout / "made with").read_text().startswith(extra)


def test_another_command_is_refused(checkout, tmp_path):
    outcome = launch(checkout, tmp_path, "pretrain")
    assert outcome.returncode == 1 and "got 'pretrain', expected plan or benchmark" in outcome.stderr
    assert not (checkout / ".venv").exists()
