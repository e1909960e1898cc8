"""Whether a tokenizer that strips accents also strips what tells words of other scripts apart.

BERT's rule removes all combining marks. In Latin, Greek and Cyrillic these are accents. Hindi and Thai write
vowels with them, and Japanese が is か with a voicing mark.
"""

import functools
import unicodedata
from collections.abc import Mapping

from data_pipelines.tokenizers.load import Tokenizer

HIGH_LOST_SHARE = 0.01  # of the letters of a text
WITH_ACCENTS = frozenset(("LATIN", "GREEK", "CYRILLIC"))
EXAMPLE = "में が"
MAX_SHOWN = 40  # characters of a word


def strips_marks(tokenizer: Tokenizer) -> bool:
    """Whether its normalisation removes combining marks of all scripts."""
    return _letters(tokenizer.normalize(EXAMPLE))[1] == 0


def stripping_lines(tokenizer: Tokenizer) -> list[str]:
    """A line that marks are stripped, for a report without a text; [] if they are not."""
    if not strips_marks(tokenizer):
        return []
    return [
        f"marks            stripped in every script: {EXAMPLE} becomes {_normalized(tokenizer, EXAMPLE)}; no "
        "text was read, so how many words this changes is unknown"
    ]


def lost_marks_lines(tokenizer: Tokenizer, words: Mapping[str, int], *, is_adopted: bool) -> list[str]:
    """A warning that many letters of a text lose marks that are no accents; [] if few do.

    Args:
      words: how often each word of the text occurs.
      is_adopted: whether the tokenizer was made elsewhere, so that its options are not those of a training.
    """
    if not strips_marks(tokenizer):
        return []
    num_letters = num_lost = 0
    changed = []
    for word, number in words.items():
        letters, marked = _letters(word)
        num_letters += number * letters
        lost = marked - _letters(tokenizer.normalize(word))[1] if marked else 0
        if lost > 0:
            num_lost += number * lost
            changed.append(word)
    if num_lost <= HIGH_LOST_SHARE * num_letters:
        return []
    commonest = max(changed, key=lambda word: (words[word], -len(word), word))
    shown = _part_with_marks(commonest)
    advice = "pass --no-strip_accents to keep it"
    if is_adopted:
        advice = (
            'if the pieces have such marks, put {"strip_accents": false} into tokenizer_config.json beside a '
            "vocab.txt; otherwise train a tokenizer with --kind wordpiece --no-strip_accents"
        )
    return [
        f"WARNING: {num_lost / num_letters:.1%} of the letters of the text lose a vowel sign or another mark "
        f"that is no accent: {shown} becomes {_normalized(tokenizer, shown)}. Words that differ only in it "
        f"become equal; {advice}."
    ]


def _letters(text: str) -> tuple[int, int]:
    """How many letters a text has, and how many of them have marks and are of a script without accents."""
    if text.isascii():
        return sum(map(str.isalpha, text)), 0
    letters = marked = 0
    can_be_marked = False
    for character in unicodedata.normalize("NFD", text):
        category = unicodedata.category(character)
        if category == "Mn":
            marked += can_be_marked
            can_be_marked = False
        elif category.startswith("L"):
            letters += 1
            can_be_marked = _has_no_accents(character)
        elif category not in ("Mc", "Cf"):  # a vowel sign with room of its own, or a joiner, may be between
            can_be_marked = False
    return letters, marked


@functools.cache
def _has_no_accents(letter: str) -> bool:
    return WITH_ACCENTS.isdisjoint(unicodedata.name(letter, "").split())


def _part_with_marks(word: str) -> str:
    """The word, of a long one the first part that has such marks."""
    parts = [word[start : start + MAX_SHOWN] for start in range(0, len(word), MAX_SHOWN)]
    return next((part for part in parts if _letters(part)[1]), parts[0])


def _normalized(tokenizer: Tokenizer, text: str) -> str:
    """The normalised words, without the spaces that BERT's rules put around Chinese characters."""
    return " ".join("".join(tokenizer.normalize(word).split()) for word in text.split())
