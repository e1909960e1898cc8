"""Words of a text with their places, and the spans that tags mark: names of people, places and so on."""

import unicodedata
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from electra_jax.finetuning.metrics import OUTSIDE


class Word(NamedTuple):
    """A word and its place in the text, in characters."""

    text: str
    start: int
    end: int


class Span(NamedTuple):
    """Neighbouring words with one type."""

    label: str
    first: int  # index of its first word
    last: int  # index of its last word


def split_words(text: str) -> list[Word]:
    """The words between white space; signs before and after a word are words of their own, each.

    Signs inside a word stay: "U.S. didn't pay 3.50 (yet)." has the words U.S . didn't pay 3.50 ( yet ) . as
    most corpora of tagged sentences divide it, except for contractions.
    """
    words, at = [], 0
    for run in text.split():
        at = text.index(run, at)
        end = at + len(run)
        first, last = at, end
        while first < end and _is_sign(text[first]):
            first += 1
        while last > first and _is_sign(text[last - 1]):
            last -= 1
        words += [Word(text[place], place, place + 1) for place in range(at, first)]
        words += [Word(text[first:last], first, last)] if last > first else []
        words += [Word(text[place], place, place + 1) for place in range(last, end)]
        at = end
    return words


def _is_sign(letter: str) -> bool:
    return unicodedata.category(letter)[0] in "PS"


def place_words(words: Sequence[str]) -> list[Word]:
    """The words in the text `" ".join(words)`."""
    placed, at = [], 0
    for word in words:
        placed.append(Word(word, at, at + len(word)))
        at += len(word) + 1
    return placed


def find_spans(tags: Sequence[str]) -> Iterator[Span]:
    """The spans of a tagged sentence, as CoNLL's conlleval.pl and the metric span_f1 count them: an I- or E-
    that continues no span of its type begins one."""
    open_at, open_type, before = 0, "", OUTSIDE
    for at, tag in enumerate([*tags, OUTSIDE]):
        kind, label = tag[:1], tag[2:]
        continues = open_type and kind in "IE" and label == open_type and before not in "ES"
        if open_type and not continues:
            yield Span(open_type, open_at, at - 1)
        if not continues:
            open_at, open_type = at, "" if tag == OUTSIDE else label
        before = kind
