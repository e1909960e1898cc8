"""Learning curves as a picture: a panel for each metric, a line for each variant, tokens on a log scale."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from data_pipelines.whole_files import named_errors
from electra_jax.comparison.budgets import Budget
from electra_jax.configuration.extras import can_draw
from electra_jax.finetuning.figures import row_label
from electra_jax.finetuning.results import Result, Summary, summarize

COLUMNS = 3  # panels in a row
SHADE = 0.15  # opacity of the range


class Curve(NamedTuple):
    """One metric of one variant, over its numbers of tokens."""

    tokens: list[int]
    summaries: list[Summary]  # over the seeds


def curves_of(points: Mapping[Budget, Sequence[Result]], metric: str) -> dict[str, Curve]:
    """Variant → its curve; numbers of tokens and variants that do not have the metric are left out."""
    curves: dict[str, Curve] = {}
    for budget, results in points.items():
        if metric not in _metrics(results):
            continue
        for variant, summary in summarize(results, metric).items():
            curve = curves.setdefault(variant, Curve([], []))
            curve.tokens.append(budget.tokens)
            curve.summaries.append(summary)
    return curves


def plot_curves(points: Mapping[Budget, Sequence[Result]], random: Sequence[Result], path: Path) -> None:
    """Write the picture as PNG: medians over seeds, the range from the lowest to the highest shaded, and the
    medians of newly initialised weights dashed; without matplotlib, print that it is not drawn."""
    if not can_draw(str(path)):
        return
    from matplotlib.figure import Figure  # not pyplot: no global state, no display

    metrics = list(
        dict.fromkeys(key for results in points.values() for one in results for key in one.metrics)
    )
    rows = -(-len(metrics) // COLUMNS)
    figure = Figure(figsize=(5.0 * min(COLUMNS, len(metrics)), 3.5 * rows), layout="constrained")
    panels = figure.subplots(rows, min(COLUMNS, len(metrics)), squeeze=False).flat
    for axes, metric in zip(panels, metrics, strict=False):
        for variant, curve in curves_of(points, metric).items():
            line = axes.plot(
                curve.tokens, [one.median for one in curve.summaries], marker="o", label=row_label(variant)
            )
            low, high = ([one.low for one in curve.summaries], [one.high for one in curve.summaries])
            axes.fill_between(curve.tokens, low, high, color=line[0].get_color(), alpha=SHADE)
        for name, summary in summarize(random, metric).items() if metric in _metrics(random) else ():
            axes.axhline(summary.median, linestyle="--", color="grey", label=row_label(name))
        axes.set(xscale="log", xlabel="tokens", ylabel=metric)
        axes.grid(alpha=0.3)
    for axes in list(panels)[len(metrics) :]:
        axes.remove()
    figure.axes[0].legend(fontsize="small")
    with named_errors(path):
        figure.savefig(path, format="png", dpi=120)


def _metrics(results: Sequence[Result]) -> set[str]:
    return {metric for result in results for metric in result.metrics}
