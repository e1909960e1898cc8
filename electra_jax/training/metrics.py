"""From metric sums to numbers. Sums merge by addition, so no average of averages is ever taken."""

import numpy as np

Numbers = dict[str, float]


def summarize(sums: dict[str, np.ndarray]) -> Numbers:
    """Metrics of a window or an evaluation from its sums (see objectives/ for what each holds)."""
    sums = {key: np.asarray(value, np.float64) for key, value in sums.items()}
    numbers: Numbers = {}
    if "mlm_weight" in sums:
        weight = sums["mlm_weight"]
        numbers |= {
            "mlm_loss": _ratio(sums["mlm_nll"], weight),
            "mlm_accuracy": _ratio(sums["mlm_correct"], weight),
            "generator_entropy": _ratio(sums["mlm_entropy"], weight),
        }
    if "rtd_bce" in sums:
        numbers |= _detection(sums)
    if "target_counts" in sums:
        numbers["unigram_entropy"] = unigram_entropy(sums["target_counts"])
    if "steps" in sums:
        numbers["loss"] = float(sums["loss"] / sums["steps"])
        numbers |= {key: float(value / sums["steps"]) for key, value in sums.items() if key.startswith("gradient_norm")}
    numbers["tokens"] = float(sums["tokens"])
    return numbers


def _detection(sums: dict[str, np.ndarray]) -> Numbers:
    """Binary classification metrics, "replaced" being the positive class."""
    tp, fp = sums["rtd_true_positive"], sums["rtd_false_positive"]
    fn, tn = sums["rtd_false_negative"], sums["rtd_true_negative"]
    recall, specificity = _ratio(tp, tp + fn), _ratio(tn, tn + fp)
    original, replaced = sums["rtd_histogram"]
    return {
        "rtd_loss": _ratio(sums["rtd_bce"], sums["tokens"]),
        "rtd_auc": binned_auc(original, replaced),
        "rtd_accuracy": _ratio(tp + tn, tp + fp + fn + tn),
        "rtd_precision": _ratio(tp, tp + fp),
        "rtd_recall": recall,
        "rtd_balanced_accuracy": (recall + specificity) / 2,
        "replaced_rate": _ratio(tp + fn, tp + fp + fn + tn),
    }


def binned_auc(negatives: np.ndarray, positives: np.ndarray) -> float:
    """Area under the ROC curve from histograms over the same bins; ties inside a bin count one half."""
    below = np.cumsum(negatives) - negatives
    return _ratio((positives * (below + negatives / 2)).sum(), positives.sum() * negatives.sum())


def unigram_entropy(counts: np.ndarray) -> float:
    """Entropy in nats of the empirical distribution: the best loss a model that ignores context can reach."""
    probabilities = counts[counts > 0] / counts.sum()
    return float(-(probabilities * np.log(probabilities)).sum())


def _ratio(numerator: float, denominator: float) -> float:
    return float(numerator / denominator) if denominator > 0 else float("nan")
