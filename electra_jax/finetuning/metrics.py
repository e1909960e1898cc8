"""The metrics that downstream tasks are reported with, and the files that GLUE's leaderboard takes.

All are fractions, higher is better; papers print them times 100. Shapes: n examples, in tagging n sentences.
"""

import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy import stats
from seqeval.metrics import f1_score as conlleval_f1
from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef


class Metric(NamedTuple):
    """score: (labels, predictions) → value. is_better: picks the best of several values.

    Both sides are arrays [n]. With `is_tagging` they are lists of n sequences, one element a word; with
    `reads_names` these hold the tags' names, else their indices.
    """

    score: Callable[[Sequence, Sequence], float]
    is_better: Callable[[Iterable[float]], float] = max
    is_tagging: bool = False
    reads_names: bool = False


def _unless_constant(
    correlation: Callable[[np.ndarray, np.ndarray], float],
) -> Callable[[np.ndarray, np.ndarray], float]:
    """The correlation, or 0 where labels or predictions are all alike: 0/0, for which SciPy returns NaN and a
    warning.

    0 says what such predictions are worth, can be ranked and averaged, and is scikit-learn's value of
    Matthews' coefficient, which is Pearson's of two binary variables.
    """

    def correlate(labels: np.ndarray, predictions: np.ndarray) -> float:
        if not np.isfinite(predictions).all():
            raise ValueError(
                f"predictions: expected finite numbers, got {np.isnan(predictions).sum()} NaN and "
                f"{np.isinf(predictions).sum()} infinite of {len(predictions)}. The training has diverged."
            )
        return 0.0 if np.ptp(labels) == 0 or np.ptp(predictions) == 0 else correlation(labels, predictions)

    return correlate


def _tagging_accuracy(labels: Sequence[np.ndarray], predictions: Sequence[np.ndarray]) -> float:
    """Accuracy over all words, so a long sentence counts for more."""
    return accuracy_score(np.concatenate(labels), np.concatenate(predictions))


METRICS: dict[str, Metric] = {
    "accuracy": Metric(accuracy_score),
    "f1": Metric(lambda labels, predictions: f1_score(labels, predictions, pos_label=1, zero_division=0)),
    "macro_f1": Metric(lambda labels, predictions: f1_score(labels, predictions, average="macro")),
    "matthews": Metric(_unless_constant(matthews_corrcoef)),
    "pearson": Metric(
        _unless_constant(lambda labels, predictions: stats.pearsonr(labels, predictions).statistic)
    ),
    "spearman": Metric(
        _unless_constant(lambda labels, predictions: stats.spearmanr(labels, predictions).statistic)
    ),
    "tagging_accuracy": Metric(_tagging_accuracy, is_tagging=True),
    # As CoNLL's conlleval.pl counts: over all types, and an I- without its B- begins a span.
    "span_f1": Metric(
        lambda labels, predictions: conlleval_f1(labels, predictions, average="micro", zero_division=0),
        is_tagging=True,
        reads_names=True,
    ),
}

# Task → what the leaderboard shows, in its order (GLUE, arXiv 1804.07461; gluebenchmark.com).
GLUE_METRICS: dict[str, tuple[str, ...]] = {
    "cola": ("matthews",),
    "sst2": ("accuracy",),
    "mrpc": ("f1", "accuracy"),
    "stsb": ("pearson", "spearman"),
    "qqp": ("f1", "accuracy"),
    "mnli": ("accuracy",),
    "qnli": ("accuracy",),
    "rte": ("accuracy",),
    "wnli": ("accuracy",),
}

# File of a submission → what stands in its second column (nyu-mll/GLUE-baselines, src/main.py).
GLUE_FILES: dict[str, str] = {
    "CoLA.tsv": "index",
    "SST-2.tsv": "index",
    "MRPC.tsv": "index",
    "QQP.tsv": "index",
    "WNLI.tsv": "index",
    "STS-B.tsv": "number",
    "MNLI-m.tsv": "name",
    "MNLI-mm.tsv": "name",
    "AX.tsv": "name",
    "QNLI.tsv": "name",
    "RTE.tsv": "name",
}


def score(
    names: Sequence[str], labels: Sequence, predictions: Sequence, label_names: tuple[str, ...]
) -> dict[str, float]:
    """Metrics of one set of predictions, in the order asked for.

    `labels` and `predictions` are [n] class indices, or numbers in regression; in tagging n arrays of tag
    indices, one a word. f1 takes class 1 for the positive one. macro_f1 is the mean over the classes that
    occur on either side.

    Raises: ValueError: an unknown name, no examples, sides of different lengths, predictions that are not
      finite, or for span_f1
        a tag outside `label_names` or names that are no BIO or BIOES tags.
    """
    unknown = [name for name in names if name not in METRICS]
    if unknown:
        raise ValueError(f"metrics: got {', '.join(unknown)}, expected some of {', '.join(METRICS)}.")
    if len(labels) != len(predictions) or not len(labels):
        raise ValueError(
            f"expected as many predictions as labels and at least one, got {len(predictions)} and "
            f"{len(labels)}."
        )
    return {
        name: float(METRICS[name].score(*_sides(name, labels, predictions, label_names))) for name in names
    }


def _sides(
    name: str, labels: Sequence, predictions: Sequence, label_names: tuple[str, ...]
) -> tuple[Sequence, Sequence]:
    """Labels and predictions in the form that the metric reads."""
    metric = METRICS[name]
    if not metric.is_tagging:
        return np.asarray(labels), np.asarray(predictions)
    for sentence, (wanted, got) in enumerate(zip(labels, predictions, strict=True)):
        if len(wanted) != len(got):
            raise ValueError(
                f"sentence {sentence}: expected a tag for each of its {len(wanted)} words, got {len(got)}."
            )
    if not metric.reads_names:
        return labels, predictions
    foreign = [tag for tag in label_names if tag != "O" and not tag.startswith(("B-", "I-", "E-", "S-"))]
    if foreign:
        raise ValueError(f"{name}: expected tags O, B-…, I-…, E-… or S-…, got {', '.join(foreign)}.")
    return _names(labels, label_names), _names(predictions, label_names)


def _names(sentences: Sequence[Sequence[int]], label_names: tuple[str, ...]) -> list[list[str]]:
    indices = {int(tag) for sentence in sentences for tag in sentence}
    outside = sorted(indices - set(range(len(label_names))))  # −1 would silently be the last name
    if outside:
        raise ValueError(f"expected tags from 0 to {len(label_names) - 1}, got {outside}.")
    return [[label_names[tag] for tag in sentence] for sentence in sentences]


def write_glue_predictions(
    path: str | os.PathLike, predictions: Sequence, label_names: tuple[str, ...]
) -> None:
    """Writes one file of a GLUE submission: a header, then index and prediction of each test example, tabs
    between.

    The file's name says what is written, as the leaderboard expects those names (GLUE_FILES): the label's
    name for MNLI, AX, QNLI and RTE; for STS-B the number, kept between 0 and 5, with three digits; for the
    others the class index, of which GLUE has 1 for acceptable, positive, equivalent, duplicate and
    entailment. `predictions` are in the order of the test set.

    Source: nyu-mll/GLUE-baselines, src/main.py and src/evaluate.py.

    Raises:
      ValueError: not a name of GLUE's.
    """
    path = Path(path)
    if path.name not in GLUE_FILES:
        raise ValueError(
            f"{path}: expected a file of a GLUE submission ({', '.join(GLUE_FILES)}), got {path.name}."
        )
    column = {
        "index": lambda prediction: f"{int(prediction)}",
        "number": lambda prediction: f"{np.clip(prediction, 0, 5):.3f}",
        "name": lambda prediction: label_names[prediction],
    }[GLUE_FILES[path.name]]
    rows = [f"{index}\t{column(prediction)}\n" for index, prediction in enumerate(predictions)]
    path.write_text("index\tprediction\n" + "".join(rows), encoding="utf-8")
