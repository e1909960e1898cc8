"""From sums to metrics. Sums merge by addition, so no average of averages is ever taken."""

import numpy as np

from electra_jax.objectives.base import TOKENS
from electra_jax.objectives.metrics import Metrics, ratio
from electra_jax.objectives.registry import SUM_METRICS
from electra_jax.training.unigram import unigram_cross_entropy


def summarize(sums: dict[str, np.ndarray], unigram: np.ndarray | None = None) -> Metrics:
    """Metrics of a logging window or an evaluation from its sums.

    Args:
      sums: those of the objective's phases, which its row turns into metrics, and those that the training
        step or the evaluation step adds (training/step.py).
      unigram: log-probabilities of the ids in the training text, for `unigram_cross_entropy` of an
        evaluation; None leaves it out.
    """
    sums = {key: np.asarray(value, np.float64) for key, value in sums.items()}
    metrics: Metrics = {}
    for group in SUM_METRICS:
        if sums.keys() >= set(group.sums):
            metrics |= group.compute(sums)
    if "target_counts" in sums and unigram is not None:
        metrics["unigram_cross_entropy"] = unigram_cross_entropy(sums["target_counts"], unigram)
    if "steps" in sums:
        # Steps that were left out do not count; NaN if all of the window were.
        metrics["loss"] = ratio(sums["loss"], sums["steps"])
        metrics |= {
            key: ratio(value, sums["steps"]) for key, value in sums.items() if key.startswith("gradient_norm")
        }
    if "skipped_steps" in sums:
        metrics["skipped_steps"] = float(sums["skipped_steps"])
    metrics["tokens"] = float(sums[TOKENS])
    return metrics
