"""Offsets of adopted vocabularies: each piece covers its part of the original text, without space marks."""

import functools
import re
import unicodedata

import pytest
import tokenizers
from hypothesis import given, settings
from tokenizers import models, normalizers, pre_tokenizers, trainers

from data_pipelines.tokenizers.wordpiece import BertText
from support import real_vocabulary
from support.adopted import BRACKETS, adopt, adopt_electra, write_unigram
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
        ("a", "a\u0301"),
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


def train(model, trainer, normalizer, pre_tokenizer, root):
    """An adopted tokenizer of a few words with letters that text may also have decomposed."""
    tokenizer = tokenizers.Tokenizer(model)
    tokenizer.normalizer, tokenizer.pre_tokenizer = normalizer, pre_tokenizer
    special = {"special_tokens": BRACKETS, "show_progress": False}
    tokenizer.train_from_iterator(["the café x 한국 اللعليهوسم ."] * 40, trainer(**special))
    root.mkdir()
    tokenizer.save(str(root / "tokenizer.json"))
    return adopt(root / "tokenizer.json", root / "t")


@pytest.fixture(scope="module")
def of_decomposed(tmp_path_factory):
    """Tokenizers whose normalisers compose text, or strip its accents."""
    root = tmp_path_factory.mktemp("of_decomposed")
    unigram = functools.partial(trainers.UnigramTrainer, vocab_size=99, unk_token="[UNK]")
    words = functools.partial(trainers.WordPieceTrainer, vocab_size=150)
    initial = pre_tokenizers.ByteLevel.alphabet()
    bytes_ = functools.partial(trainers.BpeTrainer, vocab_size=400, initial_alphabet=initial)
    wordpiece = models.WordPiece(unk_token="[UNK]")
    before = pre_tokenizers.ByteLevel(add_prefix_space=False)
    cut = pre_tokenizers.BertPreTokenizer()
    kinds = {
        "unigram": (models.Unigram(), unigram, normalizers.NFKC(), pre_tokenizers.Metaspace()),
        "byte_level": (models.BPE(), bytes_, normalizers.NFC(), before),
        "wordpiece": (wordpiece, words, BertText(True).normalizer(), cut),
    }
    return {name: train(*kind, root / name) for name, kind in kinds.items()}


@pytest.mark.parametrize("name", ["unigram", "byte_level", "wordpiece"])
@pytest.mark.parametrize("word", ["café", "한", "한국", "ﷺ", "é\u0323"])
def test_combining_marks_belong_to_the_letter_before(of_decomposed, name, word):
    for form in ("NFC", "NFD"):
        covered_word = unicodedata.normalize(form, word)
        text = f"x {covered_word} x"
        spans = [span for span in checked_offsets(of_decomposed[name], text) if span[0] < span[1]]
        covered = {place for start, end in spans for place in range(start, end)}
        assert covered >= set(range(2, 2 + len(covered_word)))
        assert spans[-1] == [len(text) - 1, len(text)] and spans[-2][1] == len(text) - 2


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
