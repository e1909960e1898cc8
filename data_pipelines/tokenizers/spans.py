"""Which characters of the original text each character of its normalised form comes from."""

import re
import unicodedata
from collections.abc import Callable

import numpy as np

_WORD = re.compile(r"\S+")  # what str.split() finds


def normalized_spans(text: str, normal_form: Callable[[str], str]) -> tuple[np.ndarray, np.ndarray]:
    """Starts and ends in `text`, int32 [n + 1] each, of the n characters of its normalised form.

    The normalised form is `" ".join(normal_form(text).split())`. Where characters change together (a letter
    and its accents, say), each new one has the span of all the old ones; where even that is unknown, it has
    the span of the whole word. A space starts where the next character does, so its span is empty unless
    `normal_form` made it from something else. The last entry is the empty span after the last character.

    Args:
      normal_form: the normalisation. It must treat the words of a text and the white space between them
        independently, as NFKC and lower-casing do: no white space takes part in a composition.
    """
    starts: list[int] = []
    ends: list[int] = []
    for word in _WORD.finditer(text):
        normal = normal_form(word[0])
        word_starts, word_ends = _word_spans(word[0], normal, normal_form)
        # NFKC splits some characters, such as a free-standing accent, into several words.
        for part in _WORD.finditer(normal):
            first = word.start() + word_starts[part.start()]
            if starts:
                starts.append(first)
                ends.append(max(ends[-1], first))
            starts += [word.start() + at for at in word_starts[part.start() : part.end()]]
            ends += [word.start() + at for at in word_ends[part.start() : part.end()]]
    end = ends[-1] if ends else 0
    return np.array([*starts, end], np.int32), np.array([*ends, end], np.int32)


def _word_spans(word: str, normal: str, normal_form: Callable[[str], str]) -> tuple[list[int], list[int]]:
    """Starts and ends in `word` of each character of `normal`, its normal form."""
    if normal == word or (word.isascii() and len(normal) == len(word)):
        return list(range(len(word))), list(range(1, len(word) + 1))
    clusters = _clusters(word, normal_form)
    if "".join(form for _, form in clusters) != normal:
        return [0] * len(normal), [len(word)] * len(normal)
    starts: list[int] = []
    ends: list[int] = []
    at = 0
    for cluster, form in clusters:
        is_one_to_one = [normal_form(character) for character in cluster] == list(form)
        starts += range(at, at + len(cluster)) if is_one_to_one else [at] * len(form)
        at += len(cluster)
        ends += range(at - len(cluster) + 1, at + 1) if is_one_to_one else [at] * len(form)
    return starts, ends


def _clusters(word: str, normal_form: Callable[[str], str]) -> list[tuple[str, str]]:
    """`word` cut wherever its normal form allows, with the normal form of each piece.

    A character stays with the one before it if it is a combining mark, since several of them can change
    places, or if the two change together: the parts of a Korean syllable, or a half-width letter and its
    voice mark.
    """
    clusters: list[tuple[str, str]] = []
    for character in word:
        form = normal_form(character)
        if clusters:
            before, before_form = clusters[-1]
            joined = normal_form(before + character)
            if unicodedata.combining(character) or joined != before_form + form:
                clusters[-1] = (before + character, joined)
                continue
        clusters.append((character, form))
    return clusters
