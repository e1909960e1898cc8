"""Which documents are duplicates of which: over all files, in memory that grows by some bytes a document.

Equal digests are exact duplicates. Near duplicates are the connected documents of a graph: two are joined if
they agree in a whole band of their signatures and the signatures then show the wanted similarity (banding:
Leskovec, Rajaraman and Ullman, Mining of Massive Datasets, section 3.4). Of each group the first stays.
"""

from collections.abc import Callable, Iterable

import numpy as np

MAX_ROUNDS = 64  # in a band; it ends earlier unless very many documents share it and are not similar
PAIRS = 1 << 14  # whose signatures are compared at a time

# (documents, documents) → similarities, each [pairs].
Compare = Callable[[np.ndarray, np.ndarray], np.ndarray]


def first_equal(digests: np.ndarray) -> np.ndarray:
    """For each document the first one with the same digest, int64 [documents], from uint64 [documents, 2]."""
    order = np.lexsort((digests[:, 1], digests[:, 0]))  # which is stable
    ordered = digests[order]
    begins = np.ones(len(order), bool)
    begins[1:] = (ordered[1:] != ordered[:-1]).any(1)
    firsts = np.empty(len(order), np.int64)
    firsts[order] = order[begins][np.cumsum(begins) - 1]
    return firsts


def first_similar(
    bands: Iterable[np.ndarray], documents: np.ndarray, total: int, compare: Compare, similarity: float
) -> np.ndarray:
    """For each document the first one of its group of near duplicates, int64 [total].

    Args:
      bands: for each band, the hashes of `documents`, uint64 [len(documents)].
      documents: the numbers of those that are compared, ascending, below `total`.
    """
    groups = np.arange(total)
    for hashes in bands:
        pairs = _similar_pairs(hashes, documents, groups, compare, similarity)
        if len(pairs):
            groups = _joined(groups, pairs)
    return groups


def _similar_pairs(
    hashes: np.ndarray, documents: np.ndarray, groups: np.ndarray, compare: Compare, similarity: float
) -> np.ndarray:
    """Pairs of similar documents with equal hashes, int64 [pairs, 2], of groups that are still apart.

    The first of those with the same hash is compared with all others; then the first of those that are not
    similar with the rest, and so on.
    """
    order = np.argsort(hashes, kind="stable")
    ordered = hashes[order]
    is_alone = np.ones(len(order) + 1, bool)
    is_alone[1:-1] = ordered[1:] != ordered[:-1]  # whether it differs from the one before
    is_shared = ~(is_alone[:-1] & is_alone[1:])
    rest, kinds = documents[order[is_shared]], ordered[is_shared]
    found = [np.empty((0, 2), np.int64)]
    for _ in range(MAX_ROUNDS):
        if not len(rest):
            break
        begins = np.ones(len(rest), bool)
        begins[1:] = kinds[1:] != kinds[:-1]
        pairs = np.stack([rest[begins][np.cumsum(begins) - 1], rest], 1)[~begins]
        is_joined = groups[pairs[:, 0]] == groups[pairs[:, 1]]
        is_similar = is_joined.copy()
        for start in range(0, len(pairs), PAIRS):
            block = slice(start, start + PAIRS)
            new = pairs[block][~is_joined[block]]
            if len(new):
                is_similar[start : start + PAIRS][~is_joined[block]] = compare(*new.T) >= similarity
        found.append(pairs[is_similar & ~is_joined])
        rest, kinds = rest[~begins][~is_similar], kinds[~begins][~is_similar]
    return np.concatenate(found)


def _joined(groups: np.ndarray, pairs: np.ndarray) -> np.ndarray:
    """`groups` after joining those of each pair: the smallest number among their documents."""
    from scipy.sparse import coo_matrix  # slow to import
    from scipy.sparse.csgraph import connected_components

    size = len(groups)
    ones = np.ones(len(pairs), np.int8)
    graph = coo_matrix((ones, (groups[pairs[:, 0]], groups[pairs[:, 1]])), shape=(size, size))
    number, components = connected_components(graph, directed=False)
    firsts = np.full(number, size, np.int64)
    np.minimum.at(firsts, components, np.arange(size))
    return firsts[components][groups]
