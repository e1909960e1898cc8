"""Word sets that represent a document, as PROP draws them, and rows that begin with one (prop.py).

The document of a row is its first one. The language model of a document D with n words is its word
frequencies, smoothed with those of the collection C (Dirichlet smoothing, Zhai & Lafferty 2004):

    p(w | D) = (count of w in D + μ·p(w | C)) / (n + μ),  μ = the mean of n

Here words are tokens, and the collection is the batch, of which μ and p(w | C) are computed; the paper's are
words of the corpus, stemmed by option. So nothing has to be counted before training, and any dataset will do.

Shapes: B batch, L length, W words of a set at most, K candidates, N = B·L tokens, V vocabulary, P predicted
positions.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from electra_jax.models.inputs import SpecialTokens, derive_inputs
from electra_jax.objectives.corruption import MaskedBatch

CANDIDATES = 4  # drawn for each word: frequent ones are passed over
LONGEST_SHARE = 4  # a set takes at most this part, one fourth, of the row


class WordSet(NamedTuple):
    """One set for each document."""

    words_BW: jax.Array  # int32; those beyond a set's number of words are not used
    available_B: jax.Array  # int32: how many words were drawn
    log_probs_BW: jax.Array  # float32: log p(w | D)


class Collection(NamedTuple):
    """The words of a batch of rows."""

    ids_BL: jax.Array
    is_word_BL: jax.Array  # of the rows' first documents
    length_B: jax.Array  # float32: n, words of each document
    mean_length: jax.Array  # float32: μ
    frequency_V: jax.Array  # float32: p(w | C)


def collect(ids_BL: jax.Array, special: SpecialTokens, type_vocab_size: int, vocab_size: int) -> Collection:
    """Count the tokens that are not special."""
    segments_BL = derive_inputs(ids_BL, special, type_vocab_size).segments_BL
    is_word_BL = ~jnp.isin(ids_BL, jnp.asarray(special))
    counts_V = jnp.zeros(vocab_size).at[ids_BL.ravel()].add(is_word_BL.ravel().astype(jnp.float32))
    is_of_first_BL = is_word_BL & (segments_BL == 1)
    length_B = is_of_first_BL.sum(axis=1, dtype=jnp.float32)
    return Collection(
        ids_BL,
        is_of_first_BL,
        length_B,
        jnp.maximum(length_B.mean(), 1.0),
        counts_V / jnp.maximum(counts_V.sum(), 1.0),
    )


def longest_set(mean_words: float, row_length: int) -> int:
    """W: fewer than one set in a hundred would have more words."""
    longest, total = 0, math.exp(-mean_words)
    while total < 0.99 and longest < row_length // LONGEST_SHARE:
        longest += 1
        total += _poisson(longest, mean_words)
    return max(1, longest)


def draw_sizes(uniforms_B: jax.Array, mean_words: float, longest: int) -> jax.Array:
    """Number of words of each document's two sets, from 1 to `longest`: Poisson, with only these values."""
    share = np.cumsum([_poisson(size, mean_words) for size in range(1, longest + 1)])
    bounds = jnp.asarray(share[:-1] / share[-1])
    return 1 + jnp.searchsorted(bounds, uniforms_B, side="right").astype(jnp.int32)


def _poisson(count: int, mean: float) -> float:
    return math.exp(count * math.log(mean) - mean - math.lgamma(count + 1))


def draw_set(key: jax.Array, collection: Collection, num_words: int, subsampling: float) -> WordSet:
    """Words from p(w | D): one of the document with probability n / (n + μ), else one of the collection.

    A word of frequency f is then kept with probability √(t/f) + t/f, t = `subsampling`, as in word2vec and in
    Albert-Ma/PROP (multiprocessing_generate_word_sets.py); 0 keeps all. After too few draws of rare words a
    set has fewer words.

    Args:
      num_words: W.
    """
    ids_BL, is_word_BL, length_B, mean_length, frequency_V = collection
    source_key, document_key, collection_key, keep_key = jax.random.split(key, 4)
    shape = (ids_BL.shape[0], CANDIDATES * num_words)
    own_BK = _at_random(jax.random.uniform(document_key, shape), ids_BL, is_word_BL)
    cumulative_V = jnp.cumsum(frequency_V)
    uniforms_BK = jax.random.uniform(collection_key, shape) * cumulative_V[-1]
    others_BK = jnp.searchsorted(cumulative_V, uniforms_BK, side="right").astype(jnp.int32)
    others_BK = jnp.minimum(others_BK, frequency_V.shape[0] - 1)
    own_share_B1 = (length_B / (length_B + mean_length))[:, None]
    drawn_BK = jnp.where(jax.random.uniform(source_key, shape) < own_share_B1, own_BK, others_BK)
    frequency_BK = frequency_V[drawn_BK]
    is_kept_BK = (frequency_BK > 0) & (length_B[:, None] > 0)
    if subsampling:
        rarity_BK = subsampling / jnp.maximum(frequency_BK, 1e-9)
        is_kept_BK &= jax.random.uniform(keep_key, shape) < jnp.sqrt(rarity_BK) + rarity_BK
    kept_first_BK = jnp.argsort(~is_kept_BK, axis=1, stable=True)
    words_BW = jnp.take_along_axis(drawn_BK, kept_first_BK, axis=1)[:, :num_words]
    return WordSet(
        words_BW,
        jnp.minimum(is_kept_BK.sum(axis=1, dtype=jnp.int32), num_words),
        log_probabilities(words_BW, collection),
    )


def log_probabilities(words_BW: jax.Array, collection: Collection) -> jax.Array:
    """log p(w | D) [B, W] of words in their row's document."""
    ids_BL, is_word_BL, length_B, mean_length, frequency_V = collection
    is_same_BWL = (words_BW[:, :, None] == ids_BL[:, None]) & is_word_BL[:, None]
    counts_BW = is_same_BWL.sum(axis=2, dtype=jnp.float32)
    smoothed_BW = (counts_BW + mean_length * frequency_V[words_BW]) / (length_B + mean_length)[:, None]
    return jnp.log(jnp.maximum(smoothed_BW, 1e-30))


def _at_random(uniforms_BK: jax.Array, ids_BL: jax.Array, is_word_BL: jax.Array) -> jax.Array:
    """For each uniform number in [0, 1) one of its row's words, all equally likely; any id in a row without
    words."""
    rank_BL = jnp.cumsum(is_word_BL, axis=1, dtype=jnp.int32)
    wanted_BK = (uniforms_BK * rank_BL[:, -1:]).astype(jnp.int32) + 1
    places_BK = jax.vmap(jnp.searchsorted)(rank_BL, wanted_BK)
    return jnp.take_along_axis(ids_BL, jnp.minimum(places_BK, ids_BL.shape[1] - 1), axis=1)


def begin_with(
    batch: MaskedBatch, words_BW: jax.Array, sizes_B: jax.Array, special: SpecialTokens, type_vocab_size: int
) -> MaskedBatch:
    """The rows with `sizes_B` words and a [SEP] in front: [CLS] words [SEP] text. Words are never masked.

    Rows keep their length: padding is dropped first, then the end of the text, with the predictions there,
    and the row ends in [SEP]. Rows of no words stay as they are. A row that begins within a document gets a
    [CLS].
    """
    length = batch.ids_BL.shape[1]
    has_cls_B1 = batch.ids_BL[:, :1] == special.cls
    sizes_B1 = sizes_B[:, None]
    offset_B1 = jnp.where(sizes_B1 > 0, sizes_B1 + 2 - has_cls_B1, 0)
    is_cut_B1 = batch.inputs.is_token_BL.sum(axis=1, keepdims=True) + offset_B1 > length
    index_1L = jnp.arange(length)[None]
    source_BL = jnp.maximum(index_1L - offset_B1, 0)
    words_BL = jnp.take_along_axis(words_BW, jnp.clip(index_1L - 1, 0, words_BW.shape[1] - 1), axis=1)

    def put_in_front(row_BL: jax.Array) -> jax.Array:
        text_BL = jnp.take_along_axis(row_BL, source_BL, axis=1)
        front_BL = jnp.where(index_1L <= sizes_B1, words_BL, special.sep)
        front_BL = jnp.where(index_1L == 0, special.cls, front_BL)
        out_BL = jnp.where((index_1L < sizes_B1 + 2) & (sizes_B1 > 0), front_BL, text_BL)
        return jnp.where(is_cut_B1 & (index_1L == length - 1), special.sep, out_BL)

    ids_BL = put_in_front(batch.ids_BL)
    positions_BP = batch.positions_BP + offset_B1
    weights_BP = batch.weights_BP * (positions_BP < length - is_cut_B1)
    return batch._replace(
        ids_BL=ids_BL,
        inputs=derive_inputs(ids_BL, special, type_vocab_size),
        masked_ids_BL=put_in_front(batch.masked_ids_BL),
        positions_BP=jnp.where(weights_BP > 0, positions_BP, 0),
        weights_BP=weights_BP,
    )
