"""Processes that use other packages than the environment's (`install_aside` in launch/environment.sh)."""

import os

from support.commands import run_python
from support.paths import ROOT

VENV = ROOT / ".venv"


def environment(name: str) -> dict[str, str]:
    """Environment variables of a process that finds packages in .venv/NAME first, and uses no network."""
    assert (VENV / name / "installed").exists(), (
        f"no {name} in {VENV}: `bash launch/run_tests.sh` installs it"
    )
    return os.environ | {
        "PYTHONPATH": str(VENV / name),
        "HF_HUB_OFFLINE": "1",
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": "",
        "JAX_OPTIMIZATION_LEVEL": "O0",  # saves seconds: the compiled programs are not run
    }


def run(name: str, script: str, *words: str) -> str:
    """What a Python script prints that runs with the packages of .venv/NAME, and succeeds."""
    outcome = run_python("-c", script, *words, environment=environment(name), timeout=600)
    assert outcome.returncode == 0, outcome.stdout + outcome.stderr
    return outcome.stdout
