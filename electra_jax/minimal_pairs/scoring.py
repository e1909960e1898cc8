"""Scores of sentences: how acceptable a pre-trained model finds each.

    generator               pseudo-log-likelihood, Σ log p(token | all others): one token is masked at a time
                            (Salazar et al. 2020)
    generator_within_word   the same, with the later tokens of the word masked, too (Kauf & Ivanova 2023):
                            otherwise the end of a word gives away its start
    discriminator           in one pass, Σ log(1 − p(replaced)); of Electric −Σ energy, which is its
                            pseudo-log-likelihood up to a constant for each token

All sums are over the tokens without [CLS] and [SEP]. Everything is computed in float32, whatever the run was
trained in, so that a run and its export get the same scores.

Shapes: B batch, L length, n tokens of a sentence.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from electra_jax.huggingface.reference import in_float32
from electra_jax.prediction.pretrained import Networks, Pretrained
from electra_jax.prediction.spans import split_words
from electra_jax.prediction.spelling import Spelled
from electra_jax.prediction.tokens import parts_of

GENERATOR, WITHIN_WORD, DISCRIMINATOR = "generator", "generator_within_word", "discriminator"
# Lengths of rows. Each is compiled once; the length of a sentence alone decides which it gets, so its score
# does not depend on the others.
BUCKETS = (8, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512)  # above: multiples of the last
TOKENS = {"cpu": 4096}  # of a batch
TOKENS_ELSEWHERE = 32_768  # on accelerators
GROUP = 2048  # sentences at once, which bounds the memory; even, so that a pair is never divided

# Rule → the encoder that it needs.
RULES = {GENERATOR: "generator", WITHIN_WORD: "generator", DISCRIMINATOR: "discriminator"}

Tell = Callable[[float], object]  # called with the share of the work that is done


class Scores(NamedTuple):
    """What one model thinks of some sentences."""

    by_rule: dict[str, np.ndarray]  # one of the rules above → float64, one for each sentence
    num_divided: int  # sentences longer than the model's rows, scored in parts


class _Queries:
    """Rows with one token to predict each; equal ones are computed once."""

    def __init__(self):
        self.rows: list[np.ndarray] = []
        self.positions: list[int] = []
        self.tokens: list[int] = []
        self._known: dict[tuple[bytes, int, int], int] = {}

    def add(self, row: np.ndarray, position: int, token: int) -> int:
        """The number of the query."""
        key = (row.tobytes(), position, token)
        if key not in self._known:
            self._known[key] = len(self.rows)
            self.rows.append(row)
            self.positions.append(position)
            self.tokens.append(token)
        return self._known[key]


def rules_of(pretrained: Pretrained) -> list[str]:
    """The rules by which a model can score."""
    return [rule for rule, role in RULES.items() if getattr(pretrained, role) is not None]


class SentenceScorer:
    """A pre-trained model that scores sentences."""

    def __init__(self, pretrained: Pretrained, mesh: Mesh):
        exact = {
            role: weights and weights._replace(config=in_float32(weights.config))
            for role, weights in (
                ("generator", pretrained.generator),
                ("discriminator", pretrained.discriminator),
            )
        }
        self._pretrained = pretrained._replace(**exact)
        self._networks = Networks(self._pretrained, mesh)
        self._mesh_size = mesh.size

    def score(self, sentences: Sequence[str], tell: Tell | None = None) -> Scores:
        """The scores of sentences by every rule that the model has an encoder for.

        Raises:
          EmptySentenceError: a sentence has no tokens.
          FloatingPointError: the model computes something that is not a number.
        """
        groups = []
        for start in range(0, len(sentences), GROUP):
            group = sentences[start : start + GROUP]
            groups.append(
                self._score(group, start, _within(tell or _silent, start, len(group), len(sentences)))
            )
        by_rule = {rule: np.concatenate([one.by_rule[rule] for one in groups]) for rule in groups[0].by_rule}
        return Scores(by_rule, sum(one.num_divided for one in groups))

    def _score(self, sentences: Sequence[str], first: int, tell: Tell) -> Scores:
        spelled = self._pretrained.speller.spell(sentences, with_masks=False)
        for number, one in enumerate(spelled, first):
            if not len(one.ids):
                raise EmptySentenceError(number)
        by_rule: dict[str, np.ndarray] = {}
        has_generator = self._pretrained.generator is not None
        if has_generator:
            by_rule |= self._likelihoods(sentences, spelled, tell)
        if self._pretrained.discriminator is not None:
            by_rule[DISCRIMINATOR] = self._judgements(spelled, _silent if has_generator else tell)
        room = self._pretrained.max_length - 2
        return Scores(by_rule, sum(len(one.ids) > room for one in spelled))

    def _likelihoods(
        self, sentences: Sequence[str], spelled: Sequence[Spelled], tell: Tell
    ) -> dict[str, np.ndarray]:
        queries, found = _Queries(), {GENERATOR: [], WITHIN_WORD: []}  # of each rule (sentence, query)
        mask = self._pretrained.tokenizer.special.mask
        ends = [word_ends(text, one.offsets) for text, one in zip(sentences, spelled, strict=True)]
        for part in parts_of(spelled, self._pretrained.max_length):
            row = self._row(spelled[part.text].ids[part.start : part.stop])
            for at in range(part.start, part.stop):
                position = 1 + at - part.start
                end_of_word = 1 + min(ends[part.text][at], part.stop) - part.start
                for rule, end in ((GENERATOR, position + 1), (WITHIN_WORD, end_of_word)):
                    masked = row.copy()
                    masked[position:end] = mask
                    found[rule].append((part.text, queries.add(masked, position, row[position])))
        log_probs = np.zeros(len(queries.rows))
        positions, tokens = np.array(queries.positions, np.int32), np.array(queries.tokens, np.int32)
        for chosen, ids_BL in self._batches(queries.rows, tell):
            arrays = [np.zeros(len(ids_BL), np.int32) for _ in range(2)]
            for array, values in zip(arrays, (positions, tokens), strict=True):
                array[: len(chosen)] = values[chosen]
            log_probs[chosen] = self._networks.log_probs(ids_BL, *arrays)[: len(chosen)]
        return {rule: _sums(pairs, log_probs, len(spelled)) for rule, pairs in found.items()}

    def _judgements(self, spelled: Sequence[Spelled], tell: Tell) -> np.ndarray:
        rows, found, known = [], [], {}
        for part in parts_of(spelled, self._pretrained.max_length):
            row = self._row(spelled[part.text].ids[part.start : part.stop])
            number = known.setdefault(row.tobytes(), len(rows))
            rows += [row] if number == len(rows) else []
            found.append((part.text, number))
        totals = np.zeros(len(rows))
        is_log_odds = self._pretrained.row.logit_is_log_odds
        for chosen, ids_BL in self._batches(rows, tell):
            logits_BL = np.float64(self._networks.logits(ids_BL))
            terms_BL = -np.logaddexp(0.0, logits_BL) if is_log_odds else -logits_BL
            for number, terms_L in zip(chosen, terms_BL, strict=False):
                totals[number] = terms_L[1 : len(rows[number]) - 1].sum()
        return _sums(found, totals, len(spelled))

    def _row(self, ids_n: np.ndarray) -> np.ndarray:
        special = self._pretrained.tokenizer.special
        return np.array([special.cls, *ids_n, special.sep], np.int32)

    def _batches(self, rows: Sequence[np.ndarray], tell: Tell) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        pad = self._pretrained.tokenizer.special.pad
        return row_batches(rows, self._pretrained.max_length, pad, self._mesh_size, tell)


def row_batches(
    rows: Sequence[np.ndarray], longest: int, pad: int, num_devices: int, tell: Tell
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """(numbers of rows, their ids [B, L] padded to a bucket); L depends on a row alone, B on L alone.

    Args:
      rows: ids [n] each, no longer than `longest`.
      longest: tokens of the model's longest rows: there are no positions beyond.
      num_devices: B is a multiple of it.
      tell: called with the share that is done.
    """
    buckets: dict[int, list[int]] = {}
    for number, row in enumerate(rows):
        buckets.setdefault(min(bucket_of(len(row)), longest), []).append(number)
    done = 0
    for length, numbers in sorted(buckets.items()):
        size = rows_of_batch(length, num_devices)
        for start in range(0, len(numbers), size):
            chosen = np.array(numbers[start : start + size])
            ids_BL = np.full((size, length), pad, np.int32)
            for ids_L, number in zip(ids_BL, chosen, strict=False):
                ids_L[: len(rows[number])] = rows[number]
            yield chosen, ids_BL
            done += len(chosen)
            tell(done / len(rows))


class EmptySentenceError(ValueError):
    """A sentence without tokens."""

    def __init__(self, number: int):
        super().__init__(f"sentence {number} has no tokens")
        self.number = number


def _silent(share: float) -> None:
    """Tells nobody."""


def _within(tell: Tell, start: int, size: int, total: int) -> Tell:
    """Tells `tell`, of a part of the work, which share of the whole is done."""
    return lambda share: tell((start + share * size) / total)


def bucket_of(length: int) -> int:
    """The length that rows of `length` ids are padded to."""
    return next((bound for bound in BUCKETS if length <= bound), -(-length // BUCKETS[-1]) * BUCKETS[-1])


def rows_of_batch(length: int, num_devices: int) -> int:
    """Rows of a batch with that length, a multiple of the devices."""
    tokens = TOKENS.get(jax.default_backend(), TOKENS_ELSEWHERE)
    return max(1, tokens // length // num_devices) * num_devices


def word_ends(text: str, offsets_n2: np.ndarray) -> np.ndarray:
    """For each token the index behind the last token of its word [n]. Words are those of `split_words`; a
    token belongs to the word in which it starts, or to the next one if it starts between words."""
    ends_of_words = np.array([word.end for word in split_words(text)])
    word_n = np.searchsorted(ends_of_words, offsets_n2[:, 0], side="right")
    return np.searchsorted(word_n, word_n, side="right")


def _sums(pairs: Sequence[tuple[int, int]], values: np.ndarray, count: int) -> np.ndarray:
    """The sum of the values of each sentence, from (sentence, number of a value)."""
    sentences, numbers = np.array(pairs).T
    totals = np.zeros(count)
    np.add.at(totals, sentences, values[numbers])
    return totals
