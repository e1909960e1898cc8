"""From the sums of an objective to its metrics. A row of the registry lists the `SumMetrics` of its sums."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np

Metrics = dict[str, float]
HostSums = Mapping[
    str, np.ndarray
]  # float64, added over the steps of a window or the batches of an evaluation


class Detection(NamedTuple):
    """A task of finding wrong tokens, by the names of its metrics."""

    name: str  # prefix of its metrics
    rate: str  # metric of the share of tokens that are wrong
    # Key of config.objective with the share of tokens that the generator draws; those that it draws right are
    # not wrong. "": the rate does not depend on what the generator draws.
    drawn: str = ""


class SumMetrics(NamedTuple):
    """Metrics of sums with certain names."""

    sums: tuple[str, ...]  # the sums that `compute` reads; its metrics exist where all of these do
    compute: Callable[[HostSums], Metrics]
    detection: Detection | None = None  # the task, if these are metrics of a detection


def prediction_metrics(name: str, *, entropy: str = "") -> SumMetrics:
    """Loss and accuracy of predicted tokens, from the sums of `mlm_loss` with this `name`.

    Args:
      name: prefix of the sums and of the metrics.
      entropy: metric of the predicted distribution's entropy in nats; "" leaves it out.
    """

    def compute(sums: HostSums) -> Metrics:
        weight = sums[f"{name}_weight"]
        metrics = {
            f"{name}_loss": ratio(sums[f"{name}_nll"], weight),
            f"{name}_accuracy": ratio(sums[f"{name}_correct"], weight),
        }
        return metrics | ({entropy: ratio(sums[f"{name}_entropy"], weight)} if entropy else {})

    read = ("nll", "correct", *(["entropy"] if entropy else []), "weight")
    return SumMetrics(tuple(f"{name}_{part}" for part in read), compute)


def detection_metrics(name: str, rate: str, drawn: str = "") -> SumMetrics:
    """Binary classification metrics from the sums of `rtd_loss` with this `name`; "wrong" is the positive
    class.

    Args:
      name: prefix of the sums and of the metrics.
      rate: metric of the share of tokens that are wrong.
      drawn: see `Detection`.
    """

    def compute(sums: HostSums) -> Metrics:
        tp, fp = sums[f"{name}_true_positive"], sums[f"{name}_false_positive"]
        fn, tn = sums[f"{name}_false_negative"], sums[f"{name}_true_negative"]
        recall, specificity = ratio(tp, tp + fn), ratio(tn, tn + fp)
        original, replaced = sums[f"{name}_histogram"]
        num_tokens = tp + fp + fn + tn
        return {
            f"{name}_loss": ratio(sums[f"{name}_bce"], num_tokens),
            f"{name}_auc": binned_auc(original, replaced),
            f"{name}_accuracy": ratio(tp + tn, num_tokens),
            f"{name}_precision": ratio(tp, tp + fp),
            f"{name}_recall": recall,
            f"{name}_balanced_accuracy": (recall + specificity) / 2,
            rate: ratio(tp + fn, num_tokens),
        }

    counts = ("true_positive", "false_positive", "false_negative", "true_negative")
    sums = tuple(f"{name}_{part}" for part in ("bce", *counts, "histogram"))
    return SumMetrics(sums, compute, Detection(name, rate, drawn))


def mean_metric(name: str, total: str, weight: str) -> SumMetrics:
    """The metric `name`: one sum divided by another."""
    return SumMetrics((total, weight), lambda sums: {name: ratio(sums[total], sums[weight])})


def binned_auc(negatives: np.ndarray, positives: np.ndarray) -> float:
    """Area under the ROC curve from histograms over the same bins; ties inside a bin count one half."""
    below = np.cumsum(negatives) - negatives
    return ratio((positives * (below + negatives / 2)).sum(), positives.sum() * negatives.sum())


def ratio(numerator: float, denominator: float) -> float:
    """NaN where the denominator is not positive."""
    return float(numerator / denominator) if denominator > 0 else float("nan")
