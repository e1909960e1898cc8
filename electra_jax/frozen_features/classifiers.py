"""Classifiers on frozen features, as a function of the number of labelled examples. scikit-learn fits them.

    logistic regression   the linear probe (Alain and Bengio 2016, arXiv:1610.01644), a discriminative
                          classifier. Its penalty is chosen by cross-validation on the labelled examples.
    LDA                   Gaussians with one covariance, shrunk as by Ledoit and Wolf (2004): generative, and
                          linear, too
    naive Bayes           Gaussians with independent features. What is added to their variances is chosen by
                          cross-validation.
    nearest mean          the class with the nearest mean (Mensink et al. 2013; Snell et al. 2017,
                          arXiv:1703.05175)

A generative classifier is expected to need fewer examples for its own best accuracy, and a discriminative one
to have the better accuracy in the end (Ng and Jordan 2001; for features of pre-trained models Zheng et al.
2023, arXiv:2302.02334). All read standardised features: each has mean 0 and variance 1 in the labelled
examples.

Shapes: N examples, n labelled examples, D features, C classes.
"""

import contextlib
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

LOGISTIC, LDA, NAIVE_BAYES, NEAREST_MEAN = "logistic regression", "LDA", "naive Bayes", "nearest mean"
CLASSIFIERS = (LOGISTIC, LDA, NAIVE_BAYES, NEAREST_MEAN)
# The strongest first: of equal ones the first is taken.
PENALTIES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)  # C, the inverse of the penalty's strength
SMOOTHING = (1.0, 1e-1, 1e-2, 1e-3, 1e-9)  # share of the largest variance that is added to each
MAX_ITERATIONS = 10_000  # of logistic regression, which converges long before: its loss is strictly convex
MAX_FOLDS = 5
# What scikit-learn warns of where a class has one or two examples, which is meant here.
EXPECTED_WARNINGS = ("The least populated class in y", "Only one sample available")


class Point(NamedTuple):
    """A classifier with a number of labelled examples."""

    classifier: str
    num_labelled: int
    values: list[float]  # of the metric, one for each subset


def fit(name: str, features_nD: np.ndarray, labels_n: np.ndarray) -> Any:
    """A scikit-learn pipeline, fitted.

    Args:
      name: one of CLASSIFIERS.
      labels_n: at least two different ones, and more examples than classes.
    """
    # Slow to import, and of an extra, which the command requires.
    from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
    from sklearn.linear_model import LogisticRegression
    from sklearn.naive_bayes import GaussianNB
    from sklearn.neighbors import NearestCentroid
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    make = {
        LOGISTIC: lambda: LogisticRegression(C=PENALTIES[-1], max_iter=MAX_ITERATIONS),
        LDA: lambda: LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto"),
        NAIVE_BAYES: lambda: GaussianNB(var_smoothing=SMOOTHING[-1]),
        NEAREST_MEAN: NearestCentroid,
    }[name]
    grid = {
        LOGISTIC: {"logisticregression__C": PENALTIES},
        NAIVE_BAYES: {"gaussiannb__var_smoothing": SMOOTHING},
    }.get(name)
    classifier = make_pipeline(StandardScaler(), make())
    with _one_thread(), _expected_warnings():
        if grid is None or (num_folds := folds_of(labels_n)) < 2:
            return classifier.fit(features_nD, labels_n)
        return _best_of(classifier, grid, num_folds).fit(features_nD, labels_n).best_estimator_


def _best_of(classifier: Any, grid: dict[str, Sequence[float]], num_folds: int) -> Any:
    """The classifier with the values of the best accuracy on the examples left out, fitted on all."""
    from sklearn.model_selection import GridSearchCV, StratifiedKFold

    folds = StratifiedKFold(num_folds, shuffle=True, random_state=0)
    return GridSearchCV(classifier, grid, scoring="accuracy", cv=folds, error_score="raise")


def folds_of(labels_n: np.ndarray) -> int:
    """Folds of cross-validation such that each leaves two classes to train on; 0 if there are none."""
    counts = np.sort(np.unique(labels_n, return_counts=True)[1])
    return min(MAX_FOLDS, int(counts[-2])) if counts[-2] > 1 else 0


def subset(labels_N: np.ndarray, size: int, seed: int) -> np.ndarray:
    """The numbers of `size` examples, drawn at random, with each class at least once; a smaller subset of the
    same seed is a part of a larger one.

    Args:
      size: at least the number of classes.
    """
    order_N = np.random.default_rng(seed).permutation(len(labels_N))
    _, firsts_C = np.unique(labels_N[order_N], return_index=True)
    return order_N[np.concatenate([np.sort(firsts_C), np.delete(np.arange(len(order_N)), firsts_C)])[:size]]


def usable_sizes(sizes: Sequence[int], labels_N: np.ndarray) -> list[int]:
    """The numbers of labelled examples for which there are subsets: more than there are classes, and fewer
    than all; then all."""
    num_classes = len(np.unique(labels_N))
    return [*sorted({size for size in sizes if num_classes < size < len(labels_N)}), len(labels_N)]


def num_fitted(sizes: Sequence[int], labels_N: np.ndarray, num_seeds: int) -> int:
    """Examples in all fits of `labelled_curve`."""
    counted = [size * (1 if size == len(labels_N) else num_seeds) for size in usable_sizes(sizes, labels_N)]
    return len(CLASSIFIERS) * sum(counted)


def labelled_curve(
    train: tuple[np.ndarray, np.ndarray],
    score: Callable[[Any], float],
    sizes: Sequence[int],
    num_seeds: int,
    tell: Callable[[int], object],
) -> tuple[list[Point], Any]:
    """Every classifier with every number of labelled examples, and with all.

    Args:
      train: features [N, D] and labels [N].
      score: fitted classifier → value of the task's metric.
      tell: called with the number of examples of each fit.

    Returns:
      The values, and the logistic regression that was fitted on all examples.
    """
    features_ND, labels_N = train
    points, probe = [], None
    for name in CLASSIFIERS:
        for size in usable_sizes(sizes, labels_N):
            values = []
            for seed in range(1 if size == len(labels_N) else num_seeds):
                chosen = slice(None) if size == len(labels_N) else subset(labels_N, size, seed)
                fitted = fit(name, features_ND[chosen], labels_N[chosen])
                values.append(score(fitted))
                tell(size)
            points.append(Point(name, size, values))
            probe = fitted if name == LOGISTIC else probe
    return points, probe


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    from threadpoolctl import threadpool_limits

    # Many small products are faster on one thread where others compete for the cores; and sums are then in
    # the same order on every machine.
    with threadpool_limits(1):
        yield


@contextlib.contextmanager
def _expected_warnings() -> Iterator[None]:
    with warnings.catch_warnings():
        for start in EXPECTED_WARNINGS:
            warnings.filterwarnings("ignore", start)
        yield
