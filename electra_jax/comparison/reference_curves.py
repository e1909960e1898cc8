"""Writes the reference curves of a recipe from finished runs of it (training/reference.py reads them)."""

import itertools
import re
import shlex
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from flax.traverse_util import flatten_dict

from data_pipelines.json_files import write_json
from electra_jax.configuration.flags import recipe_of
from electra_jax.configuration.session_lines import SESSIONS_FILE, Session
from electra_jax.runs.directory import may_change
from electra_jax.runs.provenance import read_sessions
from electra_jax.runs.trained import read_description
from electra_jax.training.reference import make_curves
from electra_jax.training.writers import read_metrics

REFERENCE_FILE = "reference.json"
SUITE = "reference"
RECORDED = ("started", "command", "devices", "versions")  # of a session
# What may change when a run resumes and yet decides what the curves show: their held-out rows, their steps.
MEASURES = ("eval.", "log.every")
SEEDS = ("train.seed", "data.seed")
# Sections and keys that do not decide the values of the curves, or differ from seed to seed.
LEFT_OUT = (
    *SEEDS,
    "assumed.",
    "checkpoint.",
    "data.datasets",
    "eval.every",
    "log.every",
    "train.num_epochs",
)


def write_reference(runs: Mapping[int, Path], workdir: Path) -> Path:
    """Write workdir/reference.json from the run directories of the seeds; returns its path.

    Raises:
      ValueError: a run has no metrics, or stages.
      OSError: a file cannot be read or written.
    """
    first = next(iter(runs.values()))
    description = read_description(first)
    session = max((_last_session(run) for run in runs.values()), key=lambda one: one["started"])
    config = description["config"]
    if config["stages"]:
        raise ValueError(
            f"{first}: got a run with stages, expected config.stages=(): its tokens a step vary."
        )
    contents = {
        "recipe": recipe_of(session["command"]) or "",
        "command": _repeating(session["command"], len(runs)),
        "seeds": list(runs),
        "corpus": {"fingerprints": list(description["data"])},
        "made": {
            "date": time.strftime("%Y-%m-%d", time.gmtime()),
            "devices": session["devices"],
            "versions": session["versions"],
        },
        "settings": _settings(config),
        "tokens_per_step": config["train"]["batch_size"] * config["data"]["sequence_length"],
    }
    curves = make_curves([read_metrics(run) for run in runs.values()], contents["tokens_per_step"])
    if not curves:
        raise ValueError(f"{workdir}: got runs without a row of metrics in common, expected some.")
    write_json(workdir / REFERENCE_FILE, contents | {"curves": curves})
    return workdir / REFERENCE_FILE


def _last_session(run: Path) -> Session:
    sessions = read_sessions(run)
    if not sessions or any(key not in sessions[-1] for key in RECORDED):
        raise ValueError(
            f"{run / SESSIONS_FILE}: its last line lacks {', '.join(RECORDED)}, or there is none; expected "
            "the line that the run wrote. Restore the file, or train this seed again."
        )
    return sessions[-1]


def _settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """The settings, flat, that decide what a run of the recipe computes and what its evaluations measure."""
    return {
        key: value
        for key, value in flatten_dict(dict(config), sep=".").items()
        if _decides(key) and not key.startswith(LEFT_OUT)
    }


def _decides(key: str) -> bool:
    return not may_change(f"config.{key}") or key.startswith(MEASURES)


def _repeating(command: Sequence[str], num_seeds: int) -> str:
    """The command, for a shell, that makes the curves which a recorded one made: its recipe, and those of its
    flags for the configuration that decide them."""
    overrides = []
    for word, following in itertools.pairwise([*command, ""]):
        given = re.match(r"--?(?:no)?config\.([\w.]+)", word)
        if given and _decides(given[1]) and given[1] not in SEEDS:
            is_whole = "=" in word or re.match(r"$|-\D", following)  # else its value is the next word
            overrides.append(word if is_whole else f"{word}={following}")
    return shlex.join(
        [
            *("python", "-m", "electra_jax.compare", f"--suite={SUITE}"),
            f"--config={recipe_of(command) or ''}",
            *overrides,
            *("--workdir=DIR", "--config.data.datasets=DIR", f"--seeds={num_seeds}"),
        ]
    )
