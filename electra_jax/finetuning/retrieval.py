"""Search with embeddings, exactly: which of all texts are nearest to a query.

Metrics are means over the different queries of a split, as in BEIR (Thakur et al. 2021, arXiv:2104.08663):
recall@k is the share of a query's texts among the first k, ndcg@10 the discounted gain of the first ten
(Järvelin and Kekäläinen 2002) with gains of 0 and 1, mrr the reciprocal rank of the first text that belongs
to it, of all ranks. A text that does not belong to the query ranks before one that does and has the same
similarity: a model that gives all texts one vector finds none.

Shapes: N texts, D hidden, Q queries with a text that belongs to them, C texts that are searched.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import numpy as np

from data_pipelines.tasks.embedding_examples import EmbeddingExample
from electra_jax.finetuning.contrastive import number_texts

BLOCK_QUERIES, BLOCK_TEXTS = 512, 16_384  # compared at once
ROUNDING = 1e-6  # similarities that differ by less are equal


class Found(NamedTuple):
    """What the vectors say about one example."""

    similarity: float  # cosine of text and pair; NaN without a pair
    ranks: tuple[int, ...]  # from 1, of every text that belongs to the query; () if nothing was searched


def similarities(examples: Sequence[EmbeddingExample], vectors_ND: np.ndarray) -> list[float]:
    """The cosine of each example's text and pair.

    Args:
      vectors_ND: of the texts, in the order of `number_texts`, of length 1.
    """
    numbers = number_texts(examples)
    return [
        float("nan")
        if example.pair is None
        else float(vectors_ND[numbers[example.text]] @ vectors_ND[numbers[example.pair]])
        for example in examples
    ]


class Search(NamedTuple):
    """The queries and the texts among which theirs are sought."""

    numbers: dict[str, int]  # text → its number, see `number_texts`
    pairs_Q2: np.ndarray  # numbers of each query and of one text that belongs to it, each pair once
    searched_C: np.ndarray  # numbers of all pairs and negatives

    def ranks_of(self, examples: Sequence[EmbeddingExample], ranks_Q: np.ndarray) -> list[tuple[int, ...]]:
        """The ranks of all texts that belong to the query of each example, best first.

        Args:
          ranks_Q: of each of `pairs_Q2` the last rank that it can have among texts with its similarity.
        """
        last: dict[int, list[int]] = {}
        for query, rank in zip(self.pairs_Q2[:, 0].tolist(), ranks_Q.tolist(), strict=True):
            last.setdefault(query, []).append(rank)
        ranks = {query: tuple(_one_each(of_query)) for query, of_query in last.items()}
        return [ranks.get(self.numbers[example.text], ()) for example in examples]


def _one_each(ranks: Sequence[int]) -> list[int]:
    """The last ranks of a query's own texts in order; those that share one have the ranks up to it."""
    ordered = sorted(ranks)
    for at in range(len(ordered) - 2, -1, -1):
        ordered[at] = min(ordered[at], ordered[at + 1] - 1)
    return ordered


def make_search(examples: Sequence[EmbeddingExample]) -> Search:
    """Search all pairs and negatives of the examples for each of their queries."""
    numbers = number_texts(examples)
    texts = [text for example in examples for text in (example.pair, *example.negatives) if text]
    pairs = [
        (numbers[example.text], numbers[example.pair]) for example in examples if example.pair is not None
    ]
    return Search(
        numbers,
        np.array(list(dict.fromkeys(pairs)), np.int64).reshape(-1, 2),
        np.array(sorted({numbers[text] for text in texts}), np.int64),
    )


def search(examples: Sequence[EmbeddingExample], vectors_ND: np.ndarray) -> list[Found]:
    """Rank the texts that belong to the query of each example.

    A query that is itself among the texts is left out of its own search, unless it belongs to itself.

    Args:
      vectors_ND: as in `similarities`.
    """
    plan = make_search(examples)
    ranks = plan.ranks_of(examples, _ranks(vectors_ND, plan.pairs_Q2, plan.searched_C))
    return list(map(Found, similarities(examples, vectors_ND), ranks))


def _ranks(vectors_ND: np.ndarray, pairs_Q2: np.ndarray, searched_C: np.ndarray) -> np.ndarray:
    """The last rank of each pair's second text in the search for its first, [Q]: of all texts that are as
    near as it."""
    ranks_Q = np.ones(len(pairs_Q2), np.int64)
    for start in range(0, len(pairs_Q2), BLOCK_QUERIES):
        queries_B, own_B = pairs_Q2[start : start + BLOCK_QUERIES].T
        own_similarity_B1 = (vectors_ND[queries_B] * vectors_ND[own_B]).sum(axis=1, keepdims=True)
        for first in range(0, len(searched_C), BLOCK_TEXTS):
            block_C = searched_C[first : first + BLOCK_TEXTS]
            is_nearer_BC = vectors_ND[queries_B] @ vectors_ND[block_C].T >= own_similarity_B1 - ROUNDING
            is_nearer_BC &= (block_C != own_B[:, None]) & (block_C != queries_B[:, None])
            ranks_Q[start : start + BLOCK_QUERIES] += is_nearer_BC.sum(axis=1)
    return ranks_Q


def recall_at(k: int) -> Callable[[Sequence[int]], float]:
    """Ranks of the texts of a query → the share among the first `k`."""
    return lambda ranks: sum(rank <= k for rank in ranks) / len(ranks)


def ndcg_at(k: int) -> Callable[[Sequence[int]], float]:
    """Ranks of the texts of a query → normalised discounted cumulative gain of the first `k`."""

    def ndcg(ranks: Sequence[int]) -> float:
        gain = lambda places: sum(1 / np.log2(1 + place) for place in places if place <= k)
        return float(gain(ranks) / gain(range(1, len(ranks) + 1)))

    return ndcg


def reciprocal_rank(ranks: Sequence[int]) -> float:
    """1 / the best rank."""
    return 1 / min(ranks)


RETRIEVAL_METRICS: dict[str, Callable[[Sequence[int]], float]] = {
    "ndcg@10": ndcg_at(10),
    "recall@1": recall_at(1),
    "recall@10": recall_at(10),
    "mrr": reciprocal_rank,
}


def retrieval_score(
    names: Iterable[str], examples: Sequence[EmbeddingExample], found: Sequence[Found]
) -> dict[str, float]:
    """Means over the different queries."""
    ranks = {example.text: one.ranks for example, one in zip(examples, found, strict=True) if one.ranks}
    return {name: float(np.mean(list(map(RETRIEVAL_METRICS[name], ranks.values())))) for name in names}
