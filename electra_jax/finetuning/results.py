"""Several models on one task, each fine-tuned from several seeds: medians, differences between models, a
table, a picture."""

import os
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
from matplotlib.figure import Figure  # not pyplot: no global state, no display
from scipy import stats

MIN_PAIRS = 3
LABEL_CHARACTERS, LABEL_WIDTH = (
    90,
    30,
)  # of a model's name in a plot: how much of it is shown, and in lines of what length


class Result(NamedTuple):
    """One fine-tuning run: metric → value. `settings` are the values of a sweep, by their keys in the
    configuration."""

    model: str
    seed: int
    metrics: dict[str, float]
    settings: Mapping[str, Any] = MappingProxyType({})


class Summary(NamedTuple):
    """Median, lowest and highest of `count` seeds."""

    median: float
    low: float
    high: float
    count: int


class Interval(NamedTuple):
    """A difference of means and its 95 % interval."""

    difference: float
    low: float
    high: float


def summarize(results: Sequence[Result], metric: str) -> dict[str, Summary]:
    """Model → summary over its seeds, models in the order in which they first occur; without those that have
    no such metric.

    Raises: ValueError: no results, a seed that occurs twice, or a metric that none has, or of a model's runs
      only some.
    """
    return {
        model: Summary(float(np.median(values)), min(values), max(values), len(values))
        for model, values in (
            (model, list(seeds.values())) for model, seeds in _by_model(results, metric).items()
        )
    }


def paired_bootstrap(
    one: Sequence[float], other: Sequence[float], *, samples: int = 10_000, seed: int = 0
) -> Interval | None:
    """mean(one) − mean(other) with its 95 % percentile interval over resampled pairs; None with fewer than
    three pairs.

    one[i] and other[i] are runs from the same seed. Resampling pairs is resampling their differences.
    Swapping the two sides negates the result; the order of the pairs does not matter, except between
    differences that are exact opposites. With few pairs the interval is too narrow: that of three is their
    lowest and highest difference, which enclose the mean of a symmetric distribution three times in four.

    Source: Efron and Tibshirani, An Introduction to the Bootstrap, §13.3 (percentile interval).

    Raises:
      ValueError: sides of different lengths.
    """
    if len(one) != len(other):
        raise ValueError(f"expected pairs, got {len(one)} and {len(other)} values.")
    if len(one) < MIN_PAIRS:
        return None
    differences = np.asarray(one, np.float64) - np.asarray(other, np.float64)
    differences = differences[
        np.argsort(np.abs(differences), kind="stable")
    ]  # resampling draws places, not values
    interval = stats.bootstrap(
        (differences,),
        np.mean,
        n_resamples=samples,
        confidence_level=0.95,
        method="percentile",
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return Interval(float(differences.mean()), float(interval.low), float(interval.high))


def table(results: Sequence[Result], metrics: Sequence[str], *, with_differences: bool = True) -> list[str]:
    """Lines of a Markdown table: a row a model with median (low–high) of each metric.

    Where a model does not have a metric its cell is "–". `with_differences`: of two or more models, the
    others also have their difference to the first in means over the seeds that both have, with the interval
    of `paired_bootstrap`.

    Raises:
      ValueError: see `summarize`.
    """
    values = {metric: _by_model(results, metric) for metric in metrics}
    summaries = {metric: summarize(results, metric) for metric in metrics}
    models = list(dict.fromkeys(result.model for result in results))
    with_differences &= len(models) > 1
    columns = ["seeds"]
    for metric in metrics:
        columns += [metric, f"{metric}, mean difference to {models[0]}"] if with_differences else [metric]
    lines = ["| | " + " | ".join(columns) + " |", "|---" * (len(columns) + 1) + "|"]
    for model in models:
        cells = [str(sum(result.model == model for result in results))]
        for metric in metrics:
            summary = summaries[metric].get(model)
            cells.append(f"{summary.median:.3f} ({summary.low:.3f}–{summary.high:.3f})" if summary else "–")
            if with_differences:
                pair = [values[metric].get(one) for one in (model, models[0])]
                cells.append("" if model == models[0] else _difference(*pair) if all(pair) else "–")
        lines.append(f"| {model} | " + " | ".join(cells) + " |")
    return lines


def plot(results: Sequence[Result], metrics: Sequence[str], path: str | os.PathLike) -> None:
    """Draws a PNG: a panel a metric, in it a line a model, on that a dot a seed and a bar at the median.

    Raises:
      ValueError: see `summarize`.
    """
    models = list(dict.fromkeys(result.model for result in results))
    figure = Figure(figsize=(5.0 + 4.0 * len(metrics), 1.5 + 0.8 * len(models)), layout="constrained")
    panels = figure.subplots(1, len(metrics), sharey=True, squeeze=False)[0]
    for axes, metric in zip(panels, metrics, strict=True):
        summaries = summarize(results, metric)
        for model, seeds in _by_model(results, metric).items():
            line = models.index(model)
            # One above the other, so that seeds with the same value can be told apart.
            places = line + (np.linspace(-0.12, 0.12, len(seeds)) if len(seeds) > 1 else np.zeros(1))
            axes.scatter(list(seeds.values()), places, alpha=0.7)
            axes.vlines(summaries[model].median, line - 0.25, line + 0.25, color="black")
        axes.set(xlabel=metric, ylim=(len(models) - 0.5, -0.5))
        axes.grid(axis="x", alpha=0.3)
    figure.suptitle("a dot a seed, a bar at the median")
    # Names may be paths of any length; their ends tell them apart.
    panels[0].set_yticks(
        range(len(models)), [textwrap.fill(model[-LABEL_CHARACTERS:], LABEL_WIDTH) for model in models]
    )
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, format="png", dpi=120)


def to_json(results: Sequence[Result]) -> list[dict[str, Any]]:
    """The runs as plain data; `Result(**run)` reads one back."""
    return [
        {
            "model": result.model,
            "seed": int(result.seed),
            "settings": dict(result.settings),
            "metrics": {name: float(value) for name, value in result.metrics.items()},
        }
        for result in results
    ]


def _by_model(results: Sequence[Result], metric: str) -> dict[str, dict[int, float]]:
    """Model → seed → value, seeds ascending; without models that have no such metric."""
    if not results:
        raise ValueError("expected at least one result, got none.")
    having = {result.model for result in results if metric in result.metrics}
    values: dict[str, dict[int, float]] = {}
    for model, seed, metrics, _ in sorted(results, key=lambda result: result.seed):
        if metric not in metrics and (model in having or not having):
            raise ValueError(f"{model}, seed {seed}: expected metric {metric}, got {', '.join(metrics)}.")
        if model not in having:
            continue
        if seed in values.setdefault(model, {}):
            raise ValueError(f"{model}: expected one result a seed, got two of seed {seed}.")
        values[model][seed] = metrics[metric]
    return {
        model: values[model] for model in dict.fromkeys(result.model for result in results) if model in having
    }


def _difference(one: dict[int, float], other: dict[int, float]) -> str:
    """A table's cell on two models' values by seed."""
    seeds = [seed for seed in one if seed in other]
    interval = paired_bootstrap([one[seed] for seed in seeds], [other[seed] for seed in seeds])
    if interval is None:
        return "too few seeds"
    return f"{interval.difference:+z.3f} ({interval.low:+z.3f} to {interval.high:+z.3f})"  # z: no −0.000
