"""The loss of a model that only counts tokens: what masked language modelling has to beat.

Such a model predicts every masked token, whatever surrounds it, with the frequencies q of the training text.
An evaluation's `mlm_loss` is the mean of −log p(token | context) over the tokens t_1 … t_M that it masks. The
loss to compare it with is therefore the mean of −log q(t_i) over the same M tokens,

    unigram_cross_entropy = −1/M · Σ_i log q(t_i) = −Σ_v m(v)/M · log q(v),   m(v): how often v is among them.

Masking picks a row's tokens alike, whatever they are (`objectives/masking.py`), so its expectation is the
cross-entropy between held-out text and q, which does not depend on M; and on the same tokens, chance moves
both losses together. The entropy of the masked tokens themselves, −Σ_v m(v)/M · log(m(v)/M), would be a wrong
baseline: it is the loss of frequencies fitted to the answers, and the fewer tokens are masked, the lower.

With n(v) occurrences of token v in the training rows, add-one smoothing gives tokens without any a share:

    q(v) = (n(v) + 1) / (N + V),   N = Σ_v n(v).

v runs over the V ids of the tokenizer that can be masked (`corruption.never_masked` has the others).
"""

from collections.abc import Sequence

import numpy as np


def unigram_log_probabilities(counts: np.ndarray, never_masked: Sequence[int]) -> np.ndarray:
    """log q(v) in nats, float64 [vocab_size].

    Args:
      counts: how often each id is in the training rows [vocab_size].
      never_masked: the ids that are never masked; their log-probability is −inf.
    """
    counts = np.asarray(counts, np.float64) + 1
    counts[list(never_masked)] = 0
    with np.errstate(divide="ignore"):
        return np.log(counts / counts.sum())


def unigram_cross_entropy(target_counts: np.ndarray, log_probabilities: np.ndarray) -> float:
    """The mean of −log q, in nats; NaN without any target.

    Args:
      target_counts: how often each id is among the masked tokens. A model may have more rows than the
        tokenizer has ids.
      log_probabilities: as by `unigram_log_probabilities`.
    """
    targets = np.flatnonzero(target_counts)
    total = target_counts[targets].sum()
    return float(-(target_counts[targets] * log_probabilities[targets]).sum() / total) if total else np.nan
