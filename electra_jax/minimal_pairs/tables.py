"""Accuracies on minimal pairs as tables and as a picture."""

import itertools
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from data_pipelines.whole_files import named_errors
from electra_jax.configuration.extras import can_draw
from electra_jax.finetuning.figures import row_label
from electra_jax.finetuning.tables import MISSING, markdown_table
from electra_jax.minimal_pairs.summary import FIELDS, PHENOMENA, TERMS, Share, Summary

CHANCE = 0.5
TITLES = {PHENOMENA: "phenomenon", TERMS: "linguistics term", FIELDS: "field"}
ROW_INCHES = 0.22
MAX_ROWS = 100  # of a panel of the picture; BLiMP has 67 phenomena
MAX_MODELS = 20  # in the picture: more look alike
MARKERS = "os"  # for as many models each as there are colours


def table_lines(summaries: Mapping[str, Summary]) -> Iterator[str]:
    """Markdown tables of several models: phenomena, terms, fields, and the total, which comes last.

    Args:
      summaries: what stands above a column → its accuracies.
    """
    header = [f"{number}" for number in range(1, len(summaries) + 1)]
    columns = list(summaries.values())
    for kind, title in TITLES.items():
        names = list(columns[0].groups[kind])
        if names:
            yield f"\nAccuracy by {title}:\n"
            rows = [[name, *(f"{one.groups[kind][name].accuracy:.3f}" for one in columns)] for name in names]
            yield from markdown_table(header, rows)
    pairs, phenomena = columns[0].total.num_pairs, len(columns[0].groups[PHENOMENA])
    yield f"\nMean of {phenomena:,} phenomena, {pairs:,} pairs, ± standard error; {CHANCE} is chance:\n"
    rows = [
        [f"{number}: {title}", _with_error(one.total), f"{one.total.num_ties:,}"]
        for number, (title, one) in enumerate(summaries.items(), 1)
    ]
    yield from markdown_table(["accuracy", "ties"], rows)


def _with_error(share: Share) -> str:
    error = MISSING if share.standard_error is None else f"{share.standard_error:.3f}"
    return f"{share.accuracy:.3f} ± {error}"


class _Panel(NamedTuple):
    """Rows of the picture."""

    title: str
    names: list[str]
    values: list[list[float]]  # of each model


def _panels(summaries: Mapping[str, Summary]) -> Iterator[_Panel]:
    models = list(summaries.values())
    yield _Panel("", ["total"], [[one.total.accuracy] for one in models])
    for kind in (FIELDS, TERMS, PHENOMENA):
        if every := list(models[0].groups[kind]):
            names = every[:MAX_ROWS]
            title = " ".join(filter(None, (TITLES[kind], _first_of(len(names), len(every)))))
            values = [[one.groups[kind][name].accuracy for name in names] for one in models]
            yield _Panel(title, names, values)


def _first_of(shown: int, count: int) -> str:
    return f"(the first {shown} of {count:,})" if shown < count else ""


def plot(summaries: Mapping[str, Summary], path: Path) -> None:
    """Write a picture: a row for the total and each field, term and phenomenon, a dot for each of
    `summaries`. Of many rows or models it has the first ones, and says so. Without matplotlib, print that it
    is not drawn."""
    if not can_draw(str(path)):
        return
    from matplotlib.figure import Figure  # not pyplot: no global state, no display

    drawn = dict(itertools.islice(summaries.items(), MAX_MODELS))
    panels = list(_panels(drawn))
    heights = [len(panel.names) for panel in panels]
    figure = Figure(figsize=(9.0, 2.5 + ROW_INCHES * (sum(heights) + len(drawn))), layout="constrained")
    all_axes = figure.subplots(len(panels), 1, sharex=True, squeeze=False, height_ratios=heights)[:, 0]
    for axes, panel in zip(all_axes, panels, strict=True):
        for number, (label, values) in enumerate(zip(drawn, panel.values, strict=True)):
            marker = MARKERS[number * len(MARKERS) // MAX_MODELS]
            axes.scatter(values, range(len(values)), alpha=0.7, marker=marker, label=row_label(label))
        axes.axvline(CHANCE, color="black", linewidth=0.8)
        axes.set(ylim=(len(panel.names) - 0.5, -0.5), ylabel=panel.title)
        axes.set_yticks(range(len(panel.names)), [row_label(name) for name in panel.names])
        axes.grid(alpha=0.3)
    all_axes[-1].set(xlabel="accuracy", xlim=(0.0, 1.0))
    handles, labels = all_axes[0].get_legend_handles_labels()
    title = _first_of(len(drawn), len(summaries)) or None
    figure.legend(handles, labels, loc="outside upper center", title=title)
    path.parent.mkdir(parents=True, exist_ok=True)
    with named_errors(path):
        figure.savefig(path, format="png", dpi=100)
