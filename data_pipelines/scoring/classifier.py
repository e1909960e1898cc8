"""A linear classifier on hashed n-grams of words: how much a text is like the positive examples.

This is how GPT-3 chose its web pages (Brown et al. 2020, arXiv:2005.14165, appendix A: logistic regression on
hashed features, curated text as positive examples), and DCLM the best tenth of its own (Li et al. 2024,
arXiv:2406.11794, section 4.4: fastText on unigrams and bigrams). Words are those of cleaning/words.py.

Shapes: T texts, F features.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from data_pipelines.cleaning.words import words_of
from data_pipelines.scoring.examples import Examples

NUM_FEATURES = 1 << 20  # F
# The strength of the regularisation is 1 / C. Texts are vectors of length 1: with scikit-learn's own 1.0, the
# probabilities of a few thousand examples all stay near one half.
C = 10.0
DIGITS = 9  # of a score, significant


class Classifier(NamedTuple):
    """What was learnt."""

    weights_F: np.ndarray  # float64
    intercept: float
    ngrams: int  # words of the longest n-gram

    def scores(self, texts: Sequence[str]) -> np.ndarray:
        """The probability that each text is of the positive side, if both were as frequent, float64 [T]. That
        of a text does not depend on the others."""
        from scipy.special import expit  # slow to import

        return expit(features(texts, self.ngrams) @ self.weights_F + self.intercept)


def features(texts: Sequence[str], ngrams: int) -> Any:
    """How often each n-gram of 1 to `ngrams` words occurs, hashed with signs, as a vector of length 1: a
    sparse matrix, float64 [T, F]."""
    from sklearn.feature_extraction.text import HashingVectorizer  # slow to import

    vectorizer = HashingVectorizer(
        n_features=NUM_FEATURES,
        ngram_range=(1, ngrams),
        tokenizer=words_of,
        token_pattern=None,
        lowercase=False,
    )
    return vectorizer.transform(texts)


def fit(positive: Examples, negative: Examples, ngrams: int) -> Classifier:
    """Learn from the examples that are not held out; both sides count the same."""
    from sklearn.linear_model import LogisticRegression  # slow to import
    from threadpoolctl import threadpool_limits

    texts = [*positive.trained, *negative.trained]
    is_positive_T = np.arange(len(texts)) < len(positive.trained)
    model = LogisticRegression(C=C, class_weight="balanced", solver="liblinear", random_state=0)
    with threadpool_limits(1):  # sums are then in the same order on every machine
        model.fit(features(texts, ngrams), is_positive_T)
    return Classifier(model.coef_[0].astype(np.float64), float(model.intercept_[0]), ngrams)


def held_out_auc(classifier: Classifier, positive: Examples, negative: Examples) -> float:
    """The share of pairs of a positive and a negative held-out example in which the positive one has the
    higher score; ties count half."""
    from sklearn.metrics import roc_auc_score  # slow to import

    texts = [*positive.held_out, *negative.held_out]
    is_positive_T = np.arange(len(texts)) < len(positive.held_out)
    return float(roc_auc_score(is_positive_T, classifier.scores(texts)))


def shortened(score: float) -> float:
    """A score with DIGITS digits, as it is written."""
    return float(f"{score:.{DIGITS}g}")
