"""Adopted tokenizer.json files of every model, with added tokens and settings that would change ids: rows and
the exported tokenizer agree."""

import pytest
import tokenizers
from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers, trainers

from data_pipelines.tokenizers.adopt import adopt_tokenizer
from data_pipelines.tokenizers.load import load_tokenizer
from electra_jax.huggingface.tokenizer import write_tokenizer

NAMES = ["[PAD]", "[CLS]", "[SEP]", "[UNK]", "[MASK]"]
TRAINING = ["tea pan foo bar newtok <s> [MASK] Ünï"] * 20
TEXTS = [
    "a\0b",
    "\0",
    "tea \0 pan\0\0 foo",
    "x\0[CLS]",
    "[MASK] [CLS][SEP] [PAD] [UNK] <s> </s> <mask>",
    "tea[MASK]pan [mask]",
    "Foo <Extra> <extra> NEWTOK newtok NewTok xNEWTOKy",
    "é Ünï ünï ÜNÏ",
    "tea " * 50,
    "tea <|x|> pan",
    "ﬁ ① ▅▁ \u200b",
    "",
]


def bpe():
    tokenizer = tokenizers.Tokenizer(models.BPE())
    tokenizer.pre_tokenizer, tokenizer.decoder = (
        pre_tokenizers.ByteLevel(add_prefix_space=False),
        decoders.ByteLevel(),
    )
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=320, special_tokens=NAMES, initial_alphabet=alphabet, show_progress=False
    )
    return tokenizer, trainer


def lower_case_unigram():
    tokenizer, trainer = unigram()
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    return tokenizer, trainer


def unigram():
    tokenizer = tokenizers.Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    return tokenizer, trainers.UnigramTrainer(
        vocab_size=60, special_tokens=NAMES, unk_token="[UNK]", show_progress=False
    )


def wordpiece():
    tokenizer = tokenizers.Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    return tokenizer, trainers.WordPieceTrainer(vocab_size=120, special_tokens=NAMES, show_progress=False)


@pytest.fixture(
    scope="module", params=[bpe, unigram, lower_case_unigram, wordpiece], ids=lambda make: make.__name__
)
def adopted(request, tmp_path_factory):
    """The adopted tokenizer, and its export."""
    root = tmp_path_factory.mktemp("vocabulary")
    tokenizer, trainer = request.param()
    tokenizer.train_from_iterator(TRAINING, trainer)
    tokenizer.add_tokens([AddedToken("NEWTOK"), AddedToken("<Extra>", normalized=False), "Ünï"])
    tokenizer.add_special_tokens(["<|x|>"])
    tokenizer.enable_truncation(6)
    tokenizer.enable_padding(length=9)
    tokenizer.save(str(root / "tokenizer.json"))
    adopt_tokenizer(root / "tokenizer.json", root / "t", lowercase=None)
    (root / "out").mkdir()
    write_tokenizer(root / "t", root / "out", model_max_length=32)
    exported = tokenizers.Tokenizer.from_file(str(root / "out" / "tokenizer.json"))
    exported.encode_special_tokens = True  # text that spells a special token is ordinary text, as in rows
    return load_tokenizer(str(root / "t")), exported


@pytest.mark.parametrize("text", TEXTS, ids=lambda text: text[:12].encode("unicode_escape").decode())
def test_rows_and_the_export_have_the_same_ids(adopted, text):
    ours, exported = adopted
    [ids] = ours.encode_batch([text])
    special = ours.special
    assert not {special.pad, special.cls, special.sep, special.mask} & set(ids), ours.pieces(text)
    # An export finds special tokens in text, which filling masks needs; Unigram even when asked not to.
    if not (isinstance(exported.model, models.Unigram) and any(name in text for name in NAMES)):
        assert ids == exported.encode(text, add_special_tokens=False).ids, ours.pieces(text)


def test_nul_is_a_piece_of_byte_level_vocabularies(adopted):
    ours, _ = adopted
    [ids] = ours.encode_batch(["a\0b"])
    if "Ā" in ours.vocabulary():  # how they spell it
        assert len(ids) == 3 and ours.decode(ids) == "a\0b"


def test_a_mask_keeps_the_blank_that_it_takes(tmp_path):
    """RoBERTa's kind: its mask takes the blank before it. A stored truncation is removed all the same."""
    tokenizer, trainer = bpe()
    trainer.special_tokens = [name for name in NAMES if name != "[MASK]"]
    tokenizer.train_from_iterator(TRAINING, trainer)
    tokenizer.add_special_tokens([AddedToken("[MASK]", lstrip=True, normalized=False)])
    tokenizer.enable_truncation(6)
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    adopt_tokenizer(tmp_path / "tokenizer.json", tmp_path / "t", lowercase=None)
    (tmp_path / "out").mkdir()
    write_tokenizer(tmp_path / "t", tmp_path / "out", model_max_length=32)
    exported = tokenizers.Tokenizer.from_file(str(tmp_path / "out" / "tokenizer.json"))
    tokenizer.no_truncation()
    text, special = "tea [MASK] pan", load_tokenizer(str(tmp_path / "t")).special
    wanted = tokenizer.encode(text, add_special_tokens=False).ids
    assert tokenizer.token_to_id("Ġ") not in wanted
    assert exported.encode(text).ids == [special.cls, *wanted, special.sep]


def test_chance_in_a_model_is_left_out_of_rows(tmp_path):
    """BPE's dropout, with which others may have trained."""
    tokenizer, trainer = bpe()
    tokenizer.train_from_iterator(TRAINING, trainer)
    for dropout in (None, 0.9):
        tokenizer.model.dropout = dropout
        tokenizer.save(str(tmp_path / "tokenizer.json"))
        adopt_tokenizer(tmp_path / "tokenizer.json", tmp_path / f"{dropout}", lowercase=None)
    plain, random = (load_tokenizer(str(tmp_path / name)) for name in ("None", "0.9"))
    assert plain.encode_batch(TRAINING) == random.encode_batch(TRAINING)


def test_a_vocabulary_without_a_mask_is_refused_in_words(tmp_path):
    """Such as that of a language model."""
    tokenizer, _ = bpe()
    trainer = trainers.BpeTrainer(
        vocab_size=280, special_tokens=["<s>", "</s>", "<unk>"], show_progress=False
    )
    tokenizer.train_from_iterator(TRAINING, trainer)
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(
        ValueError, match=r"the special token 'pad': found none .* expected one of \[PAD\], <pad>"
    ):
        adopt_tokenizer(tmp_path / "tokenizer.json", tmp_path / "t", lowercase=None)
    (tmp_path / "special_tokens_map.json").write_text('{"pad_token": "</s>"}')
    with pytest.raises(
        ValueError, match=r"the special token 'mask': found none among .* add it to the vocabul"
    ):
        adopt_tokenizer(tmp_path / "tokenizer.json", tmp_path / "t", lowercase=None)
    assert not (tmp_path / "t").exists()
