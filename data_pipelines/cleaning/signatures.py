"""What documents are compared by: a digest of the whole text, and a MinHash signature of its shingles.

Broder 1997, On the resemblance and containment of documents. The signature is datasketch's: the smallest
values of NUM_PERMUTATIONS random functions of the shingles. The share of equal values of two signatures
estimates the share of shingles that the documents have in common (Jaccard similarity).
"""

import functools
import hashlib

import numpy as np

from data_pipelines.cleaning.words import ngram_numbers

NUM_PERMUTATIONS = 128
SHINGLE_WORDS = 5  # as FineWeb (Penedo et al. 2024) and Lee et al. 2022
BLOCK = 4096  # shingles at a time: 2 MB of their random functions
MISSED_TO_EXTRA = (0.05, 0.95)  # a candidate that is none costs a comparison, one that is missed stays


def digest(text: str) -> np.ndarray:
    """uint64 [2]; different texts have different ones."""
    data = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()
    return np.frombuffer(data, "<u8")


def signature(numbers: np.ndarray) -> np.ndarray:
    """The signature of a text, given as the numbers of its words, uint32 [NUM_PERMUTATIONS].

    A text of fewer than SHINGLE_WORDS words is one shingle. Without words, all values are the largest.
    """
    from datasketch import MinHash

    shingles = np.unique(ngram_numbers(numbers, min(SHINGLE_WORDS, max(1, len(numbers)))) >> np.uint64(32))
    sketch = MinHash(NUM_PERMUTATIONS, hashfunc=int, scheme="affine32", permutations=_permutations())
    for start in range(0, len(shingles), BLOCK):
        sketch.update_batch(shingles[start : start + BLOCK].tolist())
    return sketch.hashvalues.astype(np.uint32)


@functools.cache
def _permutations() -> np.ndarray:
    from datasketch import MinHash

    return MinHash(NUM_PERMUTATIONS, hashfunc=int, scheme="affine32").permutations


@functools.cache
def bands_and_rows(similarity: float) -> tuple[int, int]:
    """Number of bands and values in each, with which few pairs of `similarity` share no band."""
    from datasketch import MinHashLSH

    index = MinHashLSH(threshold=similarity, num_perm=NUM_PERMUTATIONS, weights=MISSED_TO_EXTRA)
    return index.b, index.r


def band_numbers(signatures: np.ndarray, similarity: float) -> np.ndarray:
    """A hash of each band of each signature, uint64 [bands, documents], from uint32 [documents, values]."""
    num_bands, num_rows = bands_and_rows(similarity)
    bands = np.empty((num_bands, len(signatures)), np.uint64)
    for band in range(num_bands):
        values = signatures[:, band * num_rows : (band + 1) * num_rows].astype(np.uint64)
        total = np.full(len(signatures), band, np.uint64)
        for row in range(num_rows):
            total = (total ^ values[:, row]) * np.uint64(0x9E3779B97F4A7C15)
            total ^= total >> np.uint64(29)
        bands[band] = total
    return bands
