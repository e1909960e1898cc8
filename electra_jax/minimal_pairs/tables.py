"""Accuracies on minimal pairs as tables and as a picture."""

from collections.abc import Iterator, Mapping
from pathlib import Path

from data_pipelines.whole_files import named_errors
from electra_jax.configuration.extras import can_draw
from electra_jax.finetuning.figures import row_label
from electra_jax.finetuning.tables import markdown_table
from electra_jax.minimal_pairs.summary import FIELDS, PHENOMENA, TERMS, Share, Summary

CHANCE = 0.5
TITLES = {PHENOMENA: "phenomenon", TERMS: "linguistics term", FIELDS: "field"}
ROW_INCHES = 0.22


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
    return f"{share.accuracy:.3f} ± {share.standard_error:.3f}"


def plot(summaries: Mapping[str, Summary], path: Path) -> None:
    """Write a picture: a row for the total and each field, term and phenomenon, a dot for each of
    `summaries`. Without matplotlib, print that it is not drawn."""
    if not can_draw(str(path)):
        return
    from matplotlib.figure import Figure  # not pyplot: no global state, no display

    first = next(iter(summaries.values()))
    panels = {"": ["total"]} | {TITLES[kind]: list(first.groups[kind]) for kind in (FIELDS, TERMS, PHENOMENA)}
    panels = {title: names for title, names in panels.items() if names}
    heights = [len(names) for names in panels.values()]
    figure = Figure(figsize=(9.0, 2.5 + ROW_INCHES * (sum(heights) + len(summaries))), layout="constrained")
    all_axes = figure.subplots(len(panels), 1, sharex=True, squeeze=False, height_ratios=heights)[:, 0]
    kinds = {title: kind for kind, title in TITLES.items()}
    for axes, (title, names) in zip(all_axes, panels.items(), strict=True):
        for label, summary in summaries.items():
            shares = summary.groups[kinds[title]] if title else {"total": summary.total}
            values = [shares[name].accuracy for name in names]
            axes.scatter(values, range(len(names)), alpha=0.7, label=row_label(label))
        axes.axvline(CHANCE, color="black", linewidth=0.8)
        axes.set(ylim=(len(names) - 0.5, -0.5), ylabel=title)
        axes.set_yticks(range(len(names)), [row_label(name) for name in names])
        axes.grid(alpha=0.3)
    all_axes[-1].set(xlabel="accuracy", xlim=(0.0, 1.0))
    handles, labels = all_axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center")
    path.parent.mkdir(parents=True, exist_ok=True)
    with named_errors(path):
        figure.savefig(path, format="png", dpi=100)
