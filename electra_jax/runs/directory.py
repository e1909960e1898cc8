"""Checks of a run directory: whether a configuration and its data belong to the run in it, and whether that
run is complete."""

import json
from pathlib import Path
from typing import Any

from flax.traverse_util import flatten_dict

from electra_jax.configuration.migration import upgrade_config
from electra_jax.training.writers import read_metrics

# What may change when a run resumes: what it reports and how often, and the devices it runs on.
MAY_CHANGE_SECTIONS = ("mesh", "log", "checkpoint", "eval", "probe")
MAY_CHANGE_KEYS = ("config.train.layers", "config.train.remat", "config.train.gradient_dtype")
MAY_NOT_CHANGE = "config.checkpoint.init_from"  # although its section may


def check_run_directory(workdir: Path, description: dict[str, Any]) -> None:
    """Raises ValueError, listing the keys, when `workdir` holds a run with another configuration or other
    data. `description` is what config.json keeps: "config" and "data"."""
    path = workdir / "config.json"
    if not path.exists():
        return
    old = _flat_settings(json.loads(path.read_text(encoding="utf-8")))
    new = _flat_settings(json.loads(json.dumps(description)))
    keys = sorted(old.keys() | new.keys())
    differing = [key for key in keys if old.get(key) != new.get(key) and not _may_change(key)]
    if differing:
        lines = "\n".join(
            f"  {key}: the run has {old.get(key)!r}, you gave {new.get(key)!r}" for key in differing
        )
        raise ValueError(
            f"{workdir} belongs to a run with other settings:\n{lines}\n"
            "Use another --workdir, or give the settings of the run."
        )


def _flat_settings(description: dict[str, Any]) -> dict[str, Any]:
    """The description as {"config.section.key": value}, as this version would have written it."""
    return flatten_dict(description | {"config": upgrade_config(description["config"])}, sep=".")


def _may_change(key: str) -> bool:
    sections = tuple(f"config.{section}." for section in MAY_CHANGE_SECTIONS)
    return key in MAY_CHANGE_KEYS or (key.startswith(sections) and key != MAY_NOT_CHANGE)


def is_complete(workdir: Path, newest_checkpoint: int, num_steps: int, *, has_probe: bool) -> bool:
    """Whether the last step is saved, evaluated and, in a run with a probe, probed."""
    last = [row for row in read_metrics(workdir) if row["step"] == num_steps]
    is_probed = any(name.startswith("probe/") for row in last for name in row)
    return newest_checkpoint == num_steps and any(map(is_evaluation, last)) and (is_probed or not has_probe)


def is_evaluation(row: dict[str, Any]) -> bool:
    """Whether a row of metrics is of an evaluation on held-out text."""
    return any(name.startswith("eval/") for name in row)
