"""One text, and what several rules measure on it: computed once, when a rule first asks."""

import functools
import re
from collections import Counter
from collections.abc import Sequence

import numpy as np

from data_pipelines.cleaning.words import ngram_numbers

_PARAGRAPH_END = re.compile(r"\n{2,}")
_LINE_END = re.compile(r"\n+")


class TextView:
    """A text of a language.

    Args:
      language: code as of `languages.py`, "" if it was not looked at.
    """

    def __init__(self, text: str, language: str = ""):
        self.text, self.language = text, language

    @functools.cached_property
    def words(self) -> list[str]:
        """What white space separates."""
        return self.text.split()

    @functools.cached_property
    def word_lengths(self) -> np.ndarray:
        """Characters of each word, int64 [words]."""
        return np.fromiter(map(len, self.words), np.int64, len(self.words))

    @functools.cached_property
    def lines(self) -> list[str]:
        """Lines that are not empty."""
        return [line for line in map(str.strip, _LINE_END.split(self.text)) if line]

    @functools.cached_property
    def paragraphs(self) -> list[str]:
        """What empty lines separate."""
        return [part for part in map(str.strip, _PARAGRAPH_END.split(self.text)) if part]

    @functools.cached_property
    def _word_ids(self) -> np.ndarray:
        ids: dict[str, int] = {}
        return np.fromiter((ids.setdefault(word, len(ids) + 1) for word in self.words), np.uint64)

    def _ngrams(self, n: int) -> tuple[np.ndarray, np.ndarray]:
        """The kind of each n-gram of words, and how often each kind occurs."""
        _, kinds, counts = np.unique(
            ngram_numbers(self._word_ids, n), return_inverse=True, return_counts=True
        )
        return kinds, counts

    def share_of_words(self, is_counted) -> float:
        """The share of the words for which a function is true; 0 without words."""
        return sum(map(bool, map(is_counted, self.words))) / max(1, len(self.words))

    def share_of_lines(self, is_counted) -> float:
        """The share of the lines for which a function is true; 0 without lines."""
        return sum(map(bool, map(is_counted, self.lines))) / max(1, len(self.lines))

    def top_ngram_characters(self, n: int) -> float:
        """The share of the characters of words that are in the most frequent n-gram, if it occurs twice."""
        kinds, counts = self._ngrams(n)
        if not len(counts) or counts.max() < 2:
            return 0.0
        lengths = np.convolve(self.word_lengths, np.ones(n, np.int64), "valid")
        characters = np.bincount(kinds, weights=lengths)
        return float(characters[counts == counts.max()].max() / self.word_lengths.sum())

    def duplicate_ngram_characters(self, n: int) -> float:
        """The share of the characters of words that are in n-grams which occur twice or more; a character
        that is in several is counted once."""
        kinds, counts = self._ngrams(n)
        if not len(counts) or counts.max() < 2:
            return 0.0
        starts = np.zeros(len(self.words) + 1, np.int64)
        is_repeated = counts[kinds] > 1
        starts[: len(kinds)] += is_repeated
        starts[n : n + len(kinds)] -= is_repeated
        return float(self.word_lengths[np.cumsum(starts)[:-1] > 0].sum() / self.word_lengths.sum())


def repeated_share(parts: Sequence[str]) -> float:
    """The share of the parts that are the same as an earlier one."""
    return 1 - len(set(parts)) / len(parts) if parts else 0.0


def repeated_characters(parts: Sequence[str]) -> float:
    """The share of the characters that are in parts which are the same as an earlier one."""
    counts = Counter(parts)
    total = sum(len(part) * count for part, count in counts.items())
    return sum(len(part) * (count - 1) for part, count in counts.items()) / max(1, total)
