"""transformers 4, installed beside the environment's transformers 5: what we write must mean the same in both."""

import os
from pathlib import Path

ROOT = Path(__file__).parent.parent
DIRECTORY = Path(os.environ.get("TRANSFORMERS4", ROOT / ".venv" / "transformers4"))


def environment() -> dict[str, str]:
    """Environment variables of a process of this Python that imports transformers 4 and never asks the network."""
    assert (DIRECTORY / "installed").exists(), f"no transformers 4 in {DIRECTORY}: `bash launch/run_tests.sh` installs it"
    return os.environ | {"PYTHONPATH": str(DIRECTORY), "HF_HUB_OFFLINE": "1"}
