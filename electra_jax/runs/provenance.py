"""How a run was started: one line of sessions.jsonl each time, for whoever wants to repeat it, and for the
model card."""

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
    """Append when (UTC), from which step, by which command, on which devices and with which versions the run
    goes on."""
    session = {
        "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "start_step": start_step,
        "command": ["python", "-m", *([module] if (module := _module()) else []), *sys.argv[1:]],
        "devices": describe_devices(),
        "versions": {name: importlib.metadata.version(name) for name in PACKAGES},
        "commit": _commit(),
    }
    with open(workdir / "sessions.jsonl", "a", encoding="utf-8") as file:
        file.write(json.dumps(session) + "\n")


def describe_devices() -> str:
    """For example "8 × TPU v5 lite", or "1 × cpu"."""
    kinds = collections.Counter(device.device_kind for device in jax.devices())
    return ", ".join(f"{number} × {kind}" for kind, number in sorted(kinds.items()))


def _module() -> str | None:
    """Dotted name of the module that was run with -m."""
    spec = sys.modules["__main__"].__spec__
    return spec and spec.name


def _commit() -> str | None:
    """Of the checkout that this code runs from, with "+changes" where files in it were edited; None outside
    of one."""

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
