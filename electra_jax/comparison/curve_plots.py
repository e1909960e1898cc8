"""Learning curves as a picture: a panel for each metric, a line for each variant, tokens on a log scale."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from data_pipelines.whole_files import named_errors
from electra_jax.comparison.budgets import Budget
from electra_jax.configuration.extras import can_draw
from electra_jax.finetuning.figures import row_label
from electra_jax.finetuning.results import Result, Summary, summarize

COLUMNS = 3  # panels in a row
SHADE = 0.15  # opacity of the range
COLORS = 10  # of matplotlib's cycle; then they come again with the next marker
MARKERS = "os^D"


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


def plot_curves(
    points: Mapping[Budget, Sequence[Result]], random: Sequence[Result], reference: str, path: Path
) -> None:
    """Write the picture as PNG: medians over seeds, the range from the lowest to the highest shaded, and the
    medians of newly initialised weights dashed. A variant has one colour in all panels; the legend of all is
    in the first. Without matplotlib, print that it is not drawn; without metrics there is nothing to draw.

    Args:
      reference: the variant that has these numbers of tokens.
    """
    metrics = list(
        dict.fromkeys(key for results in points.values() for one in results for key in one.metrics)
    )
    if not metrics or not can_draw(str(path)):
        return
    from matplotlib.figure import Figure  # not pyplot: no global state, no display

    rows = -(-len(metrics) // COLUMNS)
    figure = Figure(figsize=(5.0 * min(COLUMNS, len(metrics)), 3.5 * rows), layout="constrained")
    panels = list(figure.subplots(rows, min(COLUMNS, len(metrics)), squeeze=False).flat)
    # A panel lacks the variants without its metric. Its own cycle of colours would give theirs to others.
    variants = dict.fromkeys(one.model for results in points.values() for one in results)
    styles = {
        variant: {"color": f"C{number % COLORS}", "marker": MARKERS[number // COLORS % len(MARKERS)]}
        for number, variant in enumerate(variants)
    }
    handles: dict[str, Any] = {}  # name → what the legend shows of it
    for axes, metric in zip(panels, metrics, strict=False):
        for variant, curve in curves_of(points, metric).items():
            style, medians = styles[variant], [one.median for one in curve.summaries]
            [line] = axes.plot(curve.tokens, medians, label=row_label(variant), **style)
            low, high = ([one.low for one in curve.summaries], [one.high for one in curve.summaries])
            axes.fill_between(curve.tokens, low, high, color=style["color"], alpha=SHADE)
            handles.setdefault(variant, line)
        for name, summary in summarize(random, metric).items() if metric in _metrics(random) else ():
            line = axes.axhline(summary.median, linestyle="--", color="grey", label=row_label(name))
            handles.setdefault(name, line)
        axes.set(xscale="log", xlabel=f"tokens of {reference}, equal FLOPs", ylabel=metric)
        axes.grid(alpha=0.3)
    for axes in panels[len(metrics) :]:
        axes.remove()
    figure.axes[0].legend(handles=[*handles.values()], fontsize="small")
    with named_errors(path):
        figure.savefig(path, format="png", dpi=120)


def _metrics(results: Sequence[Result]) -> set[str]:
    return {metric for result in results for metric in result.metrics}
