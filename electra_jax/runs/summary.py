"""The results of a run: summary.json, and lines of names and values for the terminal."""

import contextlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from data_pipelines.json_files import write_json
from data_pipelines.whole_files import named_errors
from electra_jax.configuration.extras import can_draw
from electra_jax.configuration.migration import upgrade_metrics
from electra_jax.runs.directory import is_evaluation
from electra_jax.training.events import read_events
from electra_jax.training.health import KIND
from electra_jax.training.plots import plot_curves
from electra_jax.training.writers import METRICS_FILE, read_metrics


def summarize_run(workdir: Path) -> dict[str, Any]:
    """Write summary.json and, with matplotlib, plots/curves.png of a finished run; returns the summary.

    It holds the number of steps, the median speed, the number of alarms, and the metrics of the last
    evaluation ("heldout_…") and probe ("probe_…").
    """
    rows = [upgrade_metrics(row) for row in read_metrics(workdir)]
    final = next(filter(is_evaluation, reversed(rows)))
    speeds = sorted(row["tokens_per_second"] for row in rows if row.get("tokens_per_second") is not None)
    summary = {"steps": final["step"], "tokens_per_second": speeds[len(speeds) // 2] if speeds else None}
    summary["alarms"] = sum(event["kind"] == KIND for event in read_events(workdir))
    last = {key: value for row in rows if row["step"] == final["step"] for key, value in row.items()}
    for prefix, name in (("eval/", "heldout_"), ("probe/", "probe_")):
        summary |= {key.replace(prefix, name): value for key, value in last.items() if key.startswith(prefix)}
    write_json(workdir / "summary.json", summary)
    curves = workdir / "plots" / "curves.png"
    # Importing matplotlib and drawing take a second, which is saved for a run that was complete before.
    time = (workdir / METRICS_FILE).stat().st_mtime_ns
    is_drawn = curves.exists() and curves.stat().st_mtime_ns == time
    if not is_drawn and can_draw(str(curves)):
        with named_errors(curves):
            plot_curves(workdir)
        # After the clock was set, it tells nothing which time is later. The picture has that of its rows.
        with contextlib.suppress(OSError):
            os.utime(curves, ns=(time, time))
    return summary


def print_values(values: Mapping[str, Any], *, width: int = 32, decimals: int = 4) -> None:
    """Print a line for each name and value, the values aligned behind `width` columns. None is a value that
    is not finite, such as a precision when nothing was found."""
    for name, value in values.items():
        shown = f"{value:,.{decimals}f}" if isinstance(value, float) else f"{value}"
        if value is None:
            shown = "undefined"
        print(f"{name:{width}s} {shown}")
