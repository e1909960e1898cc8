"""A tokenizer.json that is damaged or means harm is an error with its name, whatever its library raises."""

import json
import os

import pytest
import tokenizers
from tokenizers import models

from data_pipelines.tokenizers.adopt import adopt_tokenizer
from data_pipelines.tokenizers.load import load_tokenizer

PIECES = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "##b"]


def described():
    """A small tokenizer.json, as a dictionary."""
    vocabulary = {piece: number for number, piece in enumerate(PIECES)}
    return json.loads(tokenizers.Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]")).to_str())


def added(number):
    return {
        "id": number,
        "content": "[NEW]",
        "single_word": False,
        "lstrip": False,
        "rstrip": False,
        "normalized": False,
        "special": True,
    }


DAMAGED = {
    "a text": "hello",
    "nested": "[" * 10**6,
    "an array": "[]",
    "no model": '{"version": "1.0", "model": null}',
    "no vocabulary": {"model": {"type": "WordPiece"}},
    "an empty vocabulary": {"model": {"type": "WordPiece", "vocab": {}, "unk_token": "[UNK]"}},
    "a bad character map": {"normalizer": {"type": "Precompiled", "precompiled_charsmap": "AAAA"}},
    "a bad expression": {
        "pre_tokenizer": {
            "type": "Split",
            "pattern": {"Regex": "("},
            "behavior": "Isolated",
            "invert": False,
        }
    },
    "a negative id": {"added_tokens": [added(-1)]},
    "a token without an id": {"added_tokens": [{"content": "[NEW]"}]},
    "merges of nothing": {"model": {"type": "BPE", "vocab": {"a": 0}, "merges": [["a", "b"]]}},
}


@pytest.mark.parametrize("damage", DAMAGED)
def test_a_damaged_tokenizer_is_named(damage, tmp_path):
    change, path = DAMAGED[damage], tmp_path / "tokenizer.json"
    path.write_text(change if isinstance(change, str) else json.dumps(described() | change))
    with pytest.raises(ValueError, match=r"tokenizer\.json: ") as caught:
        adopt_tokenizer(path, tmp_path / "adopted", lowercase=None)
    assert len(str(caught.value)) < 600
    assert sorted(tmp_path.iterdir()) == [path]


def test_the_undamaged_one_is_adopted(tmp_path):
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(described()))
    adopt_tokenizer(path, tmp_path / "adopted", lowercase=None)
    assert load_tokenizer(str(tmp_path / "adopted")).num_pieces == len(PIECES)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"special_ids": {"pad": 0, "cls": 2, "sep": 3, "unk": 1, "mask": 99}}, "changed or damaged"),
        ({"special_ids": {"pad": 0}}, "no 'cls' and no 'sep'"),
        ({"special_ids": None}, "got None at special_ids, expected an object"),
        ({"fingerprint": 5}, "got 5 at fingerprint, expected a string"),
        ({"kind": "../../x"}, "got kind '../../x', expected one of"),
    ],
)
def test_a_changed_meta_file_is_named(changes, message, tmp_path):
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(described()))
    adopt_tokenizer(path, tmp_path / "adopted", lowercase=None)
    meta = tmp_path / "adopted" / "tokenizer_meta.json"
    meta.write_text(json.dumps(json.loads(meta.read_text()) | changes))
    with pytest.raises(ValueError, match=message):
        load_tokenizer(str(tmp_path / "adopted"))


@pytest.mark.parametrize("text", ["{", "[1]", '{"mask_token": 7}', b"\xff"])
def test_a_damaged_configuration_beside_it_is_named(text, tmp_path):
    (tmp_path / "tokenizer.json").write_text(json.dumps(described()))
    (tmp_path / "tokenizer_config.json").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ValueError, match=r"tokenizer_config\.json: "):
        adopt_tokenizer(tmp_path, tmp_path / "adopted", lowercase=None)


def test_a_list_of_pieces_without_end_is_refused(tmp_path):
    (tmp_path / "vocab.txt").symlink_to("/dev/zero")
    os.mkfifo(tmp_path / "pipe.txt")
    for name in ("vocab.txt", "pipe.txt"):
        with pytest.raises((ValueError, OSError), match=name):
            adopt_tokenizer(tmp_path / name, tmp_path / "adopted", lowercase=True)
