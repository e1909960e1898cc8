"""Results of fine-tuning: one per model and seed; medians over seeds, paired differences between models."""

import math
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from data_pipelines.json_files import Maybe

MIN_PAIRS = 3  # fewer have no interval
# Of results.json, for `read_json`.
RESULTS_FORM = [
    {
        "model": str,
        "seed": int,
        "metrics": {str: float},
        "settings": Maybe(dict),
        "encoder": Maybe(str),
    }
]


class Result(NamedTuple):
    """One fine-tuning run."""

    model: str  # name of the encoder that it started from
    seed: int
    metrics: dict[str, float]
    settings: Mapping[str, Any] = MappingProxyType({})  # values of a sweep, by configuration key
    encoder: str = ""  # digest of the weights that it started from; "": new weights, or not recorded
    step: int | None = None  # of the checkpoint that it started from; None: of no run, or not recorded


class Summary(NamedTuple):
    """One metric of one model over its seeds."""

    median: float
    low: float  # the lowest value
    high: float  # the highest value
    count: int  # of seeds


class Interval(NamedTuple):
    """A difference of means and its 95 % interval, see `paired_interval`."""

    difference: float
    low: float
    high: float


def values_by_model(results: Sequence[Result], metric: str) -> dict[str, dict[int, float]]:
    """Model → seed → value, seeds ascending, models in the order of their first result.

    Models that do not have the metric from all their seeds are left out: where runs diverged, figures of the
    others could not be compared with those of other models.

    Raises:
      ValueError: no results, two results of one model and seed, or a metric that no result has.
    """
    if not results:
        raise ValueError("expected at least one result, got none.")
    if not any(metric in result.metrics for result in results):
        model, seed, metrics, *_ = results[0]
        raise ValueError(f"{model}, seed {seed}: expected metric {metric}, got {', '.join(metrics)}.")
    values: dict[str, dict[int, float]] = {model: {} for model in models_of(results)}
    incomplete = {result.model for result in results if metric not in result.metrics}
    for result in sorted(results, key=lambda result: result.seed):
        if result.model in incomplete:
            continue
        if result.seed in values[result.model]:
            raise ValueError(f"{result.model}: expected one result a seed, got two of seed {result.seed}.")
        values[result.model][result.seed] = result.metrics[metric]
    return {model: by_seed for model, by_seed in values.items() if by_seed}


def models_of(results: Sequence[Result]) -> list[str]:
    """Names of the models, in the order of their first result."""
    return list(dict.fromkeys(result.model for result in results))


def reported_metrics(results: Sequence[Result], metrics: Sequence[str]) -> list[str]:
    """Names in the results that stand for `metrics`; with several labelled splits they are "split/metric"."""
    return [name for name in results[0].metrics if name.rpartition("/")[2] in metrics]


def summarize(results: Sequence[Result], metric: str) -> dict[str, Summary]:
    """Model → summary over its seeds; models and errors as in `values_by_model`."""
    summaries = {}
    for model, by_seed in values_by_model(results, metric).items():
        values = list(by_seed.values())
        summaries[model] = Summary(float(np.median(values)), min(values), max(values), len(values))
    return summaries


def paired_interval(one: Sequence[float], other: Sequence[float]) -> Interval | None:
    """mean(one) − mean(other) with Student's 95 % interval of paired differences.

    one[i] and other[i] are runs with the same seed. Swapping the sides negates the result, and the order of
    the pairs does not matter. Of normal differences it holds the true mean 19 times in 20 with any number of
    pairs; resampling so few pairs would give an interval that is too narrow.

    Returns:
      None with fewer than three pairs.

    Raises:
      ValueError: sides of different lengths.
    """
    if len(one) != len(other):
        raise ValueError(f"expected pairs, got {len(one)} and {len(other)} values.")
    if len(one) < MIN_PAIRS:
        return None
    from scipy import special  # slow to import

    differences = np.asarray(one, np.float64) - np.asarray(other, np.float64)
    count = len(differences)
    mean = math.fsum(differences) / count  # exact sums do not depend on the order
    variance = math.fsum(np.square(differences - mean)) / (count - 1)
    half = float(special.stdtrit(count - 1, 0.975)) * math.sqrt(variance / count)
    return Interval(mean, mean - half, mean + half)


def to_json(results: Sequence[Result]) -> list[dict[str, Any]]:
    """The results as plain data; `from_json` reads them back."""
    return [
        {
            "model": result.model,
            "seed": int(result.seed),
            "settings": dict(result.settings),
            "metrics": {name: float(value) for name, value in result.metrics.items()},
        }
        | ({"encoder": result.encoder} if result.encoder else {})
        | ({} if result.step is None else {"step": result.step})
        for result in results
    ]


def from_json(rows: Sequence[dict[str, Any]]) -> list[Result]:
    """Results that `to_json` wrote."""
    return [Result(**{key: row[key] for key in Result._fields if key in row}) for row in rows]
