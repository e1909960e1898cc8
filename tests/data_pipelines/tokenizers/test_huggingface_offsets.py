"""Offsets of adopted vocabularies: each piece covers its part of the original text, without space marks."""

import re

import pytest
from hypothesis import given, settings

from support import real_vocabulary
from support.adopted import adopt, adopt_electra, write_unigram
from support.byte_level import make_byte_level
from support.offsets import TEXTS, checked_offsets, slices


@pytest.fixture(scope="module")
def electra(tmp_path_factory):
    root = tmp_path_factory.mktemp("electra")
    return adopt_electra(real_vocabulary.extract(root / "hugging_face"), root)


@pytest.fixture(scope="module")
def unigram(tmp_path_factory):
    root = tmp_path_factory.mktemp("unigram")
    write_unigram(root / "tokenizer.json")
    return adopt(root / "tokenizer.json", root / "t")


@pytest.fixture(scope="module")
def byte_level(tmp_path_factory):
    """Byte-level BPE as in RoBERTa, which puts a space before the first word."""
    return make_byte_level(tmp_path_factory.mktemp("byte_level"), add_prefix_space=True, texts=["a cat"])


def test_wordpiece_offsets_refer_to_the_original_text(electra):
    assert slices(electra, " naïve\tÅngström 中文☃x a\u0301 \0N\0o") == [
        ("naive", "naïve"),
        ("ang", "Ång"),
        ("##strom", "ström"),
        ("中", "中"),
        ("文", "文"),
        ("[UNK]", "☃x"),
        ("a", "a"),
        ("no", "N\0o"),
    ]
    assert checked_offsets(electra, "ab\0 \0\0b\0") == [[0, 2], [6, 7]]
    assert [spans.tolist() for _, spans in electra.encode_with_offsets(["", "a", " "])] == [[], [[0, 1]], []]


def test_spans_exclude_space_marks(unigram, byte_level):
    """Even if the library gives the first character to an added space, or the text contains the mark."""
    assert slices(unigram, "ab  ☃ \0c") == [
        ("▁", ""),
        ("a", "a"),
        ("b", "b"),
        ("▁", ""),
        ("▁", ""),
        ("☃", "☃"),
        ("▁", ""),
        ("\0", "\0"),
        ("c", "c"),
    ]
    assert checked_offsets(unigram, "ab \0c") == [[0, 0], [0, 1], [1, 2], [3, 3], [3, 4], [4, 5]]
    assert slices(unigram, "▁a ▁") == [("▁", "▁"), ("a", "a"), ("▁", ""), ("▁", "▁")]
    assert slices(byte_level, "b  a cat ☃") == [
        ("Ġ", ""),
        ("b", "b"),
        ("Ġ", ""),
        ("Ġa", "a"),
        ("Ġcat", "cat"),
        ("Ġ", ""),
        ("â", "☃"),
        ("ĺ", "☃"),
        ("ĥ", "☃"),
    ]


@settings(max_examples=300, deadline=None)
@given(text=TEXTS)
@pytest.mark.parametrize("name", ["electra", "unigram", "byte_level"])
def test_offsets_of_any_text(request, name, text):
    tokenizer = request.getfixturevalue(name)
    if name != "unigram":
        checked_offsets(tokenizer, text)
        return
    for piece, covered in slices(tokenizer, text):
        assert re.sub(r"^[▁\s]+", "", piece) == covered.lstrip("▁")
