"""Where the characters of a normalised text come from."""

import unicodedata

import numpy as np
import pytest
from hypothesis import given, settings

from data_pipelines.tokenizers.spans import normalized_spans
from support.offsets import TEXTS


def nfkc(text):
    return unicodedata.normalize("NFKC", text)


def lower(text):
    return nfkc(nfkc(text).replace("Σ", "σ").lower())


def sources(text, normal_form):
    """(character of the normalised text, its source), and the position after the last source."""
    starts, ends = normalized_spans(text, normal_form)
    assert starts.dtype == ends.dtype == np.int32 and starts[-1] == ends[-1]
    normal = " ".join(normal_form(text).split()) + "$"
    pairs = [(character, text[start:end]) for character, start, end in zip(normal, starts, ends, strict=True)]
    assert pairs.pop() == ("$", "")
    return pairs, int(starts[-1])


@pytest.mark.parametrize(
    ("text", "expected", "end"),
    [
        ("", [], 0),
        (" \n", [], 0),
        (" Ab  c\n", [("a", "A"), ("b", "b"), (" ", ""), ("c", "c")], 6),
        ("e\u0301x\u0302y", [("é", "e\u0301"), ("x", "x"), ("\u0302", "\u0302"), ("y", "y")], 5),
        ("ﬁn½", [("f", "ﬁ"), ("i", "ﬁ"), ("n", "n"), ("1", "½"), ("\u2044", "½"), ("2", "½")], 3),
        ("\u1100\u1161\u11a8\u1100", [("각", "\u1100\u1161\u11a8"), ("\u1100", "\u1100")], 4),
        ("ｶﾞｷ", [("ガ", "ｶﾞ"), ("キ", "ｷ")], 3),
        ("İΣ", [("i", "İ"), ("\u0307", "İ"), ("σ", "Σ")], 2),
        ("a\u0323\u0302b", [("\u1ead", "a\u0323\u0302"), ("b", "b")], 4),
        (
            "q\u0302\u0323b",
            [("q", "q\u0302\u0323"), ("\u0323", "q\u0302\u0323"), ("\u0302", "q\u0302\u0323"), ("b", "b")],
            4,
        ),
        ("a\u00a0\u3000b", [("a", "a"), (" ", ""), ("b", "b")], 4),
        ("a¨b", [("a", "a"), (" ", ""), ("\u0308", "¨"), ("b", "b")], 3),
    ],
)
def test_the_source_of_a_character(text, expected, end):
    assert sources(text, lower) == (expected, end)


def test_a_space_within_a_character_comes_from_it():
    pairs, end = sources("a \ufdfab", nfkc)
    assert pairs[:2] == [("a", "a"), (" ", "")] and pairs[-1] == ("b", "b") and end == 4
    assert len(pairs) > 15 and {source for _, source in pairs[2:-1]} == {"\ufdfa"}


def test_a_word_that_cannot_be_split_has_one_span():
    """The stroke combines with "=", past a voice mark that only becomes a combining mark by normalisation."""
    word = "a=\uff9e\u0338"
    assert sources(f"{word} b", nfkc) == (
        [("a", word), ("≠", word), ("\u3099", word), (" ", ""), ("b", "b")],
        6,
    )


@settings(max_examples=500, deadline=None)
@given(text=TEXTS)
@pytest.mark.parametrize("normal_form", [nfkc, lower, str])
def test_spans_are_ordered_and_their_text_normalises_to_the_characters(normal_form, text):
    starts, ends = normalized_spans(text, normal_form)
    normal = " ".join(normal_form(text).split())
    assert len(starts) == len(ends) == len(normal) + 1
    assert (np.diff(starts) >= 0).all() and (np.diff(ends) >= 0).all() and (starts <= ends).all()
    assert starts[0] >= 0 and ends[-1] <= len(text)
    spans = list(zip(starts[:-1].tolist(), ends[:-1].tolist(), strict=True))
    for span in set(spans):
        covered = "".join(character for character, other in zip(normal, spans, strict=True) if other == span)
        assert " ".join(covered.split()) == " ".join(normal_form(text[slice(*span)]).split())
