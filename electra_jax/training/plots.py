"""Learning curves of a run directory as one picture."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from electra_jax.training.writers import Row, read_metrics

# Panel title → metric, drawn for training rows and, under eval/, for evaluation rows.
PANELS = {"masked language modelling loss (nats)": "mlm_loss", "replaced token detection AUC": "rtd_auc"}
PROBES = "probes"  # title of one more panel, for rows under probe/
POINTS = {"marker": "o", "markersize": 3}  # style of evaluations and probes
LINE = {"alpha": 0.7}  # style of training rows


class Curve(NamedTuple):
    """One metric over the steps."""

    label: str
    steps: list[int]
    values: list[float]  # NaN where the metric was not finite, which leaves a gap
    style: dict[str, Any]


class Panel(NamedTuple):
    """Curves that share their axes."""

    title: str
    curves: list[Curve]
    level: float | None = None  # the held-out loss of a model that only counts tokens (unigram.py)


def plot_curves(run_dir: str | os.PathLike) -> Path:
    """Draw the panels of run_dir/metrics.jsonl into run_dir/plots/curves.png; returns that path.

    Raises:
      ValueError: no metrics, or a damaged metrics.jsonl.
    """
    # Imported here, since it takes long. Not pyplot, which has global state and needs a display.
    from matplotlib.figure import Figure

    rows = read_metrics(run_dir)
    if not rows:
        raise ValueError(
            f"{run_dir}: expected metrics.jsonl with at least one row, found none. Train for "
            "config.log.every steps first."
        )
    panels = make_panels(rows)
    figure = Figure(figsize=(5.5 * len(panels), 4.0), layout="constrained")
    for axes, panel in zip(figure.subplots(1, len(panels)), panels, strict=True):
        for curve in panel.curves:
            axes.plot(curve.steps, curve.values, label=curve.label, **curve.style)
        if panel.level is not None:
            axes.axhline(panel.level, linestyle="--", color="gray", label="counting tokens")
        axes.set(title=panel.title, xlabel="step")
        axes.grid(alpha=0.3)
        if axes.get_legend_handles_labels()[0]:
            axes.legend()
    path = Path(run_dir) / "plots" / "curves.png"
    path.parent.mkdir(exist_ok=True)
    figure.savefig(path, dpi=120)
    return path


def make_panels(rows: Sequence[Row]) -> list[Panel]:
    """The panels of a run with these rows: those of PANELS, which may lack curves, and one for its probes."""
    panels = []
    for title, metric in PANELS.items():
        curves = [
            make_curve(rows, metric, "training", LINE),
            make_curve(rows, f"eval/{metric}", "held out", POINTS),
        ]
        level = last_unigram_cross_entropy(rows) if metric == "mlm_loss" else None
        panels.append(Panel(title, [curve for curve in curves if curve.steps], level))
    probes = sorted({name for row in rows for name in row if name.startswith("probe/")})
    if probes:
        curves = [make_curve(rows, name, name.removeprefix("probe/"), POINTS) for name in probes]
        panels.append(Panel(PROBES, curves))
    return panels


def make_curve(rows: Sequence[Row], metric: str, label: str, style: dict[str, Any]) -> Curve:
    """The values of a metric in the rows that have it."""
    points = [(row["step"], row[metric]) for row in rows if metric in row]
    values = [float("nan") if value is None else value for _, value in points]
    return Curve(label, [step for step, _ in points], values, style)


def last_unigram_cross_entropy(rows: Sequence[Row]) -> float | None:
    """The newest finite eval/unigram_cross_entropy."""
    name = "eval/unigram_cross_entropy"
    found = [row[name] for row in rows if row.get(name) is not None]
    return found[-1] if found else None
