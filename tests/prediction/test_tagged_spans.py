"""Words of running text, and the spans of tagged sentences."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st
from seqeval.metrics.sequence_labeling import get_entities

from electra_jax.finetuning.metrics import marks_spans
from electra_jax.prediction.spans import find_spans, place_words, split_words


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("U.S. didn't pay 3.50 (yet).", ["U.S", ".", "didn't", "pay", "3.50", "(", "yet", ")", "."]),
        ("  Straße–Ort, «ja»!?\n", ["Straße–Ort", ",", "«", "ja", "»", "!", "?"]),
        ("हिन्दी है।", ["हिन्दी", "है", "।"]),  # vowel signs belong to the word
        ("… $5 a a", ["…", "$", "5", "a", "a"]),
        (" \t", []),
    ],
)
def test_words_by_hand(text, words):
    assert [word.text for word in split_words(text)] == words


@given(st.text(alphabet="aé1.,(' \t日", max_size=30))
def test_words_lie_where_they_say_and_lose_only_white_space(text):
    words = split_words(text)
    assert all(text[word.start : word.end] == word.text for word in words)
    assert "".join(word.text for word in words) == "".join(text.split())
    assert all(one.end <= other.start for one, other in itertools.pairwise(words))


def test_given_words_lie_in_the_text_that_joins_them():
    words = ["New", "York", "", "is"]
    assert [" ".join(words)[word.start : word.end] for word in place_words(words)] == words


TAGS = st.sampled_from(["O", "B-A", "I-A", "B-B", "I-B", "E-A", "S-A", "S-B", "E-B"])


@given(st.lists(TAGS, max_size=9))
def test_spans_are_those_that_the_metric_counts(tags):
    assert [tuple(span) for span in find_spans(tags)] == get_entities(tags)


def test_spans_by_hand():
    tags = ["B-PER", "I-PER", "O", "I-LOC", "B-LOC", "I-ORG"]
    assert [tuple(span) for span in find_spans(tags)] == [
        ("PER", 0, 1),
        ("LOC", 3, 3),
        ("LOC", 4, 4),
        ("ORG", 5, 5),
    ]


def test_only_tags_that_mark_spans_give_spans():
    assert marks_spans(["O", "B-PER", "I-PER"])
    for labels in (["NOUN", "VERB"], ["O"], ["B-PER", "X"], ["B-"], []):
        assert not marks_spans(labels), labels
