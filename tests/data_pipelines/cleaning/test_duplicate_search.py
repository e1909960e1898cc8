"""Signatures estimate the similarity that is counted, and groups are those of an exhaustive comparison."""

import itertools

import numpy as np
import pytest

from data_pipelines.cleaning import matching, signatures
from data_pipelines.cleaning.words import ngram_numbers, word_numbers
from support.plain_texts import english_sentences

SIMILARITY = 0.7


def shingles(text):
    return set(ngram_numbers(word_numbers(text), signatures.SHINGLE_WORDS).tolist())


def jaccard(left, right):
    return len(shingles(left) & shingles(right)) / len(shingles(left) | shingles(right))


@pytest.fixture(scope="module")
def families():
    """30 texts, each with three copies of which ever more words are exchanged."""
    rng, sentences = np.random.default_rng(0), english_sentences()
    texts = []
    for family in range(30):
        words = " ".join(sentences[5 * family : 5 * family + 5]).split()
        texts.append(" ".join(words))
        for share in (0.01, 0.05, 0.15):
            copy = list(words)
            for at in rng.choice(len(words), max(1, int(share * len(words))), replace=False):
                copy[at] = f"other{at}"
            texts.append(" ".join(copy))
    return texts, np.stack([signatures.signature(word_numbers(text)) for text in texts])


def test_signatures_estimate_the_jaccard_similarity(families):
    texts, values = families
    pairs = [(at, at + distance) for at in range(0, len(texts), 4) for distance in (1, 2, 3)]
    counted = np.array([jaccard(texts[left], texts[right]) for left, right in pairs])
    estimated = np.array([(values[left] == values[right]).mean() for left, right in pairs])
    deviation = np.sqrt(counted * (1 - counted) / signatures.NUM_PERMUTATIONS)
    assert np.ptp(counted) > 0.5
    assert abs((estimated - counted).mean()) < 0.02
    assert (abs(estimated - counted) < 4 * deviation + 0.01).all()


def test_a_long_text_has_the_signature_of_its_shingles_in_any_order():
    words = [f"word{number}" for number in range(3 * signatures.BLOCK)]
    whole = signatures.signature(word_numbers(" ".join(words)))
    halves = [words[: len(words) // 2 + 4], words[len(words) // 2 :]]  # with all shingles of the whole
    parts = [signatures.signature(word_numbers(" ".join(half))) for half in halves]
    np.testing.assert_array_equal(whole, np.minimum(*parts))
    assert (signatures.signature(word_numbers("...")) == np.iinfo(np.uint32).max).all()


def test_groups_are_those_of_an_exhaustive_comparison(families):
    _, values = families
    total = len(values)
    compare = lambda left, right: (values[left] == values[right]).mean(1)
    pairs = [
        pair
        for pair in itertools.combinations(range(total), 2)
        if compare(*np.array([pair]).T)[0] >= SIMILARITY
    ]
    expected = np.arange(total)
    for _ in range(total):  # the smallest number spreads through each group
        for left, right in pairs:
            expected[[left, right]] = expected[[left, right]].min()
    bands = signatures.band_numbers(values, SIMILARITY)
    found = matching.first_similar(bands, np.arange(total), total, compare, SIMILARITY)
    np.testing.assert_array_equal(found, expected)
    assert 20 < (expected != np.arange(total)).sum() < 80


def test_a_shared_band_alone_joins_nothing():
    """Documents 0 and 2 are similar, and 1 and 3, but all four agree in the only band."""
    compare = lambda left, right: np.where((left + right) % 2, 0.1, 0.9)
    groups = matching.first_similar(np.full((1, 4), 7, np.uint64), np.arange(4), 4, compare, SIMILARITY)
    assert groups.tolist() == [0, 1, 0, 1]


def test_groups_are_joined_over_bands():
    """0 and 3 share the first band, 3 and 1 the second: three documents of one group; 2 was left out."""
    bands = np.array([[1, 2, 1], [1, 2, 2]], np.uint64)
    compare = lambda left, right: np.ones(len(left))
    groups = matching.first_similar(bands, np.array([0, 1, 3]), 4, compare, SIMILARITY)
    assert groups.tolist() == [0, 0, 2, 0]


def test_the_first_of_equal_documents_stays():
    texts = ["a", "b", "a", "c", "b", "a"]
    firsts = matching.first_equal(np.stack([signatures.digest(text) for text in texts]))
    assert firsts.tolist() == [0, 1, 0, 3, 1, 0]
