"""Metrics of downstream tasks, and the files that GLUE's leaderboard takes.

All metrics are fractions, higher is better; papers print them times 100. Shapes: n examples, in tagging n
sentences.
"""

import importlib
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from data_pipelines.whole_files import write_text
from electra_jax.configuration.extras import require_extra
from electra_jax.finetuning.retrieval import RETRIEVAL_METRICS


class Metric(NamedTuple):
    """How a metric is computed, and in which form it takes labels and predictions."""

    score: Callable[[Sequence, Sequence], float]  # (labels, predictions) → value
    is_tagging: bool = False  # both sides are n sequences, one element a word, and not arrays [n]
    reads_names: bool = False  # of tags: their names, and not their indices


def _unless_constant(
    correlation: Callable[[np.ndarray, np.ndarray], float],
) -> Callable[[np.ndarray, np.ndarray], float]:
    """The correlation, or 0 where all labels or all predictions are equal (0/0; SciPy warns and returns NaN).

    0 can be ranked and averaged. It is also scikit-learn's value of Matthews' coefficient, which is Pearson's
    of two binary variables.
    """

    def correlate(labels: np.ndarray, predictions: np.ndarray) -> float:
        if not np.isfinite(predictions).all():
            raise ValueError(
                f"predictions: expected finite numbers, got {np.isnan(predictions).sum()} NaN and "
                f"{np.isinf(predictions).sum()} infinite of {len(predictions)}. The training has diverged."
            )
        return 0.0 if np.ptp(labels) == 0 or np.ptp(predictions) == 0 else correlation(labels, predictions)

    return correlate


def _from(module: str, function: str, **options: Any) -> Callable[[Sequence, Sequence], float]:
    """A score of a package of the extra "finetune", imported when it is first computed."""

    def score(labels: Sequence, predictions: Sequence) -> float:
        require_extra("finetune", "scoring a task")
        return getattr(importlib.import_module(module), function)(labels, predictions, **options)

    return score


_accuracy = _from("sklearn.metrics", "accuracy_score")


def _correlation(name: str) -> Callable[[np.ndarray, np.ndarray], float]:
    """A correlation of `scipy.stats`, which is slow to import."""
    return lambda labels, predictions: (
        getattr(importlib.import_module("scipy.stats"), name)(labels, predictions).statistic
    )


def _tagging_accuracy(labels: Sequence[np.ndarray], predictions: Sequence[np.ndarray]) -> float:
    """Accuracy over all words, so a long sentence counts for more."""
    return _accuracy(np.concatenate(labels), np.concatenate(predictions))


METRICS: dict[str, Metric] = {
    "accuracy": Metric(_accuracy),
    "f1": Metric(_from("sklearn.metrics", "f1_score", pos_label=1, zero_division=0)),
    "macro_f1": Metric(_from("sklearn.metrics", "f1_score", average="macro")),
    "matthews": Metric(_unless_constant(_from("sklearn.metrics", "matthews_corrcoef"))),
    "pearson": Metric(_unless_constant(_correlation("pearsonr"))),
    "spearman": Metric(_unless_constant(_correlation("spearmanr"))),
    "tagging_accuracy": Metric(_tagging_accuracy, is_tagging=True),
    # As CoNLL's conlleval.pl counts: over all types, and an I- without a B- before it begins a span.
    "span_f1": Metric(
        _from("seqeval.metrics", "f1_score", average="micro", zero_division=0),
        is_tagging=True,
        reads_names=True,
    ),
}

OUTSIDE = "O"  # the tag of a word outside of any span
SPAN_TAGS = ("B-", "I-", "E-", "S-")  # how tags of spans begin
GRADED_METRICS = ("spearman", "pearson")  # of embeddings, with numbers for the similarity of two texts
# Task type → the metrics that it can have. Those of questions depend on the questions (squad_metrics.py).
METRICS_OF: dict[str, tuple[str, ...]] = {
    "classification": tuple(name for name, metric in METRICS.items() if not metric.is_tagging),
    "regression": ("pearson", "spearman"),
    "tagging": tuple(name for name, metric in METRICS.items() if metric.is_tagging),
    "embedding": (*RETRIEVAL_METRICS, *GRADED_METRICS),
}

# File of a submission → form of the predictions in its second column (nyu-mll/GLUE-baselines, src/main.py).
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


def default_metrics(kind: str, labels: Sequence[str], *, is_graded: bool = False) -> tuple[str, ...]:
    """The metrics of a task whose config.task.metrics is (), the deciding one first.

    Tags of spans (BIO, BIOES) have span_f1 and tagging_accuracy; most words are outside of any span, so that
    the latter alone is high for a model that finds none. Other tags have tagging_accuracy. Embeddings have
    spearman if there are numbers for the similarity, else the metrics of a search.

    Args:
      kind: the task type.
      labels: names of the classes or tags.
      is_graded: whether config.task.label has numbers for the similarity of two texts.
    """
    if kind == "embedding":
        return ("spearman",) if is_graded else tuple(RETRIEVAL_METRICS)
    if kind == "tagging":
        return ("span_f1", "tagging_accuracy") if marks_spans(labels) else ("tagging_accuracy",)
    return {
        "classification": ("accuracy",),
        "regression": ("pearson", "spearman"),
        "question_answering": ("exact_match", "f1"),
    }[kind]


def marks_spans(labels: Sequence[str]) -> bool:
    """Whether all tags are BIO or BIOES tags: O, B-…, I-…, E-…, S-…."""
    others = [tag for tag in labels if tag != OUTSIDE]
    return bool(others) and all(tag.startswith(SPAN_TAGS) and len(tag) > 2 for tag in others)


def check_metric_names(kind: str, names: Sequence[str]) -> None:
    """Raises ValueError for a name in config.task.metrics that tasks of this type do not have."""
    known = METRICS_OF.get(kind, names)
    unknown = [name for name in names if name not in known]
    if unknown:
        raise ValueError(
            f"config.task.metrics: got {', '.join(unknown)}, expected some of {', '.join(known)} for {kind}, "
            f"such as --config.task.metrics={','.join(known[:2])}."
        )


def check_embedding_metrics(names: Sequence[str], *, is_graded: bool) -> None:
    """Raises ValueError for metrics that pairs with numbers, or those without, do not have."""
    known = GRADED_METRICS if is_graded else tuple(RETRIEVAL_METRICS)
    others = [name for name in names if name not in known]
    if others:
        has, other = ("", "Leave out config.task.label") if is_graded else ("out", "Set config.task.label")
        raise ValueError(
            f"config.task.metrics: got {', '.join(others)} with{has} config.task.label, expected some of "
            f"{', '.join(known)}: numbers for the similarity of two texts are compared with that of their "
            f"vectors, and pairs without numbers are searched for. {other}, or pass "
            f"--config.task.metrics={','.join(known[:2])}."
        )


def score(
    names: Sequence[str], labels: Sequence, predictions: Sequence, label_names: tuple[str, ...]
) -> dict[str, float]:
    """Metrics of one set of predictions, in the order of `names`.

    f1 takes class 1 as the positive one. macro_f1 is the mean over the classes that occur among labels or
    predictions.

    Args:
      labels: [n] class indices, in regression numbers; in tagging n arrays of tag indices, one per word.
      predictions: in the same form.
      label_names: name of each class or tag.

    Raises:
      ValueError: an unknown name, no examples, sides of different lengths, predictions that are not finite,
        or for span_f1 an index outside `label_names` or names that are not BIO or BIOES tags.
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
    """Labels and predictions in the form that the metric takes."""
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
    others = [tag for tag in label_names if tag != OUTSIDE and not tag.startswith(SPAN_TAGS)]
    if others:
        raise ValueError(f"{name}: expected tags O, B-…, I-…, E-… or S-…, got {', '.join(others)}.")
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
    """Write one file of a GLUE submission: a header, then a line "index TAB prediction" for each example.

    The name of the file decides the form (GLUE_FILES): the label's name for MNLI, AX, QNLI and RTE; for STS-B
    the number, clipped to 0…5, with three digits; for the others the class index, where 1 is acceptable,
    positive, equivalent, duplicate or entailment.

    Args:
      predictions: one for each example of the test set, in its published order.
      label_names: name of each class.

    Source: nyu-mll/GLUE-baselines, src/main.py and src/evaluate.py.

    Raises:
      ValueError: the name of the file is not one of GLUE_FILES.
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
    write_text(path, "index\tprediction\n" + "".join(rows))
