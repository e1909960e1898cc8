"""How much of a text a WordPiece tokenizer makes [UNK], in characters.

With WordPiece one [UNK] is a whole word, and every word of more than 100 characters is one, as in BERT's
code. A word ends at white space and punctuation, so in a language that is written without spaces few [UNK]
can be much of the text. Other kinds of tokenizers have an [UNK] only for characters without a piece.
"""

import itertools
import operator
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from tokenizers import normalizers, pre_tokenizers

from data_pipelines.packing import Lines
from data_pipelines.tokenizers.huggingface import HuggingFaceTokenizer
from data_pipelines.tokenizers.load import Tokenizer
from data_pipelines.tokenizers.wordpiece import LONGEST_WORD

HIGH_UNKNOWN_SHARE = 0.01  # of the tokens or characters; a tokenizer made for a text leaves far less
BLOCK_CHARS = 1 << 18  # that are counted at once; bounds memory
SHOWN = 20  # first characters of a long word


class CharacterCounts(NamedTuple):
    """Characters of a text as the tokenizer normalises it, without white space."""

    characters: int
    unknown_characters: int  # in words that become [UNK]
    long_words: int  # those that are too long to be cut; 0 in a text without [UNK]
    long_characters: int  # in them

    def __add__(self, other: "CharacterCounts") -> "CharacterCounts":
        return CharacterCounts(*(one + two for one, two in zip(self, other, strict=True)))

    def times(self, number: int) -> "CharacterCounts":
        """The counts of a text that occurs `number` times."""
        return CharacterCounts(*(number * count for count in self))


NO_CHARACTERS = CharacterCounts(0, 0, 0, 0)


class CharacterCounter:
    """Counts the characters of texts that become [UNK] with BERT's WordPiece.

    BERT's rules normalise every character by itself and cut words at single characters. So a table has what
    becomes of each character, and no text is normalised once more: the unknown characters are those that
    the known pieces do not spell.
    """

    def __init__(self, tokenizer: HuggingFaceTokenizer):
        self._tokenizer = tokenizer
        self._lengths = [len(piece.removeprefix(tokenizer.inside_mark)) for piece in tokenizer.vocabulary()]
        self._lengths[tokenizer.special.unk] = 0
        # By code point: twice the number of characters that it becomes, plus 1 if it ends a word; −1: not yet
        # looked up.
        self._table = np.full(sys.maxunicode + 1, -1, np.int8)

    def count(self, texts: Sequence[str], encoded: Sequence[Lines]) -> tuple[CharacterCounts, str]:
        """The counts of texts together, and the beginning of the first word that is too long, "" if none is.

        Args:
          encoded: the ids of each text, in one or more lines.
        """
        unk = self._tokenizer.special.unk
        has_unknown = [any(unk in line for line in lines) for lines in encoded]
        counts, example = NO_CHARACTERS, ""
        for block in _joined(itertools.compress(texts, map(operator.not_, has_unknown))):
            counts += NO_CHARACTERS._replace(characters=_total(self._entries(block)))
        for block in _joined(itertools.compress(texts, has_unknown)):
            found, first = self._in_block(block)
            counts, example = counts + found, example or first
        lines = itertools.chain.from_iterable(itertools.compress(encoded, has_unknown))
        known = sum(sum(map(self._lengths.__getitem__, line)) for line in lines)
        return counts._replace(unknown_characters=counts.unknown_characters - known), example

    def _in_block(self, text: str) -> tuple[CharacterCounts, str]:
        """The counts of a text, of which no character counts as known yet, and its first word that is too
        long."""
        entries = self._entries(text)
        total = _total(entries)
        ends = np.flatnonzero(entries & 1)  # characters between words, or words by themselves
        inside = np.cumsum(np.where(entries & 1, 0, entries >> 1), dtype=np.int32)
        words = np.diff(np.concatenate([[0], inside[ends], inside[-1:]]))
        long = np.flatnonzero(words > LONGEST_WORD)
        counts = CharacterCounts(total, total, len(long), int(words[long].sum()))
        if not len(long):
            return counts, ""
        start = int(ends[long[0] - 1]) + 1 if long[0] else 0
        return counts, text[start : start + SHOWN]

    def _entries(self, text: str) -> np.ndarray:
        """The entry of the table for each character, int8 [n]."""
        codes = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)
        entries = self._table.take(codes)
        if entries.min(initial=0) < 0:
            for code in np.unique(codes[entries < 0]).tolist():
                self._table[code] = self._entry(chr(code))
            entries = self._table.take(codes)
        return entries

    def _entry(self, character: str) -> int:
        words = self._tokenizer.pre_tokenizer.pre_tokenize_str(self._tokenizer.normalize(f"a{character}a"))
        return 2 * (sum(len(word) for word, _ in words) - 2) + (len(words) > 1)


def _total(entries: np.ndarray) -> int:
    return int((entries >> 1).sum(dtype=np.int64))


def _joined(texts: Iterable[str]) -> Iterator[str]:
    """The texts, short ones together, with white space between them: many at once take less time."""
    return map("\n".join, _blocks(texts))


def _blocks(texts: Iterable[str]) -> Iterator[list[str]]:
    block, size = [], 0
    for text in texts:
        block.append(text)
        size += len(text)
        if size >= BLOCK_CHARS:
            yield block
            block, size = [], 0
    if block:
        yield block


def character_counter(tokenizer: Tokenizer) -> CharacterCounter | None:
    """What counts the unknown characters of texts; None unless the tokenizer follows BERT's rules."""
    is_berts = (
        isinstance(tokenizer, HuggingFaceTokenizer)
        and tokenizer.longest_word == LONGEST_WORD
        and isinstance(tokenizer.normalizer, normalizers.BertNormalizer)
        and isinstance(tokenizer.pre_tokenizer, pre_tokenizers.BertPreTokenizer)
    )
    return CharacterCounter(tokenizer) if is_berts else None


def count_in_words(tokenizer: Tokenizer, words: Mapping[str, int]) -> tuple[CharacterCounts, str] | None:
    """As `CharacterCounter.count`, for a text of which `words` has how often each word occurs; None unless
    the tokenizer follows BERT's rules."""
    counter = character_counter(tokenizer)
    if counter is None:
        return None
    of_number: dict[int, list[str]] = {}
    for word, number in words.items():
        of_number.setdefault(number, []).append(word)
    counts, example = NO_CHARACTERS, ""
    for number, equally_frequent in of_number.items():
        for block in _blocks(equally_frequent):
            found, first = counter.count(block, [[ids] for ids in tokenizer.encode_batch(block)])
            counts, example = counts + found.times(number), example or first
    return counts, example


def unknown_share(counts: Mapping[str, int]) -> float:
    """The share of the characters that become [UNK]; `counts` has the fields of `CharacterCounts`."""
    return counts["unknown_characters"] / max(1, counts["characters"])


def advice_lines(counts: Mapping[str, int], example: str) -> list[str]:
    """Why so much becomes [UNK], and what helps; `example` is the beginning of a word that is too long."""
    if 2 * counts["long_characters"] < counts["unknown_characters"]:
        return [
            "  Is the tokenizer for this language, letter case and script? Otherwise train one on this text; "
            "with --kind sentencepiece an unknown character does not make its whole word [UNK]."
        ]
    runs = "1 run" if counts["long_words"] == 1 else f"{counts['long_words']:,} runs"
    return [
        f"  {runs} of more than {LONGEST_WORD} characters without white space or "
        f"punctuation became one [UNK] each ({example!r}…):",
        "  WordPiece does not cut such long words. For a language that is written without spaces train a "
        "tokenizer with --kind sentencepiece.",
    ]


def swallowed_lines(counts: CharacterCounts, example: str) -> list[str]:
    """A warning that much of a text becomes [UNK]; [] if little does."""
    share = unknown_share(counts._asdict())
    if share <= HIGH_UNKNOWN_SHARE:
        return []
    return [
        f"WARNING: {share:.1%} of the {counts.characters:,} characters of the text (without white space) are "
        "in words that become [UNK].",
        *advice_lines(counts._asdict(), example),
    ]
