"""Scores of texts of other origin, against NumPy, and the area under their curve."""

import numpy as np
import pytest

from electra_jax.frozen_features.classifiers import LOGISTIC, fit
from electra_jax.frozen_features.outside import ENERGY, MAHALANOBIS, MSP, OutsideDetector, aurocs


def data(num_classes, size=150, width=6, seed=0):
    source = np.random.default_rng(seed)
    labels = np.arange(size) % num_classes
    mixing = source.normal(size=(width, width)) + 2 * np.eye(width)
    return (source.normal(size=(size, width)) + 2 * np.eye(width)[labels]) @ mixing, labels


def shrunk_precision(residuals):
    """The inverse of the covariance of Ledoit and Wolf 2004, lemma 3.2 to 3.4."""
    count, width = residuals.shape
    sample = residuals.T @ residuals / count
    scale = np.trace(sample) / width
    distance = np.sum((sample - scale * np.eye(width)) ** 2) / width
    spread = sum(np.sum((np.outer(row, row) - sample) ** 2) for row in residuals) / width / count**2
    shrinkage = min(spread, distance) / distance
    assert 0.001 < shrinkage < 1
    return np.linalg.inv((1 - shrinkage) * sample + shrinkage * scale * np.eye(width))


def by_hand(features, labels, probe, texts):
    """The three scores, from the weights of the probe and from the training examples."""
    mean, deviation = features.mean(0), features.std(0)
    scaled, texts = (features - mean) / deviation, (texts - mean) / deviation
    weights, bias = probe[-1].coef_, probe[-1].intercept_
    logits = texts @ weights.T + bias
    if len(weights) == 1:
        logits = np.concatenate([-logits, logits], axis=1) / 2
    exponentials = np.exp(logits)
    means = np.stack([scaled[labels == label].mean(0) for label in range(labels.max() + 1)])
    precision = shrunk_precision(scaled - means[labels])
    differences = texts[:, None] - means[None]
    return {
        MSP: -(exponentials / exponentials.sum(1, keepdims=True)).max(1),
        ENERGY: -np.log(exponentials.sum(1)),
        MAHALANOBIS: np.einsum("ncd,de,nce->nc", differences, precision, differences).min(1),
    }


@pytest.mark.parametrize("num_classes", [2, 4])
def test_scores_are_those_by_hand(num_classes):
    features, labels = data(num_classes)
    probe = fit(LOGISTIC, features, labels)
    texts = np.random.default_rng(1).normal(size=(40, 6)) * 3
    found = OutsideDetector(probe, features, labels).scores(texts)
    for name, expected in by_hand(features, labels, probe, texts).items():
        np.testing.assert_allclose(found[name], expected, rtol=1e-9, err_msg=name)
    is_same_order = list(np.argsort(found[MSP])) == list(np.argsort(found[ENERGY]))
    assert is_same_order == (num_classes == 2)


def test_the_logits_of_several_classes_sum_to_zero():
    """Otherwise the energy would depend on a constant that no prediction depends on."""
    features, labels = data(4)
    probe = fit(LOGISTIC, features, labels)
    np.testing.assert_allclose(probe.decision_function(features).sum(1), 0, atol=1e-6)


def test_the_area_is_the_share_of_pairs_in_the_right_order():
    source = np.random.default_rng(0)
    scores = lambda size, shift: {
        name: np.round(source.normal(size=size) + shift, 1) for name in (MSP, ENERGY, MAHALANOBIS)
    }
    inside, outside = scores(30, 0.0), scores(20, 0.7)
    found = aurocs(inside, outside)
    for name, area in found.items():
        pairs = outside[name][:, None] - inside[name][None]
        assert area == pytest.approx(np.mean(pairs > 0) + np.mean(pairs == 0) / 2), name
        assert 0.5 < area < 0.9


def test_far_features_are_found():
    features, labels = data(4)
    detector = OutsideDetector(fit(LOGISTIC, features, labels), features, labels)
    inside, near = detector.scores(data(4, seed=0)[0]), detector.scores(features)
    far = detector.scores(features + 40 * features.std(0) * np.resize([1, -1], 6))
    assert aurocs(inside, near)[MAHALANOBIS] == pytest.approx(0.5)
    assert aurocs(inside, far)[MAHALANOBIS] == 1.0
