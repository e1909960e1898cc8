"""What a run directory says about its run: whether it is the same run, whether it is complete, and what came
out."""

import json
import os
from pathlib import Path
from typing import Any

from electra_jax.configuration.migration import DEFAULTS_OF_LATER_KEYS
from electra_jax.configuration.objectives import clean_objective
from electra_jax.training.plots import plot_curves
from electra_jax.training.writers import read_metrics

# What may differ between the parts of one run: what it reports and how often, and on which devices it runs.
MAY_CHANGE_SECTIONS = ("mesh", "log", "checkpoint", "eval", "probe")
MAY_CHANGE_KEYS = ("config.train.layers", "config.train.remat", "config.train.gradient_dtype")
MAY_NOT_CHANGE = "config.checkpoint.init_from"


def check_run_directory(workdir: Path, description: dict[str, Any]) -> None:
    """Raises ValueError, listing the keys, when `workdir` holds a run with another configuration or other
    data."""
    path = workdir / "config.json"
    if not path.exists():
        return
    old, new = _comparable(json.loads(path.read_text())), _comparable(json.loads(json.dumps(description)))
    old = {
        f"config.{key}": value for key, value in DEFAULTS_OF_LATER_KEYS.items() if f"config.{key}" in new
    } | old
    free = tuple(f"config.{section}." for section in MAY_CHANGE_SECTIONS)
    differing = [
        key
        for key in sorted(old.keys() | new.keys())
        if old.get(key) != new.get(key)
        and (key == MAY_NOT_CHANGE or not key.startswith(free))
        and key not in MAY_CHANGE_KEYS
    ]
    if differing:
        lines = "\n".join(
            f"  {key}: the run has {old.get(key)!r}, you gave {new.get(key)!r}" for key in differing
        )
        raise ValueError(
            f"{workdir} belongs to a run with other settings:\n{lines}\n"
            "Use another --workdir, or give the settings of the run."
        )


def _comparable(description: dict[str, Any]) -> dict[str, Any]:
    """Flat, and with the keys of config.objective that the objective reads: older runs have those of all."""
    config = description["config"]
    if "objective" in config:
        config = config | {"objective": clean_objective(config["objective"])}
    return flatten(description | {"config": config})


def write_json(path: Path, value: Any) -> None:
    """Write `value`, all at once or not at all: a file torn by a crash would keep the run from going on."""
    unfinished = path.with_name(path.name + ".tmp")
    unfinished.write_text(json.dumps(value, indent=2))
    os.replace(unfinished, path)


def flatten(tree: Any, prefix: str = "") -> dict[str, Any]:
    """Nested dictionaries as {"a.b.c": value}."""
    if not isinstance(tree, dict):
        return {prefix: tree}
    return {
        name: value
        for key, child in tree.items()
        for name, value in flatten(child, f"{prefix}.{key}" if prefix else key).items()
    }


def is_complete(workdir: Path, newest_checkpoint: int, num_steps: int, *, has_probe: bool) -> bool:
    """Whether the last step is saved, evaluated and, in a run that does so, probed: there is nothing left to
    do."""
    last = [row for row in read_metrics(workdir) if row["step"] == num_steps]
    return (
        newest_checkpoint == num_steps
        and any(map(is_evaluation, last))
        and (not has_probe or any(name.startswith("probe/") for row in last for name in row))
    )


def is_evaluation(row: dict[str, Any]) -> bool:
    """Whether a row of metrics is one of a pass over held-out text."""
    return any(name.startswith("eval/") for name in row)


def summarize_run(workdir: Path) -> dict[str, Any]:
    """Write summary.json and the curves of a finished run; returns the summary."""
    rows = read_metrics(workdir)
    final = next(filter(is_evaluation, reversed(rows)))
    speeds = sorted(row["tokens_per_second"] for row in rows if "tokens_per_second" in row)
    summary = {"steps": final["step"], "tokens_per_second": speeds[len(speeds) // 2] if speeds else None}
    last = {key: value for row in rows if row["step"] == final["step"] for key, value in row.items()}
    for prefix, name in (("eval/", "heldout_"), ("probe/", "probe_")):
        summary |= {key.replace(prefix, name): value for key, value in last.items() if key.startswith(prefix)}
    write_json(workdir / "summary.json", summary)
    plot_curves(workdir)
    return summary
