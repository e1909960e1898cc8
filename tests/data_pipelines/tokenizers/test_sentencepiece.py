"""SentencePiece: special ids, determinism, complete directories, errors with advice."""

import json
import random
import shutil

import pytest
from hypothesis import given, settings

from data_pipelines.tokenizers.directory import META_FILE, MODEL_FILES
from data_pipelines.tokenizers.load import load_tokenizer
from data_pipelines.tokenizers.sentencepiece import normalize_text
from data_pipelines.tokenizers.train import split_at_spaces, train_tokenizer
from support.offsets import TEXTS, checked_offsets, slices


def make_documents():
    source = random.Random(0)
    words = [
        "".join(source.choice("abcdefghijklmnoprstuéKASM[]") for _ in range(source.randint(2, 7)))
        for _ in range(300)
    ]
    return [" ".join(source.choice(words) for _ in range(30)) for _ in range(200)]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return train_tokenizer(make_documents(), str(tmp_path_factory.mktemp("tokenizer") / "t"), vocab_size=200)


def test_special_text_never_becomes_a_special_id(tokenizer):
    ids = tokenizer.encode_batch(["[MASK] [CLS] [SEP] [PAD] [UNK] <s> </s>", "", "abc"])
    special = tokenizer.special
    assert not {special.pad, special.cls, special.sep, special.mask} & {i for row in ids for i in row}
    assert ids[1] == [] and ids[2]
    names = ("[PAD]", "[CLS]", "[SEP]", "[UNK]", "[MASK]")
    assert [tokenizer.vocabulary().index(name) for name in names] == [0, 1, 2, 3, 4] == sorted(special)


def test_decode_returns_the_normalised_text(tokenizer):
    text = "  abc\n\tdef  ﬁn e\u0301"
    [ids] = tokenizer.encode_batch([text])
    pad, cls, sep, unk, _ = tokenizer.special
    assert unk not in ids
    assert tokenizer.decode([cls, *ids, sep, pad]) == "abc def fin é"
    with pytest.raises(ValueError, match="got id 200, expected 0 to 199"):
        tokenizer.decode([200])


def test_sizes(tokenizer):
    assert (tokenizer.num_pieces, tokenizer.vocab_size) == (200, 256)


def test_training_is_deterministic_and_the_fingerprint_covers_normalization(tokenizer, tmp_path):
    again = train_tokenizer(iter(make_documents()), str(tmp_path / "a"), vocab_size=200)
    other = train_tokenizer(make_documents(), str(tmp_path / "b"), vocab_size=200, normalization="identity")
    assert again.fingerprint == tokenizer.fingerprint == load_tokenizer(str(tmp_path / "a")).fingerprint
    assert other.fingerprint != tokenizer.fingerprint
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a", "b"]  # nothing temporary stays


def test_same_options_reuse_the_tokenizer_and_other_options_are_an_error(tokenizer):
    def unread():
        raise AssertionError("the documents were read")
        yield

    assert train_tokenizer(unread(), tokenizer.directory, vocab_size=200).fingerprint == tokenizer.fingerprint
    with pytest.raises(
        FileExistsError, match="requested_vocab_size is 200, asked for 210; model_type is 'unigram'"
    ):
        train_tokenizer(unread(), tokenizer.directory, vocab_size=210, model_type="bpe")


def test_byte_fallback_leaves_nothing_unknown(tmp_path):
    tokenizer = train_tokenizer(
        make_documents(), str(tmp_path / "t"), vocab_size=400, byte_fallback=True, model_type="bpe"
    )
    [ids] = tokenizer.encode_batch(["abc ☃😀"])
    assert tokenizer.special.unk not in ids and tokenizer.decode(ids) == "abc ☃😀"


def test_errors(tmp_path):
    for kwargs, message in (
        ({"vocab_size": 9000}, "too small for it: at most"),
        ({"vocab_size": 10}, "at least"),
        ({"vocab_size": 200, "byte_fallback": True}, "expected at least 262"),
        ({"vocab_size": 200, "normalization": "nfd"}, "expected one of nfkc"),
        ({"vocab_size": 200, "model_type": "word"}, "expected one of unigram, bpe"),
    ):
        with pytest.raises(ValueError, match=message):
            train_tokenizer(make_documents(), str(tmp_path / "t"), **kwargs)
    with pytest.raises(ValueError, match=r"SentencePiece cannot train on this text .*U\+2581"):
        train_tokenizer(["▁▁"], str(tmp_path / "t"), vocab_size=200)
    with pytest.raises(ValueError, match="no text to train"):
        train_tokenizer(["", " \n"], str(tmp_path / "t"), vocab_size=200)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("error", [ValueError("line 7 is broken"), KeyboardInterrupt()], ids=repr)
def test_an_error_in_the_documents_is_not_the_end_of_the_text(tmp_path, error):
    def broken():
        yield from make_documents()
        raise error

    with pytest.raises(type(error)) as found:
        train_tokenizer(broken(), str(tmp_path / "t"), vocab_size=200)
    assert found.value is error
    assert not list(tmp_path.iterdir())


def test_loading_notices_missing_and_changed_files(tmp_path):
    with pytest.raises(FileNotFoundError, match="no tokenizer here"):
        load_tokenizer(str(tmp_path))
    train_tokenizer(make_documents(), str(tmp_path / "t"), vocab_size=200)
    meta = tmp_path / "t" / META_FILE
    whole = meta.read_text()
    for other in ("nfc", "\\ud800"):
        meta.write_text(whole.replace('"nfkc"', f'"{other}"'))
        with pytest.raises(ValueError, match=f"{META_FILE}: got normalization .*, expected one of nfkc, "):
            load_tokenizer(str(tmp_path / "t"))
    meta.write_text(whole.replace('"nfkc"', '"identity"'))
    with pytest.raises(ValueError, match="changed or damaged"):
        load_tokenizer(str(tmp_path / "t"))
    (tmp_path / "t" / MODEL_FILES["sentencepiece"]).unlink()
    with pytest.raises(FileNotFoundError, match="copy the directory again"):
        load_tokenizer(str(tmp_path / "t"))


def test_a_directory_that_names_no_format_is_sentencepiece(tokenizer, tmp_path):
    shutil.copytree(tokenizer.directory, tmp_path / "t")
    meta = json.loads((tmp_path / "t" / META_FILE).read_text())
    assert meta.pop("kind") == "sentencepiece"
    (tmp_path / "t" / META_FILE).write_text(json.dumps(meta))  # as the oldest versions wrote it
    assert load_tokenizer(str(tmp_path / "t")).fingerprint == tokenizer.fingerprint
    assert train_tokenizer([], str(tmp_path / "t"), vocab_size=200).fingerprint == tokenizer.fingerprint
    (tmp_path / "t" / META_FILE).write_text(json.dumps(meta | {"kind": "words"}))
    with pytest.raises(ValueError, match="got kind 'words', expected one of sentencepiece, tokenizers"):
        load_tokenizer(str(tmp_path / "t"))


def test_long_lines_are_split_within_bytes_and_characters():
    text = "é" * 50 + " " + "ab cd " * 20
    parts = list(split_at_spaces(text, 11))
    assert max(len(part.encode()) for part in parts) <= 11
    assert "".join(parts).replace(" ", "") == text.replace(" ", "")


@pytest.mark.parametrize(
    "between",
    ["▃▄▅▆", "▁", "\0", "\ufffd", "\u200b", "[MASK]", "[CLS][UNK]", "<0x41>", "<s>", "x" * 5000, "é" * 3000],
    ids=lambda text: text[:8].encode("unicode_escape").decode(),
)
@pytest.mark.parametrize("byte_fallback", [False, True])
def test_no_text_is_left_out_of_training(tmp_path, between, byte_fallback):
    """SentencePiece drops lines with "▅" or of more than 4192 bytes, and cuts special pieces out."""
    documents = [*make_documents(), *[f"quxe quxi {between} quxo quxe"] * 60]
    options = {"vocab_size": 470, "byte_fallback": True} if byte_fallback else {"vocab_size": 200}
    tokenizer = train_tokenizer(documents, str(tmp_path / "t"), **options)
    text = "quxe " + ("" if between in "▃▄▅▆\0" else between[:8])
    pieces = tokenizer.pieces(text)
    assert tokenizer.special.unk not in tokenizer.encode_batch([text])[0], pieces
    assert not any(piece.startswith("<0x") for piece in pieces), pieces


def test_the_letters_of_special_names_are_learnt_but_not_the_names(tmp_path):
    documents = ["tea [MASK] pan[MASK] [PAD] ▅[SEP]▅"] * 60
    tokenizer = train_tokenizer(documents, str(tmp_path / "t"), vocab_size=20)
    special = tokenizer.special
    ids = tokenizer.encode_batch(["[MASK] [PAD][SEP]"])[0]
    assert not set(special) & set(ids) and tokenizer.decode(ids) == "[MASK] [PAD][SEP]"
    assert [tokenizer.vocabulary().index(name) for name in ("[PAD]", "[MASK]")] == [special.pad, special.mask]


def test_normalisation():
    assert normalize_text("Ａ  İé\n", "nfkc") == "A İé"
    assert normalize_text("ＡB\tC", "nfkc_lowercase") == "ab c"
    assert normalize_text("Ａ  b", "identity") == "Ａ b"
    hidden = "\ufeffhy\u00adphen \u200e zero\u200bwidth\u2060 می\u200cشود"
    assert normalize_text(hidden, "nfkc_visible") == "hyphen zerowidth می\u200cشود"
    assert normalize_text(hidden.upper(), "nfkc_visible_lowercase") == "hyphen zerowidth می\u200cشود"
    assert normalize_text(hidden, "nfkc").split() == hidden.split()
    assert (
        normalize_text("ΟΔΟΣ ΣΑΣ", "nfkc_lowercase") == "οδοσ σασ"
    )  # no ς: the letters around a Σ do not matter


# Offsets.


@pytest.fixture(
    scope="module",
    params=[
        {},
        {"normalization": "nfkc_lowercase"},
        {"normalization": "nfkc_visible"},
        {"normalization": "identity"},
        {"vocab_size": 400, "byte_fallback": True, "model_type": "bpe"},
    ],
)
def any_tokenizer(request, tmp_path_factory):
    return train_tokenizer(
        make_documents(), str(tmp_path_factory.mktemp("any") / "t"), **({"vocab_size": 200} | request.param)
    )


def test_offsets_refer_to_the_original_text(tokenizer):
    assert slices(tokenizer, "  abc\n\tdef  ﬁn e\u0301") == [
        ("▁a", "a"),
        ("b", "b"),
        ("c", "c"),
        ("▁d", "d"),
        ("ef", "ef"),
        ("▁f", "ﬁ"),
        ("i", "ﬁ"),
        ("n", "n"),
        ("▁", ""),
        ("é", "e\u0301"),
    ]
    assert checked_offsets(tokenizer, "☃ ab ☃\u3000b") == [
        [0, 0],
        [0, 1],
        [2, 3],
        [3, 4],
        [5, 5],
        [5, 6],
        [7, 8],
    ]
    assert slices(tokenizer, "a¨b ▁c") == [
        ("▁a", "a"),
        ("▁", ""),
        ("\u0308", "¨"),
        ("b", "b"),
        ("▁", ""),
        ("▁c", "▁c"),
    ]
    texts = ["ab", "", " ", "b a"]
    assert (
        [spans.tolist() for _, spans in tokenizer.encode_with_offsets(texts)]
        == [checked_offsets(tokenizer, text) for text in texts]
        == [[[0, 1], [1, 2]], [], [], [[0, 1], [2, 3]]]
    )
    assert tokenizer.encode_with_offsets([]) == []


def test_invisible_characters_are_in_the_span_of_their_piece(tmp_path):
    documents = ["tea pan bada"] * 99
    options = {"vocab_size": 14, "normalization": "nfkc_visible"}
    tokenizer = train_tokenizer(documents, str(tmp_path / "t"), **options)
    text = "te\u00ada \u200b p\u200ban"
    assert tokenizer.encode_batch([text]) == tokenizer.encode_batch(["tea pan"])
    assert "".join(covered for _, covered in slices(tokenizer, text)).replace("\u00ad", "") == "teapan"


def test_bytes_have_the_span_of_their_character(tmp_path):
    tokenizer = train_tokenizer(
        make_documents(), str(tmp_path / "t"), vocab_size=400, byte_fallback=True, model_type="bpe"
    )
    assert slices(tokenizer, "☃½ b") == [
        ("▁", ""),
        ("<0xE2>", "☃"),
        ("<0x98>", "☃"),
        ("<0x83>", "☃"),
        ("<0x31>", "½"),
        ("<0xE2>", "½"),
        ("<0x81>", "½"),
        ("<0x84>", "½"),
        ("<0x32>", "½"),
        ("▁b", "b"),
    ]


@settings(max_examples=300, deadline=None)
@given(text=TEXTS)
def test_offsets_of_any_text(any_tokenizer, text):
    """A piece that shares no character with others covers the characters that it spells, once normalised."""
    spans = [[0, 0], *checked_offsets(any_tokenizer, text), [len(text), len(text)]]
    for piece, before, (start, end), after in zip(
        any_tokenizer.pieces(text), spans, spans[1:], spans[2:], strict=False
    ):
        if before[1] <= start and end <= after[0] and not piece.startswith("<0x"):
            covered = normalize_text(text[start:end], any_tokenizer.normalization)
            assert covered.replace("▁", "") == piece.replace("▁", "")
