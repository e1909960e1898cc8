"""From sums to metrics. Sums merge by addition, so no average of averages is ever taken."""

import numpy as np

from electra_jax.objectives.base import TOKENS
from electra_jax.objectives.metrics import Metrics
from electra_jax.objectives.registry import SUM_METRICS


def summarize(sums: dict[str, np.ndarray]) -> Metrics:
    """Metrics of a logging window or an evaluation from its sums.

    Args:
      sums: those of the objective's phases, which its row turns into metrics, and those that the training
        step or the evaluation step adds (training/step.py).
    """
    sums = {key: np.asarray(value, np.float64) for key, value in sums.items()}
    metrics: Metrics = {}
    for group in SUM_METRICS:
        if sums.keys() >= set(group.sums):
            metrics |= group.compute(sums)
    if "target_counts" in sums:
        metrics["unigram_entropy"] = unigram_entropy(sums["target_counts"])
    if "steps" in sums:
        metrics["loss"] = float(sums["loss"] / sums["steps"])
        metrics |= {
            key: float(value / sums["steps"])
            for key, value in sums.items()
            if key.startswith("gradient_norm")
        }
    metrics["tokens"] = float(sums[TOKENS])
    return metrics


def unigram_entropy(counts: np.ndarray) -> float:
    """Entropy in nats of the empirical distribution: the lowest loss of a model that ignores context."""
    probabilities = counts[counts > 0] / counts.sum()
    return float(-(probabilities * np.log(probabilities)).sum())
