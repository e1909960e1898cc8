"""Adopted vocabularies: original ids, no special ids from text, complete directories."""

import json
import pydoc_data.topics
import shutil
from pathlib import Path

import pytest
import tokenizers
from transformers import BertTokenizer
from transformers.models.bert.tokenization_bert_legacy import BertTokenizerLegacy

from data_pipelines.tokenizers.adopt import adopt_tokenizer
from data_pipelines.tokenizers.directory import META_FILE, SpecialIds
from data_pipelines.tokenizers.load import load_tokenizer
from data_pipelines.tokenizers.train import train_tokenizer
from support import real_vocabulary
from support.adopted import BRACKETS, adopt, adopt_electra, write_unigram

ELECTRA = SpecialIds(pad=0, cls=101, sep=102, unk=100, mask=103)
SIGMA = "ΟΔΟΣ ΣΑΣ"
SPELLED = " ".join([*BRACKETS, "[mask]", "x[MASK]y", "<mask> <s> </s>"])
EDGE = [
    "",
    " ",
    "\t\n\r",
    "no\u00a0break",
    "zero\u200bwidth\u200djoiner\ufeff",
    "Ｆｕｌｌ－ｗｉｄｔｈ １２３",
    "e\u0301 n\u0303 o\u0308\u0323",
    "naïve Ångström ÀÉÎÕÜ",
    "👩\u200d👩\u200d👧 🇩🇪 👍🏽",
    "中文字符，日本語テキスト、한국어",
    "\u202eright to left\u202c שלום مرحبا",
    "tab\tand\u000bvertical",
    "soft\u00adhyphen",
    "İstanbul STRASSE ß ﬁ ǅ",
    SIGMA,
    "a" * 101,
    "a" * 100,
    "\ufffd\x00\x07control",
    "don't—“quote”…",
    "१२३ ½ ²",
    SPELLED,
]


def real_lines():
    """English prose and tables from Python's documentation."""
    return [line for text in pydoc_data.topics.topics.values() for line in text.splitlines()]


@pytest.fixture(scope="module")
def hugging_face(tmp_path_factory):
    return real_vocabulary.extract(tmp_path_factory.mktemp("vocabulary") / "hugging_face")


@pytest.fixture(scope="module")
def electra(hugging_face, tmp_path_factory):
    return adopt_electra(hugging_face, tmp_path_factory.mktemp("electra"))


def test_real_vocabulary_has_electras_ids(electra):
    assert (electra.num_pieces, electra.vocab_size, electra.special) == (30_522, 30_522, ELECTRA)
    assert electra.encode_batch(["Hello, World!", "hello"]) == [[7592, 1010, 2088, 999], [7592]]


@pytest.mark.parametrize("reference", [BertTokenizer, BertTokenizerLegacy])
def test_wordpiece_ids_are_those_of_bert(electra, hugging_face, reference):
    """Compared with the class that `transformers` uses, and with the independent one written in Python.

    The latter always gives special tokens their ids, and turns a Σ that ends a word into ς, as Python does.
    """
    theirs = reference.from_pretrained(str(hugging_face), split_special_tokens=True)
    lines = [
        line for line in real_lines() + EDGE if reference is BertTokenizer or line not in (SPELLED, SIGMA)
    ]
    assert len(lines) > 10_000
    ours = electra.encode_batch(lines)
    for line, ids in zip(lines, ours, strict=True):
        assert ids == theirs(line, add_special_tokens=False)["input_ids"], line


def test_a_tokenizer_json_and_its_directory_give_the_same_ids_uncut_and_unpadded(
    electra, hugging_face, tmp_path
):
    """The file itself asks to cut and pad every text to 128 tokens."""
    lines = [*EDGE, "word " * 500]
    expected = electra.encode_batch(lines)
    assert (len(expected[0]), len(expected[-1])) == (0, 500)
    for number, source in enumerate((hugging_face, hugging_face / "tokenizer.json")):
        adopted = adopt(source, tmp_path / f"{number}")
        assert adopted.special == ELECTRA and adopted.encode_batch(lines) == expected
        assert (tmp_path / f"{number}" / "tokenizer.json").read_bytes() == (
            hugging_face / "tokenizer.json"
        ).read_bytes()
    (tmp_path / "slow").mkdir()
    for name in ("vocab.txt", "tokenizer_config.json"):  # specifies do_lower_case
        shutil.copy(hugging_face / name, tmp_path / "slow")
    assert adopt(tmp_path / "slow", tmp_path / "2").fingerprint == electra.fingerprint


def test_decode_and_pieces(electra):
    [ids] = electra.encode_batch(["Unaffable ☃"])
    assert electra.pieces("Unaffable ☃") == ["una", "##ffa", "##ble", "[UNK]"]
    pad, cls, sep, unk, mask = ELECTRA
    assert ids[-1] == unk and electra.decode([cls, *ids, mask, sep, pad]) == "unaffable [UNK]"
    with pytest.raises(ValueError, match="got id 30522, expected 0 to 30521"):
        electra.decode([30_522])


def test_special_text_never_becomes_a_special_id(electra, tmp_path):
    """Even if special tokens are pieces of the model, where `encode_special_tokens` alone does not help."""
    plain = write_unigram(tmp_path / "tokenizer.json", extra=["<x>"])
    unigram = adopt(tmp_path / "tokenizer.json", tmp_path / "unigram")
    plain.encode_special_tokens = True
    assert {1, 2} <= set(plain.encode(SPELLED, add_special_tokens=False).ids)
    assert unigram.special == SpecialIds(pad=0, cls=1, sep=2, unk=3, mask=plain.get_vocab_size() - 2)
    assert unigram.num_pieces == unigram.vocab_size == plain.get_vocab_size()
    for tokenizer, of_nul in ((electra, ""), (unigram, "[UNK]")):
        [ids] = tokenizer.encode_batch([SPELLED + " <x> \0[CLS]"])
        special = tokenizer.special
        assert not {special.pad, special.cls, special.sep, special.mask} & set(ids)
        assert (
            tokenizer.decode(ids).replace(" ", "").casefold()
            == (SPELLED + f"<x>{of_nul}[CLS]").replace(" ", "").casefold()
        )
    assert unigram.num_pieces - 1 not in ids  # "<x>", another special token
    assert unigram.encode_batch(["é"]) == [[4, 3]]


def test_text_cannot_spell_a_mask_that_is_not_marked_special(electra, hugging_face, tmp_path):
    """Such a token is searched for in normalised text, without control characters."""
    described = json.loads((hugging_face / "tokenizer.json").read_text(encoding="utf-8"))
    described["added_tokens"][-1] |= {"special": False, "normalized": True}
    (tmp_path / "tokenizer.json").write_text(json.dumps(described), encoding="utf-8")
    theirs = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    theirs.encode_special_tokens = True
    assert ELECTRA.mask in theirs.encode("a [MASK] b", add_special_tokens=False).ids
    assert adopt(tmp_path / "tokenizer.json", tmp_path / "t").encode_batch([SPELLED]) == electra.encode_batch(
        [SPELLED]
    )


def test_special_tokens_of_other_names(tmp_path):
    """Those of RoBERTa's family, and any that files beside the vocabulary name."""
    roberta = ("<s>", "<pad>", "</s>", "<unk>", "<mask>")
    write_unigram(tmp_path / "tokenizer.json", names=roberta)
    assert adopt(tmp_path, tmp_path / "a").special[:4] == (1, 0, 2, 3)
    write_unigram(tmp_path / "tokenizer.json", names=("<pad>", "BOS", "EOS", "<unk>", "<mask>"))
    with pytest.raises(
        ValueError, match=r"'cls': found none among \d+ pieces, expected one of \[CLS\], <s>\. Name it in"
    ):
        adopt(tmp_path, tmp_path / "b")
    (tmp_path / "special_tokens_map.json").write_text(
        json.dumps({"cls_token": {"content": "BOS"}, "sep_token": "no"})
    )
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"sep_token": "EOS"}))  # takes precedence
    assert adopt(tmp_path, tmp_path / "b").special[:4] == (0, 1, 2, 3)
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"sep_token": "BOS"}))
    with pytest.raises(ValueError, match=r"got special ids .*expected five different ones"):
        adopt(tmp_path, tmp_path / "c")
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        (tmp_path / name).unlink()
    write_unigram(tmp_path / "tokenizer.json", extra=["<mask>"])
    with pytest.raises(ValueError, match=r"'mask': found \[MASK\] and <mask>"):
        adopt(tmp_path, tmp_path / "d")


def test_a_cased_vocabulary_and_berts_other_settings(tmp_path):
    (tmp_path / "vocab.txt").write_text(
        "\n".join([*BRACKETS, "É", "É中", "e", "中"]) + "\n", encoding="utf-8"
    )
    assert adopt(tmp_path / "vocab.txt", tmp_path / "cased", lowercase=False).encode_batch(["É É中"]) == [
        [5, 5, 8]
    ]
    assert adopt(tmp_path / "vocab.txt", tmp_path / "uncased", lowercase=True).encode_batch(["É É中"]) == [
        [7, 7, 8]
    ]
    (tmp_path / "tokenizer_config.json").write_text(
        json.dumps({"do_lower_case": False, "strip_accents": True, "tokenize_chinese_chars": False})
    )
    assert adopt(tmp_path / "vocab.txt", tmp_path / "stripped").encode_batch(["É É中 中"]) == [[3, 3, 8]]
    with pytest.raises(ValueError, match="got lowercase=True, expected False, as do_lower_case"):
        adopt(tmp_path / "vocab.txt", tmp_path / "no", lowercase=True)


def test_a_tokenizer_directory_is_copied_without_other_files(electra, tmp_path):
    train_tokenizer(["some words to learn"] * 9, str(tmp_path / "sentencepiece"), vocab_size=18)
    for number, directory in enumerate((Path(electra.directory), tmp_path / "sentencepiece")):
        source = shutil.copytree(directory, tmp_path / f"source{number}")
        (source / "model.safetensors").write_bytes(b"weights")
        copied = adopt(source, tmp_path / f"copy{number}")
        assert copied.fingerprint == load_tokenizer(str(directory)).fingerprint
        assert {path.name: path.read_bytes() for path in (tmp_path / f"copy{number}").iterdir()} == {
            path.name: path.read_bytes() for path in directory.iterdir()
        }
    with pytest.raises(
        ValueError, match="got lowercase=True for a tokenizer that specifies letter case itself"
    ):
        adopt(source, tmp_path / "no", lowercase=True)
    (source / "spm.model").write_bytes(b"another")
    with pytest.raises(ValueError, match="changed or damaged"):
        adopt(source, tmp_path / "no")
    assert not (tmp_path / "no").exists()


def test_the_directory_appears_complete_or_not_at_all(electra, hugging_face, tmp_path, monkeypatch):
    target = tmp_path / "out" / "t"
    written, write_bytes = [], Path.write_bytes

    def disk_full(path, data):
        if written:
            raise OSError("No space left on device")
        written.append(path.name)
        return write_bytes(path, data)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", disk_full)
        with pytest.raises(OSError, match="No space"):
            adopt_tokenizer(hugging_face, target, lowercase=None)
    assert written and not list(target.parent.iterdir())
    first = adopt(hugging_face, target)
    before = (target / META_FILE).stat().st_mtime_ns
    assert (
        adopt(hugging_face, target).fingerprint == first.fingerprint
        and (target / META_FILE).stat().st_mtime_ns == before
    )
    with pytest.raises(
        FileExistsError, match=rf"holds a tokenizer of fingerprint {first.fingerprint}, expected"
    ):
        adopt_tokenizer(electra.directory, target, lowercase=None)
    with pytest.raises(FileExistsError, match="exists and holds no tokenizer"):
        adopt_tokenizer(electra.directory, target.parent, lowercase=None)


def test_loading_notices_changed_files(electra, tmp_path):
    for name, old, new in (
        (META_FILE, '"mask": 103', '"mask": 104'),
        ("tokenizer.json", '"lowercase":true', '"lowercase":false'),
    ):
        copy = shutil.copytree(electra.directory, tmp_path / name)
        text = (copy / name).read_text(encoding="utf-8")
        assert text.count(old) == 1
        (copy / name).write_text(text.replace(old, new), encoding="utf-8")
        with pytest.raises(ValueError, match=r"tokenizer\.json: fingerprint .* changed or damaged"):
            load_tokenizer(str(copy))


def test_sources_without_a_vocabulary(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere: does not exist, expected a vocab\.txt"):
        adopt(tmp_path / "nowhere", tmp_path / "t")
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "spm.model").write_bytes(b"\xff\xfe")  # as in the repositories of DeBERTaV3
    with pytest.raises(FileNotFoundError, match=r"found \['spm\.model'\], expected (.|\n)*save_pretrained"):
        adopt(tmp_path / "model", tmp_path / "t")
    with pytest.raises(ValueError, match=r"spm\.model: got a file that is not UTF-8"):
        adopt(tmp_path / "model" / "spm.model", tmp_path / "t", lowercase=True)
    for name, text, lowercase, message in (
        ("a.json", "{}", None, "Expected a tokenizer.json of the library tokenizers"),
        ("b.json", "{}", True, "got lowercase=True, but the file specifies letter case itself"),
        (
            "vocab.txt",
            "[PAD]\n[CLS]\na\n",
            True,
            r"'sep': found none among 3 pieces, expected one of \[SEP\], </s>",
        ),
        (
            "vocab.txt",
            "[PAD]\n",
            None,
            r'Put {"do_lower_case": true} \(an uncased vocabulary\) or .* into .*tokenizer_config\.json',
        ),
    ):
        (tmp_path / name).write_text(text)
        with pytest.raises(ValueError, match=message):
            adopt(tmp_path / name, tmp_path / "t", lowercase=lowercase)
    assert not (tmp_path / "t").exists()
