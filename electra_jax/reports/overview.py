"""The tables of a report: the newest figures, evaluations, events, starts, datasets; and figures as JSON."""

import collections
import json
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from electra_jax.configuration.migration import upgrade_metrics
from electra_jax.reports.curves import evenly
from electra_jax.reports.panels import EVALUATION, PROBE
from electra_jax.reports.recipe_difference import differences_between
from electra_jax.reports.run_view import RunView
from electra_jax.runs.directory import may_change
from electra_jax.runs.provenance import format_changes, short_commit

MAX_EVALUATIONS, MAX_EVENTS, MAX_SESSIONS = 12, 200, 50  # rows shown
# Rows of the table of figures: metric → its name for people.
FIGURES = {
    "eval/mlm_loss": "held-out masked language modelling loss, nats",
    "eval/unigram_cross_entropy": "… of a model that only counts tokens",
    "eval/rtd_auc": "held-out RTD AUC",
    "eval/rtd_loss": "held-out RTD loss",
    "eval/rtd_balanced_accuracy": "held-out RTD balanced accuracy",
    "eval/replaced_rate": "share of held-out tokens that the generator replaces",
    "loss": "training loss",
    "learning_rate": "learning rate",
    "data_wait_share": "share of the time that waits for data",
}


class Table(NamedTuple):
    """Rows of text; the first cell of each is its name."""

    header: list[str]
    rows: list[list[str]]
    left_out: str = ""  # a sentence about rows that are not shown


def name_runs(runs: Sequence[RunView]) -> dict[str, RunView]:
    """Name → run: the last part of the path, and as much before it as keeps them apart."""
    parts = [[part for part in run.place.rstrip("/").split("/") if part] or [run.place] for run in runs]
    for depth in range(1, max(map(len, parts)) + 1):
        names = ["/".join(one[-depth:]) for one in parts]
        if len(set(names)) == len(names):
            return dict(zip(names, runs, strict=True))
    return {f"{run.place} ({number})": run for number, run in enumerate(runs, 1)}


def state_of(run: RunView) -> str:
    """How far a run is."""
    total = run.num_steps
    if not run.curves:
        return "no metrics yet"
    if total is None:
        return f"step {run.step:,}"
    return (
        f"complete: {total:,} steps" if run.step >= total else f"step {run.step:,} of {total:,}, not complete"
    )


def figures(run: RunView) -> dict[str, float | None]:
    """The newest values of all metrics, and the median speed."""
    last = upgrade_metrics({name: curve.last() for name, curve in run.curves.items()})
    speeds = run.curves.get("tokens_per_second")
    if speeds is not None and np.isfinite(speeds.values).any():
        last["tokens_per_second"] = float(np.nanmedian(speeds.values))
    return last


def figures_table(runs: Mapping[str, RunView]) -> Table:
    """A row for each figure, a column for each run."""
    found = [figures(run) for run in runs.values()]
    rows = [
        ["progress", *map(state_of, runs.values())],
        ["last metrics (UTC)", *(run.written for run in runs.values())],
        *(
            [title, *(shown_number(one.get(name)) for one in found)]
            for name, title in FIGURES.items()
            if any(name in one for one in found)
        ),
        *(
            [
                f"probe: {name.removeprefix(PROBE).replace('_', ' ')}",
                *(shown_number(o.get(name)) for o in found),
            ]
            for name in sorted({name for one in found for name in one if name.startswith(PROBE)})
        ),
        ["tokens a second, median", *(shown_number(one.get("tokens_per_second")) for one in found)],
        ["devices", *map(_devices, runs.values())],
        ["mesh", *map(_mesh, runs.values())],
        ["starts", *(f"{len(run.sessions)}" for run in runs.values())],
        ["events", *(_counts(run) for run in runs.values())],
        ["parameters", *(run.parameters for run in runs.values())],
    ]
    return Table(["", *runs], rows)


def _devices(run: RunView) -> str:
    """Those of the newest start, as "8 × TPU v5 lite"."""
    return str(run.sessions[-1].get("devices", "")) if run.sessions else ""


def _mesh(run: RunView) -> str:
    """config.mesh, with the size that the devices of the newest start give in place of −1 (make_mesh)."""
    num_devices = sum(map(int, re.findall(r"(?:^|, )(\d{1,9}) × ", _devices(run))))
    mesh = run.mesh or {}
    others, remaining = [size for size in mesh.values() if size != -1], "-1 (all remaining devices)"
    # Files are anybody's: the sizes may be of any form, or of other devices.
    if len(others) == len(mesh) - 1 and all(isinstance(size, int) and size > 0 for size in others):
        number, rest = divmod(num_devices, math.prod(others))
        remaining = number if number and not rest else remaining
    return _pairs({axis: remaining if size == -1 else size for axis, size in mesh.items()})


def _counts(run: RunView) -> str:
    counts = collections.Counter(str(event.get("kind")) for event in run.events)
    return ", ".join(f"{count} × {kind}" for kind, count in sorted(counts.items())) or "none"


def evaluations_table(run: RunView) -> Table:
    """Held-out metrics and probes at some steps, the newest included."""
    names = [name for name in run.curves if name.startswith((EVALUATION, PROBE))]
    shown = [name for name in (*FIGURES, "eval/mlm_accuracy", "eval/generator_entropy") if name in names]
    shown += sorted(name for name in names if name.startswith(PROBE))
    values = {
        name: dict(zip(run.curves[name].steps.tolist(), run.curves[name].values.tolist(), strict=True))
        for name in shown
    }
    steps = sorted({step for column in values.values() for step in column})
    rows = [
        [f"{step:,}", *(shown_number(values[name].get(step)) for name in shown)]
        for step in evenly(steps, MAX_EVALUATIONS)
    ]
    return Table(["step", *shown], rows, _left_out(len(rows), len(steps), "evaluations"))


def events_table(run: RunView) -> Table:
    """What happened beside the metrics; the newest if there are many."""
    chosen = run.events[-MAX_EVENTS:]
    known = ("step", "kind", "message", "advice")
    rows = [
        [
            f"{event['step']:,}",
            _text(event.get("kind")),
            _text(event.get("message")),
            _text(event.get("advice")),
            ", ".join(f"{name}={_text(value)}" for name, value in event.items() if name not in known),
        ]
        for event in chosen
    ]
    header = ["step", "kind", "what happened", "what to do", "values"]
    return Table(header, rows, _left_out(len(rows), len(run.events), "events"))


def sessions_table(run: RunView) -> Table:
    """How the run was started, each time."""
    rows = []
    for session in run.sessions[-MAX_SESSIONS:]:
        versions = session.get("versions")
        known = ("started", "start_step", "command", "devices", "versions", "commit", "changed")
        command = session.get("command")
        rows.append(
            [
                _text(session.get("started")),
                _text(session.get("start_step")),
                _text(session.get("devices")),
                _pairs(versions),
                short_commit(_text(session.get("commit"))) or "",
                _changes(session.get("changed")),
                ", ".join(f"{key}={_text(value)}" for key, value in session.items() if key not in known),
                " ".join(map(str, command)) if isinstance(command, list) else "",
            ]
        )
    header = ["started (UTC)", "at step", "devices", "versions", "commit", "changed", "more", "command"]
    return Table(header, rows, _left_out(len(rows), len(run.sessions), "starts"))


def _changes(changed: Any) -> str:
    if not isinstance(changed, dict):
        return ""
    pairs = {name: pair for name, pair in changed.items() if isinstance(pair, list) and len(pair) == 2}
    return format_changes(pairs)


def datasets_table(run: RunView) -> Table:
    """The datasets, and what they were built from."""
    rows = []
    for entry in run.datasets:
        splits = entry.get("splits") if isinstance(entry.get("splits"), dict) else {}
        counts = {
            name: f"{split.get('rows', '?')} rows, {split.get('text_tokens', '?')} tokens of text"
            for name, split in splits.items()
            if isinstance(split, dict)
        }
        rows.append(
            [
                _text(entry.get("path")),
                _text(entry.get("weight")),
                _text(entry.get("first_step")),
                f"{_text(entry.get('sequence_length'))} × {_text(entry.get('vocab_size'))}",
                _text(entry.get("packing")),
                "; ".join(f"{name}: {text}" for name, text in counts.items()),
                _text(entry.get("fingerprint"))[:16],
            ]
        )
    header = ["path", "weight", "from step", "row length × vocabulary", "packing", "splits", "fingerprint"]
    return Table(header, rows)


def shown_number(value: float | None) -> str:
    """A figure for people; an empty text for none."""
    if value is None or value != value:
        return ""
    return f"{value:,.0f}" if abs(value) >= 10_000 else f"{value:.4g}"


def _text(value: Any) -> str:
    """A value from JSON for people."""
    if value is None:
        return ""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _pairs(values: Any) -> str:
    return ", ".join(f"{name} {value}" for name, value in values.items()) if isinstance(values, dict) else ""


def _left_out(shown: int, total: int, what: str) -> str:
    return f"{shown:,} of {total:,} {what} are shown." if shown < total else ""


def label(runs: Mapping[str, RunView], name: str) -> str:
    """What distinguishes a run from the others of a page: up to three settings that affect training."""
    index, differing = list(runs).index(name), differences_between([run.config for run in runs.values()])
    chosen = [one for one in differing if not may_change(f"config.{one.key}")]
    return ", ".join(f"{one.key}={_text(one.values[index])}" for one in chosen[:3])


def report_values(runs: Mapping[str, RunView]) -> dict[str, Any]:
    """The report as JSON."""
    return {
        "runs": {
            name: {
                "place": run.place,
                "step": run.step,
                "num_steps": run.num_steps,
                "figures": figures(run),
                "events": dict(collections.Counter(str(event.get("kind")) for event in run.events)),
                "starts": len(run.sessions),
                "recipe": run.recipe.recipe,
                "differences_to_recipe": {one.key: one.values for one in run.recipe.settings},
                "problems": run.problems,
            }
            for name, run in runs.items()
        },
        "differences_between_runs": {
            one.key: one.values for one in differences_between([run.config for run in runs.values()])
        },
    }
