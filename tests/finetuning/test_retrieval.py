"""Search, its metrics against scikit-learn and by hand, and BM25 against its formula."""

import math

import numpy as np
import pytest
from sklearn.metrics import ndcg_score

from data_pipelines.tasks.embedding_examples import EmbeddingExample
from electra_jax.finetuning import retrieval
from electra_jax.finetuning.bm25 import bm25_search
from electra_jax.finetuning.contrastive import number_texts
from electra_jax.finetuning.retrieval import RETRIEVAL_METRICS, Found, make_search, retrieval_score, search
from support.tiny_pairs import EXAMPLES

# Queries of a search that do not occur among its texts.
ASKED = [
    EmbeddingExample(f"q{number % 30}", f"t{number % 17}", (f"n{number % 5}", ""), None)
    for number in range(60)
]


def unit_vectors(examples, hidden=6):
    vectors = np.random.default_rng(0).normal(size=(len(number_texts(examples)), hidden)).astype("f4")
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def relevance_and_scores(examples, vectors):
    """Of each query: which texts belong to it, and all similarities; a query is no result of its own."""
    numbers = number_texts(examples)
    texts = sorted({text for one in examples for text in (one.pair, *one.negatives) if text})
    for query in dict.fromkeys(one.text for one in examples):
        own = {one.pair for one in examples if one.text == query}
        kept = [text for text in texts if text != query]
        scores = [float(vectors[numbers[query]] @ vectors[numbers[text]]) for text in kept]
        yield np.array([text in own for text in kept]), np.array(scores)


@pytest.mark.parametrize("examples", [ASKED, EXAMPLES])
@pytest.mark.parametrize("blocks", [None, (7, 5)])
def test_metrics_are_those_of_an_exhaustive_search(monkeypatch, examples, blocks):
    if blocks:
        monkeypatch.setattr(retrieval, "BLOCK_QUERIES", blocks[0])
        monkeypatch.setattr(retrieval, "BLOCK_TEXTS", blocks[1])
    vectors = unit_vectors(examples)
    got = retrieval_score(RETRIEVAL_METRICS, examples, search(examples, vectors))
    wanted = {name: [] for name in got}
    for is_own, scores in relevance_and_scores(examples, vectors):
        ordered = is_own[np.argsort(-scores)]
        wanted["ndcg@10"].append(ndcg_score(is_own[None], scores[None], k=10))
        wanted["recall@1"].append(ordered[:1].sum() / is_own.sum())
        wanted["recall@10"].append(ordered[:10].sum() / is_own.sum())
        wanted["mrr"].append(1 / (1 + np.argmax(ordered)))
    assert got == pytest.approx({name: np.mean(values) for name, values in wanted.items()}, abs=1e-9)
    assert 0 < got["recall@1"] < got["recall@10"]


def test_one_vector_for_all_texts_finds_nothing():
    vectors = np.repeat(unit_vectors(ASKED)[:1], len(number_texts(ASKED)), axis=0)
    assert {found.ranks for found in search(ASKED, vectors)} == {(17 + 5 - 1, 17 + 5)}


def test_equal_texts_of_one_query_have_a_rank_each():
    pairs = [EmbeddingExample("a", text, ("other",), None) for text in "xyz"]
    vectors = np.eye(4, dtype="f4")[[0, 0, 0, 1, 0]]  # of a, x, y, z and the other one
    assert {found.ranks for found in search(pairs, vectors)} == {(2, 3, 4)}


def test_similarities_are_cosines():
    vectors = unit_vectors(EXAMPLES)
    numbers = number_texts(EXAMPLES)
    for example, found in zip(EXAMPLES, search(EXAMPLES, vectors), strict=True):
        wanted = vectors[numbers[example.text]] @ vectors[numbers[example.pair]]
        assert found.similarity == pytest.approx(float(wanted))
    assert search(EXAMPLES, vectors)[0].ranks == search(EXAMPLES, vectors)[2].ranks  # one query


def test_a_query_counts_once():
    examples = [EmbeddingExample("a", "x", (), None), EmbeddingExample("a", "y", (), None)]
    examples.append(EmbeddingExample("b", "x", (), None))
    found = [Found(0.5, (1, 3)), Found(0.5, (1, 3)), Found(0.5, (2,))]
    values = retrieval_score(("recall@1", "mrr", "ndcg@10"), examples, found)
    gain = lambda rank: 1 / math.log2(1 + rank)
    ndcg = [(gain(1) + gain(3)) / (gain(1) + gain(2)), gain(2)]
    assert values == pytest.approx({"recall@1": 0.25, "mrr": 0.75, "ndcg@10": np.mean(ndcg)})


TEXTS = [
    "rome is the capital of italy",
    "a river in italy",
    "the rhine is a long river in the west",
    "old stones",
]
QUESTIONS = ["Which capital has Italy?", "How long is the river?", "Stones of the west", "Zebra?"]


def formula(query, text):
    """BM25 as Lucene has it: k1 = 1.5, b = 0.75, words of two letters and more."""
    split = lambda text: [word.strip("?").lower() for word in text.split() if len(word.strip("?")) > 1]
    documents = [split(one) for one in TEXTS]
    mean = np.mean([len(document) for document in documents])
    total = 0.0
    for word in split(query):
        count = sum(word in document for document in documents)
        frequency = split(text).count(word)
        length = 1.5 * (1 - 0.75 + 0.75 * len(split(text)) / mean)
        idf = math.log(1 + (len(TEXTS) - count + 0.5) / (count + 0.5))
        total += idf * frequency / (frequency + length)
    return total


def test_bm25_ranks_as_its_formula():
    for text in TEXTS:
        examples = [EmbeddingExample(question, text, tuple(TEXTS), None) for question in QUESTIONS]
        for question, found in zip(QUESTIONS, bm25_search(examples, make_search(examples)), strict=True):
            scores = np.array([formula(question, other) for other in TEXTS])
            rank = int((scores >= formula(question, text)).sum())  # other texts with its score are before it
            assert found.ranks == (rank,), question
        assert found.ranks == (4,)  # no text has the word of the last question


def test_bm25_of_texts_without_words(caplog):
    examples = [EmbeddingExample(query, "a rhine", ("b",), None) for query in ("?", "rhine")]
    assert [found.ranks for found in bm25_search(examples, make_search(examples))] == [(2,), (1,)]
    assert [found.ranks for found in bm25_search(EXAMPLES[3:], make_search(EXAMPLES[3:]))] == [(5,), (5,)]
    assert caplog.records == []
