"""Words of a text as numbers, and their n-grams, for comparing documents.

Letter case, punctuation, white space and Unicode's compatible forms (NFKC) make no difference. "_" is
punctuation, as in the emphasis of Markdown. In scripts without spaces between words (Chinese, Japanese, Thai,
Lao, Khmer, Burmese), every character is a word.
Combining marks, such as the vowel signs of Hindi and Arabic, belong to the word that they are in.
"""

import functools
import hashlib
import re
import unicodedata

import numpy as np

_WITHOUT_SPACES = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
)
_JOINERS = "\u200c\u200d"  # between letters of one word
_WITHOUT_WIDTH = "\u00ad\u200b\u2060\ufeff"  # where a line may be broken, or may not: no part of a word
_MARKS = range(0x300, 0x1FFFF)  # where combining marks are, but for variation selectors
_BASE = np.uint64(0x9E3779B97F4A7C15)  # odd, so that multiplying by it loses nothing
_MIX = np.uint64(0xFF51AFD7ED558CCD)
_HALF = np.uint64(33)


def words_of(text: str) -> list[str]:
    """The words of a text, lower-cased."""
    for character in _WITHOUT_WIDTH:  # before NFKC, since a letter and its mark may be on both sides
        text = text.replace(character, "")
    return _word().findall(unicodedata.normalize("NFKC", text).lower())


@functools.cache
def _word() -> re.Pattern[str]:
    """A word. For Python, marks are no characters of words."""
    without_spaces, letters = re.compile(f"[{_WITHOUT_SPACES}]"), f"[^\\W_{_WITHOUT_SPACES}]"
    marks = "".join(
        character
        for character in map(chr, _MARKS)
        if unicodedata.category(character).startswith("M") and not without_spaces.match(character)
    )
    return re.compile(f"{without_spaces.pattern}|{letters}+(?:[{marks}{_JOINERS}]+{letters}*)*")


def word_numbers(text: str) -> np.ndarray:
    """The hash of each word, uint64 [words]; the same on every machine."""
    words = words_of(text)
    return np.fromiter(map(_word_number, words), np.uint64, len(words))


@functools.lru_cache(maxsize=1 << 17)
def _word_number(word: str) -> int:
    return int.from_bytes(hashlib.blake2b(word.encode("utf-8", "surrogatepass"), digest_size=8).digest())


def ngram_numbers(numbers: np.ndarray, n: int) -> np.ndarray:
    """The hash of every n consecutive numbers, uint64 [numbers − n + 1], [0] if there are fewer than n."""
    length = max(0, len(numbers) - n + 1)
    total = np.zeros(length, np.uint64)
    for start in range(n if length else 0):
        total = total * _BASE + numbers[start : start + length]
    total = (total ^ (total >> _HALF)) * _MIX
    return total ^ (total >> _HALF)
