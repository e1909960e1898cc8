"""Sentences, pairs and tagged sentences as token ids."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipelines.tasks.encoding import encode_examples
from data_pipelines.tasks.labels import NO_TAG
from data_pipelines.tasks.load import TaggedExample, TextExample
from support.letters import A_, B_, CLS, SEP, UNK, A, B, make_tokenizer

WORDS = st.one_of(st.text("ab", min_size=1, max_size=9), st.sampled_from(["\u200b", "ÿ", "[SEP]"]))
TEXT_OF_WORDS = st.lists(WORDS, max_size=8).map(" ".join)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return make_tokenizer(tmp_path_factory.mktemp("tokenizer"))


def test_texts_and_pairs_as_ids(tokenizer):
    examples = [TextExample("ab", None, 1), TextExample("a", "ba b", 0.5), TextExample("b", None, None)]
    encoded, cut = encode_examples(tokenizer, examples, 8)
    assert [row.ids.tolist() for row in encoded] == [
        [CLS, A, B_, SEP],
        [CLS, A, SEP, B, A_, B, SEP],
        [CLS, B, SEP],
    ]
    assert [row.label for row in encoded] == [1, 0.5, None] and cut == 0
    assert all(row.ids.dtype == np.int32 for row in encoded)
    assert encode_examples(tokenizer, [], 8) == ([], 0)


def test_more_texts_than_a_batch(tokenizer, monkeypatch):
    sizes = []
    encode_batch = tokenizer.encode_batch
    monkeypatch.setattr(
        tokenizer, "encode_batch", lambda texts: sizes.append(len(texts)) or encode_batch(texts)
    )
    encoded, cut = encode_examples(
        tokenizer, [TextExample("a" * (i % 3 + 1), None, i) for i in range(2500)], 4
    )
    assert [row.label for row in encoded] == list(range(2500)) and max(sizes) <= 1024
    assert [len(row.ids) for row in encoded] == [min(i % 3 + 3, 4) for i in range(2500)]
    assert cut == len(range(2, 2500, 3))


def cut_pair(text, pair, room):
    """Remove single tokens from the longer one until both fit, as BERT and ELECTRA do."""
    text, pair = list(text), list(pair)
    while len(text) + len(pair) > room:
        (text if len(text) > len(pair) else pair).pop()
    return text, pair


@settings(max_examples=300, deadline=None)
@given(text=TEXT_OF_WORDS, pair=st.one_of(st.none(), TEXT_OF_WORDS), max_length=st.integers(5, 40))
def test_texts_are_truncated_the_longer_first(tokenizer, text, pair, max_length):
    [row], cut = encode_examples(tokenizer, [TextExample(text, pair, None)], max_length)
    first, second = tokenizer.encode_batch([text, pair or ""])
    if pair is None:
        expected = [CLS, *first[: max_length - 2], SEP]
        fits = len(first) + 2 <= max_length
    else:
        kept, kept_pair = cut_pair(first, second, max_length - 3)
        expected = [CLS, *kept, SEP, *kept_pair, SEP]
        fits = len(first) + len(second) + 3 <= max_length
    assert row.ids.tolist() == expected and len(expected) <= max_length and cut == (not fits)


def test_the_first_piece_of_a_word_carries_its_tag(tokenizer):
    encoded, cut = encode_examples(tokenizer, [TaggedExample(("aba", "\u200b", "b"), (7, 8, 9))], 16)
    assert encoded[0].ids.tolist() == [CLS, A, B_, A_, UNK, B, SEP]
    assert encoded[0].label.tolist() == [-1, 7, -1, -1, 8, 9, -1] and encoded[0].label.dtype == np.int32
    assert cut == 0


def test_sentences_are_divided_between_words(tokenizer):
    examples = [
        TaggedExample(("ab", "aba", "a"), (1, 2, 3)),
        TaggedExample(("a" * 9, "b"), (4, 5)),
        TaggedExample(("a",), (6,)),
    ]
    encoded, cut = encode_examples(tokenizer, examples, 6)
    assert [row.ids.tolist() for row in encoded] == [
        [CLS, A, B_, SEP],
        [CLS, A, B_, A_, A, SEP],
        [CLS, A, A_, A_, A_, SEP],
        [CLS, B, SEP],
        [CLS, A, SEP],
    ]
    assert [row.label.tolist() for row in encoded] == [
        [-1, 1, -1, -1],
        [-1, 2, -1, -1, 3, -1],
        [-1, 4, -1, -1, -1, -1],
        [-1, 5, -1],
        [-1, 6, -1],
    ]
    assert cut == 2


@settings(max_examples=300, deadline=None)
@given(
    sentences=st.lists(st.lists(WORDS, min_size=1, max_size=12), min_size=1, max_size=4),
    max_length=st.integers(3, 20),
)
def test_no_word_and_no_tag_is_lost(tokenizer, sentences, max_length):
    tags = iter(range(100))
    examples = [TaggedExample(tuple(words), tuple(next(tags) for _ in words)) for words in sentences]
    encoded, cut = encode_examples(tokenizer, examples, max_length)
    scored = [int(tag) for row in encoded for tag in row.label if tag != NO_TAG]
    assert scored == [tag for example in examples for tag in example.tags]
    words = {}
    for row in encoded:
        ids = row.ids.tolist()
        assert len(ids) <= max_length and len(row.label) == len(ids)
        assert (ids[0], ids[-1]) == (CLS, SEP) and row.label[0] == row.label[-1] == NO_TAG
        assert CLS not in ids[1:] and SEP not in ids[:-1]
        starts = [at for at, tag in enumerate(row.label) if tag != NO_TAG]
        assert starts[0] == 1
        words |= {
            int(row.label[start]): ids[start:end]
            for start, end in zip(starts, [*starts[1:], len(ids) - 1], strict=True)
        }
    for example in examples:
        for word, tag in zip(example.words, example.tags, strict=True):
            [pieces] = tokenizer.encode_batch([word])
            assert words[tag] == (pieces[: max_length - 2] or [UNK])
    assert (cut == 0) == (
        len(encoded) == len(examples)
        and all(
            len(pieces) <= max_length - 2 for words in sentences for pieces in tokenizer.encode_batch(words)
        )
    )


@pytest.mark.parametrize(
    ("example", "least"),
    [(TextExample("a", None, 0), 3), (TextExample("a", "b", 0), 5), (TaggedExample(("a",), (0,)), 3)],
)
def test_lengths_without_room_for_text(tokenizer, example, least):
    encode_examples(tokenizer, [example], least)
    with pytest.raises(ValueError, match=f"max_length: got {least - 1}, expected at least {least}"):
        encode_examples(tokenizer, [example], least - 1)
