"""From metric sums to numbers. Sums merge by addition, so no average of averages is ever taken."""

import numpy as np

Metrics = dict[str, float]
RATES = {
    "rtd": "replaced_rate",
    "std": "swapped_rate",
    "itd": "inserted_rate",
}  # how much of the text is wrong in each way

# Of objectives/ablations.py and adversarial.py: metric → its sum, and the sum that it is divided by.
MEANS = {
    "token_loss": ("token_nll", "token_weight"),
    "token_accuracy": ("token_correct", "mlm_weight"),
    "reward": ("reward", "mlm_weight"),
    "baseline": ("baseline", "mlm_weight"),
}


def summarize(sums: dict[str, np.ndarray]) -> Metrics:
    """Metrics of a window or an evaluation from its sums (see objectives/ for what each holds)."""
    sums = {key: np.asarray(value, np.float64) for key, value in sums.items()}
    numbers: Metrics = {}
    if "mlm_weight" in sums:
        weight = sums["mlm_weight"]
        numbers |= {
            "mlm_loss": _ratio(sums["mlm_nll"], weight),
            "mlm_accuracy": _ratio(sums["mlm_correct"], weight),
            "generator_entropy": _ratio(sums["mlm_entropy"], weight),
        }
    if "slm_weight" in sums:
        numbers |= {
            "slm_loss": _ratio(sums["slm_nll"], sums["slm_weight"]),
            "slm_accuracy": _ratio(sums["slm_correct"], sums["slm_weight"]),
        }
    for name in ("rtd", "std", "itd"):
        if f"{name}_bce" in sums:
            numbers |= _detection(sums, name)
    for name in ("mlm", "slm", "rtd", "std"):
        if (
            f"re_{name}_weight" in sums
        ):  # of a correction: its loss where something was selected, and how much was
            numbers |= {
                f"re_{name}_loss": _ratio(sums[f"re_{name}_loss_sum"], sums[f"re_{name}_weight"]),
                f"re_{name}_rate": _ratio(sums[f"re_{name}_weight"], sums["tokens"]),
            }
    numbers |= {
        name: _ratio(sums[total], sums[weight]) for name, (total, weight) in MEANS.items() if total in sums
    }
    if "target_counts" in sums:
        numbers["unigram_entropy"] = unigram_entropy(sums["target_counts"])
    if "steps" in sums:
        numbers["loss"] = float(sums["loss"] / sums["steps"])
        numbers |= {
            key: float(value / sums["steps"])
            for key, value in sums.items()
            if key.startswith("gradient_norm")
        }
    numbers["tokens"] = float(sums["tokens"])
    return numbers


def _detection(sums: dict[str, np.ndarray], name: str) -> Metrics:
    """Binary classification metrics of a way to be wrong, which is the positive class."""
    tp, fp = sums[f"{name}_true_positive"], sums[f"{name}_false_positive"]
    fn, tn = sums[f"{name}_false_negative"], sums[f"{name}_true_negative"]
    recall, specificity = _ratio(tp, tp + fn), _ratio(tn, tn + fp)
    original, replaced = sums[f"{name}_histogram"]
    num_tokens = tp + fp + fn + tn
    return {
        f"{name}_loss": _ratio(sums[f"{name}_bce"], num_tokens),
        f"{name}_auc": binned_auc(original, replaced),
        f"{name}_accuracy": _ratio(tp + tn, num_tokens),
        f"{name}_precision": _ratio(tp, tp + fp),
        f"{name}_recall": recall,
        f"{name}_balanced_accuracy": (recall + specificity) / 2,
        RATES[name]: _ratio(tp + fn, num_tokens),
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
