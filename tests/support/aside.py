"""Packages installed beside the environment's own (launch/environment.sh), for processes that need other
ones."""

import os

from support.paths import ROOT

VENV = ROOT / ".venv"


def environment(name: str) -> dict[str, str]:
    """Environment variables of a process of this Python that sees the packages in .venv/NAME first, and asks
    no network."""
    assert (VENV / name / "installed").exists(), (
        f"no {name} in {VENV}: `bash launch/run_tests.sh` installs it"
    )
    return os.environ | {
        "PYTHONPATH": str(VENV / name),
        "HF_HUB_OFFLINE": "1",
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": "",
        "JAX_OPTIMIZATION_LEVEL": "O0",
    }  # of the programs that the compilers make and nothing runs: seconds
