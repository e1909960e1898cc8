"""Classifiers on features: what they can learn, from which examples, and how strongly they are held back."""

import numpy as np
import pytest

from electra_jax.frozen_features.classifiers import (
    CLASSIFIERS,
    LOGISTIC,
    NAIVE_BAYES,
    PENALTIES,
    fit,
    folds_of,
    labelled_curve,
    num_fitted,
    subset,
    usable_sizes,
)


def clusters(num_classes, size, distance, width=12, seed=0):
    """Features [N, D] around a mean for each class, and labels [N]."""
    source = np.random.default_rng(seed)
    means = distance * np.random.default_rng(99).normal(size=(num_classes, width))
    labels = source.integers(num_classes, size=size)
    return means[labels] + source.normal(size=(size, width)), labels


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_separable_features_are_separated_and_random_labels_are_not_learnt(name):
    train, held_out = clusters(3, 90, 3.0, width=6), clusters(3, 300, 3.0, width=6, seed=1)
    assert np.mean(fit(name, *train).predict(held_out[0]) == held_out[1]) > 0.98
    # Of 300 guesses among three classes the share that is right has a standard deviation of 0.027.
    random, others = (clusters(3, size, 0.0, width=6, seed=size) for size in (90, 300))
    assert abs(np.mean(fit(name, *random).predict(others[0]) == others[1]) - 1 / 3) < 0.08


def test_the_penalty_is_chosen_on_the_labelled_examples():
    strength = lambda features, labels: fit(LOGISTIC, features, labels)[-1].C
    source = np.random.default_rng(0)
    labels = np.arange(60) % 2
    weak_signal = source.normal(size=(60, 200)) + 0.25 * (labels[:, None] - 0.5)
    strong = strength(weak_signal, labels)
    # One feature decides, but on a small scale beside 20 others: a strong penalty would not let it.
    features = source.normal(size=(60, 20))
    free = strength(features, (features[:, 0] > 0).astype(int))
    assert strong < free and {strong, free} <= set(PENALTIES)


def test_variances_of_few_examples_are_smoothed():
    source = np.random.default_rng(0)
    labels = np.arange(8) % 2
    features = source.normal(size=(8, 50)) + 0.8 * (labels[:, None] - 0.5)
    smoothing = fit(NAIVE_BAYES, features, labels)[-1].var_smoothing
    assert smoothing >= 1e-2


def test_a_subset_has_every_class_and_is_a_part_of_a_larger_one():
    labels = np.array([0] * 90 + [1] * 9 + [2])
    seen = set()
    for seed in range(5):
        small, large = subset(labels, 4, seed), subset(labels, 40, seed)
        assert set(labels[small]) == {0, 1, 2} and len(set(large)) == 40
        assert list(large[:4]) == list(small)
        seen.add(tuple(small))
    assert len(seen) == 5
    assert sorted(subset(labels, 100, 0)) == list(range(100))


def test_only_sizes_between_the_classes_and_all_examples_are_used():
    labels = np.arange(50) % 6
    assert usable_sizes([8, 6, 2, 32, 8, 50, 512], labels) == [8, 32, 50]
    assert num_fitted([8, 6, 2, 32, 8, 50, 512], labels, 3) == len(CLASSIFIERS) * (3 * 8 + 3 * 32 + 50)


@pytest.mark.parametrize(("counts", "expected"), [((7, 1), 0), ((4, 4), 4), ((20, 3, 1), 3), ((90, 80), 5)])
def test_every_fold_leaves_two_classes_to_train_on(counts, expected):
    assert folds_of(np.repeat(np.arange(len(counts)), counts)) == expected


@pytest.mark.parametrize("counts", [(7, 1), (4, 4), (3, 1, 1, 1, 1, 1)])
def test_a_handful_of_examples_is_enough(counts):
    """Without a warning, which would be an error here."""
    labels = np.repeat(np.arange(len(counts)), counts)
    features = np.random.default_rng(0).normal(size=(len(labels), 16)) + 3 * np.eye(16)[labels]
    for name in CLASSIFIERS:
        predictions = fit(name, features, labels).predict(features)
        assert set(predictions) <= set(labels)


def test_the_curve_has_every_classifier_size_and_subset():
    train, held_out, told = clusters(2, 60, 1.0), clusters(2, 100, 1.0, seed=1), []
    score = lambda classifier: float(np.mean(classifier.predict(held_out[0]) == held_out[1]))
    points, probe = labelled_curve(train, score, [8, 20], 2, told.append)
    assert [(point.classifier, point.num_labelled, len(point.values)) for point in points] == [
        (name, size, count) for name in CLASSIFIERS for size, count in ((8, 2), (20, 2), (60, 1))
    ]
    assert sum(told) == num_fitted([8, 20], train[1], 2)
    [at_all] = [point for point in points if (point.classifier, point.num_labelled) == (LOGISTIC, 60)]
    assert score(probe) == at_all.values[0] > 0.9
    values = [value for point in points for value in point.values]
    assert len(set(values)) > 5  # subsets differ
