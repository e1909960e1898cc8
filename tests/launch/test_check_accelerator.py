"""launch/check_accelerator.sh with simulated Pythons: which one it takes, and where it runs."""

import shutil
import subprocess

import pytest

from support.paths import ROOT
from support.stand_in_gcloud import THIS_PYTHON, write_program

ENVIRONMENT = "make_environment() { echo made >&2; }\nhas_cuda_driver() { false; }\n"
PYTHON = """import os, sys
if sys.argv[1] == "-m":
    print(sys.argv[0], os.getcwd(), os.environ["PYTHONPATH"], *sys.argv[1:], sep="|")
"""


@pytest.fixture
def checkout(tmp_path):
    checkout = tmp_path / "my [checkout]"
    (checkout / "launch").mkdir(parents=True)
    shutil.copy(ROOT / "launch" / "check_accelerator.sh", checkout / "launch")
    (checkout / "launch" / "environment.sh").write_text(ENVIRONMENT)
    write_program(checkout / ".venv" / "bin" / "python", PYTHON, THIS_PYTHON)
    return checkout


@pytest.mark.parametrize("has_packages", [True, False])
def test_relative_paths_are_meant_from_where_it_is_called(has_packages, checkout, tmp_path):
    """PYTHON's as well; a Python without the packages is replaced by .venv's."""
    write_program(tmp_path / "bin" / "python", PYTHON if has_packages else "raise ImportError", THIS_PYTHON)
    outcome = subprocess.run(
        ["bash", checkout / "launch" / "check_accelerator.sh", "--out=here"],
        cwd=tmp_path,
        env={"PATH": "/usr/bin:/bin", "PYTHON": "bin/python", "PYTHONPATH": "mine"},
        capture_output=True,
        text=True,
        check=False,
    )
    python = tmp_path / "bin" / "python" if has_packages else checkout / ".venv" / "bin" / "python"
    made = "" if has_packages else f"{tmp_path}/bin/python is not used: ImportError\nmade\n"
    assert outcome.returncode == 0 and outcome.stderr == made
    words = ["-m", "electra_jax.benchmark", "--suite=accelerator", "--out=here"]
    assert outcome.stdout.strip().split("|") == [str(python), str(tmp_path), f"{checkout}:mine", *words]
