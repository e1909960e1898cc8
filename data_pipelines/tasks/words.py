"""How the words of a tagged sentence are spelled, so that each has the pieces that it has in running text."""

import functools
import itertools
from collections.abc import Sequence

from data_pipelines.tokenizers.load import Tokenizer

MAX_SAMPLE = 32  # words of the vocabulary that are tried


@functools.lru_cache(maxsize=8)
def word_separator(tokenizer: Tokenizer) -> str:
    """What belongs before every word but the first of a sentence that is encoded word by word: " " or "".

    WordPiece marks the pieces that continue a word, and SentencePiece puts a blank before every text, so for
    them it is "". A byte-level vocabulary as RoBERTa's and ModernBERT's spells a word after a blank in other
    pieces ("Ġtea") than at the start of a text ("tea"). It is found by encoding words of the vocabulary.
    """
    words = _sample(tokenizer)
    pairs = list(itertools.pairwise(words))
    whole = tokenizer.encode_batch([f"{one} {other}" for one, other in pairs])
    firsts = tokenizer.encode_batch([one for one, _ in pairs])
    equal = {
        separator: sum(
            first + second == both
            for first, second, both in zip(
                firsts, tokenizer.encode_batch([separator + other for _, other in pairs]), whole, strict=True
            )
        )
        for separator in ("", " ")
    }
    return " " if equal[" "] > equal[""] else ""


def spell_words(words: Sequence[str], separator: str) -> list[str]:
    """The words of a sentence as they are encoded; a blank one gets no separator, and has no pieces."""
    return [word if at == 0 or not word.strip() else separator + word for at, word in enumerate(words)]


def _sample(tokenizer: Tokenizer) -> list[str]:
    """Some words of the vocabulary, or letters of it, in the order of their ids."""
    special = set(tokenizer.special)
    words: list[str] = []
    for number in range(tokenizer.num_pieces):
        if number in special:
            continue
        word = tokenizer.decode([number]).strip()
        if word.isalpha() and word not in words:
            words.append(word)
            if len(words) == MAX_SAMPLE:
                break
    return words
