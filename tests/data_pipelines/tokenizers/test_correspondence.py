"""Pieces of two vocabularies that stand for the same: start of a word or inside, and the letters; and the old
pieces of the others."""

import json

import pytest
import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers

from data_pipelines.tokenizers.adopt import adopt_tokenizer
from data_pipelines.tokenizers.correspondence import find_correspondence, find_parts
from data_pipelines.tokenizers.load import load_tokenizer
from data_pipelines.tokenizers.train import train_tokenizer

BRACKETS = ("[PAD]", "[CLS]", "[SEP]", "[UNK]", "[MASK]")
ANGLES = ("<s>", "<pad>", "</s>", "<unk>", "<mask>")


def adopted(directory, name, tokenizer, special):
    source = directory / f"{name}.json"
    tokenizer.add_special_tokens(list(special))
    tokenizer.save(str(source))
    adopt_tokenizer(source, directory / name, lowercase=None)
    return load_tokenizer(str(directory / name))


def word_pieces(directory, pieces, *, lowercase=True, name="wordpiece"):
    vocabulary = {piece: number for number, piece in enumerate((*BRACKETS, *pieces))}
    tokenizer = tokenizers.Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=lowercase)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    return adopted(directory, name, tokenizer, BRACKETS)


def unigram(directory, pieces, *, byte_fallback=False):
    scores = [(piece, -float(number)) for number, piece in enumerate((*ANGLES, *pieces))]
    tokenizer = tokenizers.Tokenizer(models.Unigram(scores, 3, byte_fallback))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    return adopted(directory, "unigram", tokenizer, ANGLES)


def byte_level(directory, pieces):
    letters = [letter for letter in sorted(pre_tokenizers.ByteLevel.alphabet()) if letter not in pieces]
    vocabulary = {piece: number for number, piece in enumerate((*ANGLES, *pieces, *letters))}
    tokenizer = tokenizers.Tokenizer(models.BPE(vocabulary, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return adopted(directory, "bytes", tokenizer, ANGLES)


def pairs(old, new):
    """New piece → the old one that it corresponds to, without special tokens."""
    old_pieces, new_pieces = old.vocabulary(), new.vocabulary()
    found = find_correspondence(old, new).rows
    return {
        new_pieces[number]: old_pieces[row]
        for number, row in found.items()
        if number not in new.special and row not in old.special
    }


def spelled(old, new):
    """New piece → the old ones that it is cut into."""
    old_pieces, new_pieces = old.vocabulary(), new.vocabulary()
    parts = find_parts(old, new, range(len(new_pieces)))
    return {new_pieces[number]: [old_pieces[i] for i in ids] for number, ids in parts.items()}


def test_from_word_pieces_to_sentence_pieces(tmp_path):
    old = word_pieces(tmp_path, ("tea", "##tea", "pan", "##x", ",", "中", "##中", "cafe"))
    new = unigram(tmp_path, ("▁tea", "tea", "▁pan", "pan", "x", ",", "▁,", "▁中", "中", "▁Tea", "▁café", "▁"))
    assert pairs(old, new) == {
        "▁tea": "tea",
        "tea": "##tea",
        "▁pan": "pan",  # "pan" inside a word has no old piece
        "x": "##x",
        ",": ",",
        "▁,": ",",
        "▁中": "中",
        "中": "##中",
        "▁Tea": "tea",  # as the old tokenizer lower-cased it
        "▁café": "cafe",
    }
    found = find_correspondence(old, new)
    assert found.num_other_forms == 2 and found.num_respelled == 7  # "," alone is spelled the same
    for role in ("pad", "cls", "sep", "unk", "mask"):
        assert found.rows[getattr(new.special, role)] == getattr(old.special, role)


def test_from_sentence_pieces_to_word_pieces(tmp_path):
    old = unigram(tmp_path, ("▁tea", "tea", "▁Paris", ",", "▁;", "a"))
    new = word_pieces(tmp_path, ("tea", "##tea", "paris", ",", ";", "a", "##a", "##paris"))
    assert pairs(old, new) == {
        "tea": "▁tea",
        "##tea": "tea",
        "paris": "▁Paris",  # what the new tokenizer makes of "Paris"
        ",": ",",
        ";": "▁;",
        "##a": "a",  # "a" at the start of a word has no old piece
    }


def test_byte_level_pieces_are_compared_by_their_bytes(tmp_path):
    accented = "".join(chr(byte) for byte in "é".encode())  # Ã©
    old = byte_level(tmp_path, ("Ġtea", "tea", "Ġ" + accented, accented))
    new = unigram(tmp_path, ("▁tea", "tea", "▁é", "é", "▁", "<0xC3>"), byte_fallback=True)
    assert pairs(old, new) == {
        "▁tea": "Ġtea",
        "tea": "tea",
        "▁é": "Ġ" + accented,
        "é": accented,
        "▁": "Ġ",
        "<0xC3>": "Ã",
    }
    back = pairs(new, old)
    assert back["Ġtea"] == "▁tea" and back["tea"] == "tea" and back[accented] == "é" and back["Ã"] == "<0xC3>"


def test_letter_case_of_two_vocabularies_of_one_kind(tmp_path):
    cased = word_pieces(tmp_path, ("Tea", "tea", "Pan", "##é"), lowercase=False, name="cased")
    uncased = word_pieces(tmp_path, ("tea", "pan", "##e"), name="uncased")
    assert pairs(cased, uncased) == {"tea": "tea", "pan": "Pan", "##e": "##é"}
    assert pairs(uncased, cased) == {"tea": "tea", "Tea": "tea", "Pan": "pan", "##é": "##e"}


def test_our_own_tokenizers(tmp_path):
    words = " ".join(f"tea{number} pan{number} kettle" for number in range(200))
    train_tokenizer([words], str(tmp_path / "own"), vocab_size=30)
    own = load_tokenizer(str(tmp_path / "own"))
    assert find_correspondence(own, own) == ({number: number for number in range(own.num_pieces)}, 0, 0)
    starts = [piece for piece in own.vocabulary() if piece.startswith("▁") and len(piece) > 1]
    old = word_pieces(tmp_path, [piece[1:] for piece in starts])
    assert pairs(old, own) == {piece: piece[1:] for piece in starts}


@pytest.mark.parametrize("spelling", ["tea</w>", "tea"])
def test_pieces_without_known_marks_are_compared_as_spelled(spelling, tmp_path):
    vocabulary = {piece: number for number, piece in enumerate((*BRACKETS, spelling, "t"))}
    tokenizer = tokenizers.Tokenizer(models.BPE(vocabulary, [], unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    plain = adopted(tmp_path, "plain", tokenizer, BRACKETS)
    assert pairs(plain, plain) == {spelling: spelling, "t": "t"}
    assert pairs(plain, word_pieces(tmp_path, ("tea",))) == {}


def test_an_id_without_a_piece_corresponds_to_nothing(tmp_path):
    old, new = unigram(tmp_path, ("▁",)), word_pieces(tmp_path, ("tea",))
    path = tmp_path / "wordpiece.json"
    described = json.loads(path.read_text())
    described["model"]["vocab"]["tea"] = 9
    path.write_text(json.dumps(described))
    adopt_tokenizer(path, tmp_path / "gap", lowercase=None)
    gap = load_tokenizer(str(tmp_path / "gap"))
    assert gap.vocabulary()[5] == "" and pairs(old, gap) == {} and pairs(gap, old) == {}
    assert len(find_correspondence(old, new).rows) == 5


def test_new_pieces_are_cut_by_an_old_vocabulary_of_word_pieces(tmp_path):
    old = word_pieces(tmp_path, ("t", "##t", "e", "##ea", "pan", "##pan", "a", "."))
    new = ("tea", "Tea", "##tea", "pantea", "##panea", "##ex", "e.", "x", "xtea")
    cased = word_pieces(tmp_path, new, lowercase=False, name="cased")
    assert spelled(old, cased) == {
        "tea": ["t", "##ea"],
        "Tea": ["t", "##ea"],
        "##tea": ["##t", "##ea"],
        "pantea": ["pan", "##t", "##ea"],
        "##panea": ["##pan", "##ea"],
        "e.": ["e", "."],
    }  # "ex", "x" and "xtea" are unknown
    assert spelled(old, unigram(tmp_path, ("▁tea", "tea", "▁", "e"))) == {
        "▁tea": ["t", "##ea"],
        "tea": ["##t", "##ea"],
        "e": ["e"],  # it has no piece inside a word
    }


def test_new_pieces_are_cut_by_old_vocabularies_of_other_kinds(tmp_path):
    new = word_pieces(tmp_path, ("tea", "##tea", "é", "##zt"))
    assert spelled(unigram(tmp_path, ("▁t", "t", "ea", "▁", "é")), new) == {
        "tea": ["▁t", "ea"],
        "##tea": ["t", "ea"],
        "é": ["▁", "é"],
        "##zt": ["t"],  # the rest is unknown
    }
    accented = [chr(byte) for byte in "é".encode()]  # Ã and ©
    old = byte_level(tmp_path, ())
    assert spelled(old, new) == {
        "tea": ["Ġ", "t", "e", "a"],
        "##tea": ["t", "e", "a"],
        "é": ["Ġ", *accented],
        "##zt": ["z", "t"],
    }
