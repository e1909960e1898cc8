"""How a run was started: each start appends one line to sessions.jsonl, so that the run can be repeated and
its model card written."""

import collections
import importlib.metadata
import json
import subprocess
import sys
import time
from pathlib import Path

import jax

PACKAGES = ("jax", "flax", "optax", "orbax-checkpoint")


def record_start(workdir: Path, start_step: int) -> None:
    """Append a line with the time (UTC), the first step, the command, the devices, the versions and the
    commit of this start."""
    session = {
        "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "start_step": start_step,
        "command": ["python", "-m", *([module] if (module := _module()) else []), *sys.argv[1:]],
        "devices": describe_devices(),
        "versions": {name: importlib.metadata.version(name) for name in PACKAGES},
        "commit": commit(),
    }
    with open(workdir / "sessions.jsonl", "a", encoding="utf-8") as file:
        file.write(json.dumps(session) + "\n")


def describe_devices() -> str:
    """For example "8 × TPU v5 lite", or "1 × cpu"."""
    counts = collections.Counter(device.device_kind for device in jax.devices())
    return ", ".join(f"{number} × {name}" for name, number in sorted(counts.items()))


def _module() -> str | None:
    """Dotted name of the module that was run with -m."""
    spec = sys.modules["__main__"].__spec__
    return spec and spec.name


def commit() -> str | None:
    """Commit of the checkout that this code runs from, with "+changes" if tracked files were edited; None
    outside a checkout."""

    def git(*arguments: str) -> str:
        outcome = subprocess.run(
            ["git", *arguments], cwd=Path(__file__).parent, capture_output=True, text=True, check=True
        )
        return outcome.stdout.strip()

    try:
        return git("rev-parse", "HEAD") + (
            "+changes" if git("status", "--porcelain", "--untracked-files=no") else ""
        )
    except (OSError, subprocess.CalledProcessError):
        return None
