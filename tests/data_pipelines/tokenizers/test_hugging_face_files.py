"""Files beside an adopted vocabulary: ids are those of AutoTokenizer, or there is an error."""

import json

import pytest
from transformers import AutoTokenizer, ElectraTokenizer

from data_pipelines.tokenizers.wordpiece import BertText, wordpiece_json
from support.adopted import BRACKETS, adopt

PIECES = [*BRACKETS, *"Tteaéä中", "##e", "##a", "##é", "##中", "Tea", "tea"]
IDS = {piece: number for number, piece in enumerate(PIECES)}
NAMES = dict(zip(("pad", "cls", "sep", "unk", "mask"), BRACKETS, strict=True))
TEXTS = ["Tea tea TEA", "T é É ä tea", "te\u0301a Té", "中中 t中"]


def write_json_vocabulary(directory, text, config, model_config=None):
    """A directory with a tokenizer.json and the files beside it."""
    directory.mkdir()
    (directory / "tokenizer.json").write_bytes(wordpiece_json(IDS, NAMES, text))
    (directory / "tokenizer_config.json").write_text(json.dumps(config))
    if model_config:
        (directory / "config.json").write_text(json.dumps(model_config))
    return directory


@pytest.mark.parametrize("class_name", ["BertTokenizer", "BertTokenizerFast", "ElectraTokenizer"])
@pytest.mark.parametrize(
    ("text", "config"),
    [
        (BertText(True), {"do_lower_case": False}),
        (BertText(False), {"do_lower_case": True}),
        (BertText(True), {"do_lower_case": True, "strip_accents": False}),
        (BertText(False, strip_accents=False), {"do_lower_case": False, "strip_accents": True}),
        (BertText(True, strip_accents=False), {"do_lower_case": True, "strip_accents": None}),
        (BertText(True), {"do_lower_case": True, "tokenize_chinese_chars": False}),
        (BertText(False), {}),
    ],
    ids=str,
)
def test_the_configuration_overrides_a_tokenizer_json_as_in_transformers(text, config, class_name, tmp_path):
    source = write_json_vocabulary(tmp_path / "source", text, {"tokenizer_class": class_name, **config})
    theirs = AutoTokenizer.from_pretrained(str(source))
    assert adopt(source, tmp_path / "t").encode_batch(TEXTS) == [
        theirs.encode(text, add_special_tokens=False) for text in TEXTS
    ]
    plain = wordpiece_json(IDS, NAMES, text)
    assert (tmp_path / "t" / "tokenizer.json").read_bytes() != plain


@pytest.mark.parametrize(
    ("config", "model_config", "is_changed"),
    [
        ({}, {"model_type": "electra"}, True),
        ({}, {"model_type": "electra", "tokenizer_class": "PreTrainedTokenizerFast"}, False),
        ({"tokenizer_class": "PreTrainedTokenizerFast"}, {"model_type": "electra"}, False),
        ({"tokenizer_class": "DistilBertTokenizer"}, None, True),
        ({"tokenizer_class": "MPNetTokenizer"}, None, True),
        ({}, {"model_type": "modernbert"}, False),
        ({}, None, False),
    ],
    ids=str,
)
def test_only_some_classes_override_it(config, model_config, is_changed, tmp_path):
    config = {"do_lower_case": False, **config}
    source = write_json_vocabulary(tmp_path / "source", BertText(True), config, model_config)
    theirs = AutoTokenizer.from_pretrained(str(source))
    ours = adopt(source, tmp_path / "t")
    assert ours.encode_batch(TEXTS) == [theirs.encode(text, add_special_tokens=False) for text in TEXTS]
    original, adopted = ((place / "tokenizer.json").read_bytes() for place in (source, tmp_path / "t"))
    assert (adopted != original) == is_changed


def write_vocab(directory, newline="\n", **config):
    directory.mkdir(exist_ok=True)
    (directory / "vocab.txt").write_text("".join(piece + newline for piece in PIECES), newline="")
    (directory / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "ElectraTokenizer", "do_lower_case": True} | config)
    )
    return directory


def test_tokens_added_to_a_vocab_txt_are_an_error_that_names_the_way(tmp_path):
    decoder = {"0": {"content": "[PAD]"}, str(len(PIECES)): {"content": "teabag"}}
    source = write_vocab(tmp_path / "source", added_tokens_decoder=decoder)
    message = (
        r"source: has 1 added tokens that vocab.txt lacks \('teabag'\)\. Save a tokenizer\.json with Auto"
    )
    with pytest.raises(ValueError, match=message):
        adopt(source, tmp_path / "t")
    write_vocab(source)
    (source / "added_tokens.json").write_text(json.dumps({"teabag": len(PIECES), "tea": IDS["tea"]}))
    with pytest.raises(ValueError, match=message):
        adopt(source, tmp_path / "t")
    (source / "added_tokens.json").unlink()
    theirs = ElectraTokenizer.from_pretrained(str(source))
    theirs.add_tokens(["teabag"])
    theirs.save_pretrained(str(source))
    assert adopt(source, tmp_path / "t").encode_batch(["teabag tea"]) == [[len(PIECES), IDS["tea"]]]


def test_lines_of_a_vocab_txt_may_end_as_on_windows(tmp_path):
    source = write_vocab(tmp_path / "source", "\r\n")
    theirs = AutoTokenizer.from_pretrained(str(source))
    ours = adopt(source, tmp_path / "t")
    assert ours.vocabulary() == PIECES
    assert ours.encode_batch(TEXTS) == [theirs.encode(text, add_special_tokens=False) for text in TEXTS]


def written(tmp_path, config, model_config):
    source = write_vocab(tmp_path / "source", **config)
    if model_config:
        (source / "config.json").write_text(json.dumps(model_config))
    return source


@pytest.mark.parametrize(
    ("config", "model_config", "named"),
    [
        ({"tokenizer_class": "BertJapaneseTokenizer"}, None, "BertJapaneseTokenizer"),
        ({"tokenizer_class": "KoBertTokenizerFast"}, None, "KoBertTokenizer"),
        ({"tokenizer_class": None}, {"tokenizer_class": "ElectraSudachipyTokenizer"}, "ElectraSudachipyT"),
        ({"word_tokenizer_type": "mecab"}, None, "word_tokenizer_type='mecab'"),
        ({"subword_tokenizer_type": "character"}, None, "subword_tokenizer_type='character'"),
        ({"auto_map": {"AutoTokenizer": ["own.OwnTokenizer", None]}}, None, "own.OwnTokenizer"),
        ({"tokenizer_class": None}, {"auto_map": {"AutoTokenizer": "own.Own"}}, "own.Own"),
    ],
    ids=str,
)
def test_a_vocab_txt_of_another_tokenizer_is_an_error_that_names_it(config, model_config, named, tmp_path):
    source = written(tmp_path, config, model_config)
    with pytest.raises(ValueError, match=r"source: got the tokenizer .*--new_tokenizer") as caught:
        adopt(source, tmp_path / "t")
    assert named in str(caught.value)
    assert not (tmp_path / "t").exists()


@pytest.mark.parametrize(
    ("config", "model_config"),
    [
        *(({"tokenizer_class": name}, None) for name in ("ConvBertTokenizer", "PreTrainedTokenizerFast")),
        *(({"tokenizer_class": name}, None) for name in ("LxmertTokenizerFast", "TokenizersBackend")),
        ({"tokenizer_class": None}, {"model_type": "bert", "auto_map": {"AutoModel": "own.Own"}}),
        ({"word_tokenizer_type": "basic", "subword_tokenizer_type": "wordpiece"}, None),
    ],
    ids=str,
)
def test_a_vocab_txt_of_a_class_that_is_wordpiece_is_read(config, model_config, tmp_path):
    ours = adopt(written(tmp_path, config, model_config), tmp_path / "t")
    theirs = ElectraTokenizer.from_pretrained(str(tmp_path / "source"))
    assert ours.encode_batch(TEXTS) == [theirs.encode(text, add_special_tokens=False) for text in TEXTS]
