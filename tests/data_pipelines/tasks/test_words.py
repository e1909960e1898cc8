"""Words of tagged sentences have the ids that they have in running text."""

import numpy as np
import pytest
import tokenizers
from tokenizers import models, pre_tokenizers

from data_pipelines.tasks.encoding import encode_examples
from data_pipelines.tasks.load import TaggedExample
from data_pipelines.tasks.words import spell_words, word_separator
from data_pipelines.tokenizers.adopt import adopt_tokenizer
from data_pipelines.tokenizers.load import load_tokenizer
from support.byte_level import make_byte_level
from support.letters import make_tokenizer

WORDS = ("a", "tea", ",", "the", "don't", "ÿ", "boat")


def ids_and_tags(tokenizer, words):
    [row], cut = encode_examples(tokenizer, [TaggedExample(words, tuple(range(len(words))))], 512)
    assert cut == 0
    return row.ids[1:-1].tolist(), row.label[1:-1]


def metaspace(root, scheme):
    """SentencePiece's mark of blanks, which some tokenizers put before the first word, others not."""
    pieces = ["[PAD]", "[CLS]", "[SEP]", "[UNK]", "[MASK]", "▁", *"теабл", "▁чай", "чай", "▁лес", "лес"]
    made = tokenizers.Tokenizer(models.Unigram([(piece, -float(len(pieces))) for piece in pieces], unk_id=3))
    made.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme)
    (root / "hf").mkdir()
    made.save(str(root / "hf" / "tokenizer.json"))
    adopt_tokenizer(root / "hf", root / "tokenizer", lowercase=None)
    return load_tokenizer(str(root / "tokenizer"))


@pytest.mark.parametrize("add_prefix_space", [False, True])
def test_byte_level_words_are_those_of_running_text(tmp_path, add_prefix_space):
    tokenizer = make_byte_level(tmp_path, add_prefix_space=add_prefix_space)
    assert word_separator(tokenizer) == ("" if add_prefix_space else " ")
    ids, tags = ids_and_tags(tokenizer, WORDS)
    assert ids == tokenizer.encode_batch([" ".join(WORDS)])[0]
    spellings = tokenizer.vocabulary()
    firsts = [spellings[number] for number, tag in zip(ids, tags, strict=True) if tag >= 0]
    assert all(piece.startswith("Ġ") for piece in firsts[1:]) and tags[tags >= 0].tolist() == list(range(7))


@pytest.mark.parametrize(("scheme", "separator"), [("always", ""), ("first", ""), ("never", " ")])
def test_words_of_a_tokenizer_that_marks_blanks(tmp_path, scheme, separator):
    tokenizer = metaspace(tmp_path, scheme)
    assert word_separator(tokenizer) == separator
    ids, _ = ids_and_tags(tokenizer, ("чай", "лес", "чай"))
    assert ids == tokenizer.encode_batch(["чай лес чай"])[0]


def test_wordpiece_needs_no_blanks(tmp_path):
    assert word_separator(make_tokenizer(tmp_path)) == ""


def test_a_blank_word_is_unknown(tmp_path):
    tokenizer = make_byte_level(tmp_path)
    assert spell_words(["a", "", "b", "\u3000"], " ") == ["a", "", " b", "\u3000"]
    ids, tags = ids_and_tags(tokenizer, ("a", "", "tea"))
    assert ids[1] == tokenizer.special.unk and np.flatnonzero(tags >= 0).tolist()[:2] == [0, 1]


def test_a_word_in_a_second_row_keeps_its_blank(tmp_path):
    tokenizer = make_byte_level(tmp_path)
    rows, cut = encode_examples(tokenizer, [TaggedExample(("tea", "boat", "tea"), (0, 1, 2))], 5)
    assert cut == 1 and len(rows) > 1
    pieces = [number for row in rows for number in row.ids[1:-1].tolist()]
    assert pieces == tokenizer.encode_batch(["tea boat tea"])[0]
