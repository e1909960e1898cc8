"""Out-of-distribution detection: is a text unlike those that a classifier was trained on?

All scores are larger for texts that look more foreign:

    MSP           − the largest probability of a class (Hendrycks and Gimpel 2017, arXiv:1610.02136)
    energy        − log Σ exp(logit) (Liu et al. 2020, arXiv:2010.03759, with T = 1)
    Mahalanobis   the squared distance to the nearest class mean, by one covariance of all classes (Lee et al.
                  2018, arXiv:1807.03888), which is shrunk as by Ledoit and Wolf (2004)

The first two read the logits of the linear probe, which sum to 0. Of two classes they are z/2 and −z/2, so
both put the texts in the same order. The third reads the standardised features.

Shapes: N texts, D features, C classes.
"""

from typing import Any

import numpy as np

MSP, ENERGY, MAHALANOBIS = "MSP", "energy", "Mahalanobis"
SCORES = (MSP, ENERGY, MAHALANOBIS)


class OutsideDetector:
    """A linear probe and the features that it was trained on.

    Args:
      probe: a fitted pipeline of `classifiers.fit`.
      features_ND, labels_N: of the training examples.
    """

    def __init__(self, probe: Any, features_ND: np.ndarray, labels_N: np.ndarray):
        from sklearn.covariance import LedoitWolf  # slow to import

        self._scaler, self._linear = probe[0], probe[-1]
        scaled_ND = self._scaler.transform(features_ND)
        classes, numbers_N = np.unique(labels_N, return_inverse=True)
        self._means_CD = np.stack([scaled_ND[numbers_N == index].mean(0) for index in range(len(classes))])
        self._covariance = LedoitWolf(assume_centered=True).fit(scaled_ND - self._means_CD[numbers_N])

    def scores(self, features_ND: np.ndarray) -> dict[str, np.ndarray]:
        """Name → score of each text [N]."""
        from scipy.special import logsumexp, softmax  # slow to import

        scaled_ND = self._scaler.transform(features_ND)
        logits_NC = self._linear.decision_function(scaled_ND)
        if logits_NC.ndim == 1:
            logits_NC = np.stack([-logits_NC / 2, logits_NC / 2], axis=1)
        distances_CN = [self._covariance.mahalanobis(scaled_ND - mean_D[None]) for mean_D in self._means_CD]
        return {
            MSP: -softmax(logits_NC, axis=1).max(axis=1),
            ENERGY: -logsumexp(logits_NC, axis=1),
            MAHALANOBIS: np.min(distances_CN, axis=0),
        }


def aurocs(inside: dict[str, np.ndarray], outside: dict[str, np.ndarray]) -> dict[str, float]:
    """Score → area under the ROC curve: the share of pairs of an outside and an inside text in which the
    outside one has the larger score; ties count half.

    Args:
      inside, outside: of `OutsideDetector.scores`.
    """
    from sklearn.metrics import roc_auc_score  # slow to import

    found = {}
    for name in SCORES:
        values = np.concatenate([inside[name], outside[name]])
        is_outside = np.arange(len(values)) >= len(inside[name])
        found[name] = float(roc_auc_score(is_outside, values))
    return found
