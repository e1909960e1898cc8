"""Results as a picture: one panel per metric, one row per model; a dot is a seed, the bar the median."""

import os
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from data_pipelines.whole_files import named_errors, printable
from electra_jax.configuration.extras import can_draw
from electra_jax.finetuning.results import Result, models_of, summarize, values_by_model

LABEL_CHARACTERS = 90  # of a model's name that are shown
LABEL_WIDTH = 30  # characters per line of it
SPREAD = 0.12  # how far the dots of a row lie above and below its middle, in rows
BAR = 0.25  # half the height of the bar at the median, in rows


class PanelRow(NamedTuple):
    """One model in the panel of one metric."""

    row: int  # place from the top, the same in all panels
    values: list[float]  # one dot per seed
    heights: list[float]  # of the dots; seeds with the same value can be told apart
    median: float


def panel_rows(results: Sequence[Result], metric: str) -> list[PanelRow]:
    """What the panel of `metric` shows; models without the metric leave their rows empty.

    Raises:
      ValueError: see `values_by_model`.
    """
    models, summaries = models_of(results), summarize(results, metric)
    rows = []
    for model, by_seed in values_by_model(results, metric).items():
        row = models.index(model)
        offsets = np.linspace(-SPREAD, SPREAD, len(by_seed)) if len(by_seed) > 1 else np.zeros(1)
        heights = (row + offsets).tolist()
        rows.append(PanelRow(row, list(by_seed.values()), heights, summaries[model].median))
    return rows


def row_label(model: str) -> str:
    """The end of a model's name in a few lines: names may be paths of any length, which differ at the end.

    They may have any characters, too. matplotlib takes $ for the start of a formula.
    """
    shown = printable(model[-LABEL_CHARACTERS:])
    return textwrap.fill(shown, LABEL_WIDTH).replace("$", r"\$")


def plot(results: Sequence[Result], metrics: Sequence[str], path: str | os.PathLike) -> None:
    """Write the picture to `path` as PNG; without matplotlib, print that it is not drawn. Without metrics
    there is nothing to draw.

    Raises:
      ValueError: see `values_by_model`.
    """
    if not metrics or not can_draw(str(path)):
        return
    from matplotlib.figure import Figure  # not pyplot: no global state, no display

    models = models_of(results)
    size = (5.0 + 4.0 * len(metrics), 1.5 + 0.8 * len(models))
    figure = Figure(figsize=size, layout="constrained")
    panels = figure.subplots(1, len(metrics), sharey=True, squeeze=False)[0]
    for axes, metric in zip(panels, metrics, strict=True):
        for row in panel_rows(results, metric):
            axes.scatter(row.values, row.heights, alpha=0.7)
            axes.vlines(row.median, row.row - BAR, row.row + BAR, color="black")
        axes.set(xlabel=metric, ylim=(len(models) - 0.5, -0.5))
        axes.grid(axis="x", alpha=0.3)
    figure.suptitle("one dot per seed, a bar at the median")
    panels[0].set_yticks(range(len(models)), [row_label(model) for model in models])
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with named_errors(path):
        figure.savefig(path, format="png", dpi=120)
