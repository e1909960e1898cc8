"""What frozen features are worth, as tables and as a picture."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from data_pipelines.whole_files import named_errors
from electra_jax.configuration.extras import can_draw
from electra_jax.finetuning.figures import row_label
from electra_jax.finetuning.pooling import POOLINGS
from electra_jax.finetuning.tables import MISSING, markdown_table
from electra_jax.frozen_features.classifiers import CLASSIFIERS
from electra_jax.frozen_features.outside import SCORES
from electra_jax.frozen_features.store import FrozenModel
from electra_jax.frozen_features.texts import FrozenTask

MAX_MODELS = 10  # in the picture, which has ten colours
LINES = ("-", "--", "-.", ":")  # of the classifiers


class Measured(NamedTuple):
    """One model on one task."""

    task: FrozenTask
    model: FrozenModel
    result: dict[str, Any]  # of `measure`

    def rows(self, kind: str, pooling: str) -> list[dict[str, Any]]:
        return [row for row in self.result[kind] if row["pooling"] == pooling]


def table_lines(results: Sequence[Measured]) -> Iterator[str]:
    """Markdown tables of each task: labelled examples, texts of other origin, noise, layers."""
    for task in {one.task.name: one.task for one in results}.values():
        some = [one for one in results if one.task.name == task.name]
        yield f"\n{task.name}: {task.metric} on {len(task.held_out.examples):,} texts of {task.split}"
        yield from task.notes
        yield from _labelled_table(task, some)
        yield from _outside_table(task, some)
        yield from _noise_table(task, some)
        yield from _layer_table(task, some)


def _names(some: Sequence[Measured]) -> Iterator[tuple[str, Measured, str]]:
    """Name of a row, its results, and its pooling."""
    for one in some:
        for pooling in POOLINGS:
            yield f"{one.model.name}, {pooling}", one, pooling


def _labelled_table(task: FrozenTask, some: Sequence[Measured]) -> Iterator[str]:
    num_seeds = max(len(row["values"]) for row in some[0].result["labelled"])
    yield f"\nBy labelled examples, median (lowest–highest) of {num_seeds} subsets:\n"
    sizes, rows = sizes_of(some), []
    for name, one, pooling in _names(some):
        for classifier in CLASSIFIERS:
            cells = {
                row["num_labelled"]: _cell(row["median"], row["values"])
                for row in one.rows("labelled", pooling)
                if row["classifier"] == classifier
            }
            rows.append([name, classifier, *(cells[size] for size in sizes)])
    header = [f"{size:,}" for size in sizes[:-1]] + [f"all {sizes[-1]:,}"]
    yield from markdown_table(["classifier", *header], rows)


def sizes_of(some: Sequence[Measured]) -> list[int]:
    """The numbers of labelled examples of one task."""
    return list(dict.fromkeys(row["num_labelled"] for row in some[0].result["labelled"]))


def _cell(median: float, values: Sequence[float]) -> str:
    spread = f" ({min(values):.3f}–{max(values):.3f})" if len(values) > 1 else ""
    return f"{median:.3f}{spread}"


def _outside_table(task: FrozenTask, some: Sequence[Measured]) -> Iterator[str]:
    if not some[0].result["outside"]:
        return
    yield "\nTexts of other origin, AUROC by the probe trained on all examples; 0.5 is chance:\n"
    rows = [
        [name, row["texts"], *(f"{row['auroc'][score]:.3f}" for score in SCORES)]
        for name, one, pooling in _names(some)
        for row in one.rows("outside", pooling)
    ]
    yield from markdown_table(["texts", *SCORES], rows)


def _noise_table(task: FrozenTask, some: Sequence[Measured]) -> Iterator[str]:
    first = some[0].rows("noise", POOLINGS[0])
    if len(first) < 2:
        return
    yield f"\nWith errors at a share of the letters, {task.metric} of the probe trained on clean texts:\n"
    header = [f"{row['kind']} {row['rate']:g}" if row["kind"] else "clean" for row in first]
    rows = [
        [name, *(f"{row['value']:.3f}" for row in one.rows("noise", pooling))]
        for name, one, pooling in _names(some)
    ]
    yield from markdown_table(header, rows)


def _layer_table(task: FrozenTask, some: Sequence[Measured]) -> Iterator[str]:
    if not some[0].result["layers"]:
        return
    yield f"\nBy layer, {task.metric} of the probe trained on all examples; 0 is the input of the first:\n"
    values = [(name, one.rows("layers", pooling)[0]["values"]) for name, one, pooling in _names(some)]
    most = max(len(some) for _, some in values)
    rows = [
        [name, *(f"{value:.3f}" for value in some), *[MISSING] * (most - len(some))] for name, some in values
    ]
    yield from markdown_table([str(layer) for layer in range(most)], rows)


def plot(results: Sequence[Measured], path: Path) -> None:
    """Write a picture: the metric over the number of labelled examples, a panel for each task and pooling, a
    colour for each model, a kind of line for each classifier, bars from the lowest to the highest value.
    Without matplotlib, print that it is not drawn."""
    if not can_draw(str(path)):
        return
    from matplotlib.figure import Figure  # not pyplot: no global state, no display

    tasks = list({one.task.name: one.task for one in results}.values())
    models = list(dict.fromkeys(one.model.name for one in results))[:MAX_MODELS]
    figure = Figure(figsize=(12.0, 4.0 * len(tasks) + 0.5 * (1 + len(models))), layout="constrained")
    all_axes = figure.subplots(len(tasks), len(POOLINGS), sharey="row", squeeze=False)
    for task, row_of_axes in zip(tasks, all_axes, strict=True):
        for pooling, axes in zip(POOLINGS, row_of_axes, strict=True):
            for one in results:
                if one.task.name == task.name and one.model.name in models:
                    _draw(axes, one, pooling, f"C{models.index(one.model.name)}")
            axes.set(xscale="log", xlabel="labelled examples", title=f"{task.name}, {pooling}")
            sizes = sizes_of([one for one in results if one.task.name == task.name])
            axes.set_xticks(sizes, [f"{size:,}" for size in sizes])
            axes.minorticks_off()
            axes.grid(alpha=0.3)
        row_of_axes[0].set_ylabel(task.metric)
    handles, labels = all_axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=2)
    path.parent.mkdir(parents=True, exist_ok=True)
    with named_errors(path):
        figure.savefig(path, format="png", dpi=100)


def _draw(axes: Any, one: Measured, pooling: str, colour: str) -> None:
    for classifier, line in zip(CLASSIFIERS, LINES, strict=True):
        rows = [row for row in one.rows("labelled", pooling) if row["classifier"] == classifier]
        medians = [row["median"] for row in rows]
        spread = [
            [row["median"] - min(row["values"]) for row in rows],
            [max(row["values"]) - row["median"] for row in rows],
        ]
        axes.errorbar(
            [row["num_labelled"] for row in rows],
            medians,
            spread,
            color=colour,
            linestyle=line,
            marker="o",
            capsize=2,
            alpha=0.8,
            label=f"{row_label(one.model.name)}: {classifier}",
        )
