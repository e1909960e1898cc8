"""Which piece of an old vocabulary stands for the same as a piece of a new one, however each spells it, and
which old pieces spell a new one that has none.

WordPiece writes a piece that starts a word "tea" and one inside a word "##tea"; SentencePiece writes "▁tea"
and "tea"; byte-level BPE writes "Ġtea" and "tea", and every byte of other scripts as a letter.
"""

import contextlib
import json
import re
import unicodedata
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from data_pipelines.json_files import parse_json
from data_pipelines.tokenizers import huggingface
from data_pipelines.tokenizers.directory import read_model
from data_pipelines.tokenizers.load import Tokenizer
from data_pipelines.tokenizers.sentencepiece import SentencePieceTokenizer

# Where a piece stands. ANYWHERE: a sign that its tokenizer always makes a word of its own.
START, INSIDE, ANYWHERE, BYTE = "start", "inside", "anywhere", "byte"
SPECIAL, SPELLED = "special", "spelled"  # a role, and a piece of a tokenizer without known marks
# Place → the places whose pieces stand for the same, the best first.
SAME = {START: (START, ANYWHERE), INSIDE: (INSIDE, ANYWHERE, BYTE), ANYWHERE: (ANYWHERE, INSIDE, START)}
SAME |= {BYTE: (BYTE, INSIDE)}
SPACE = "▁"
# Blocks of Chinese characters that BERT's normalisation puts blanks around.
CHINESE = re.compile("[\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0002ceaf\U0002f800-\U0002fa1f]")
SPLIT_AT_PUNCTUATION = ('"BertPreTokenizer"', '"Punctuation"', '"Whitespace"')  # types of pre-tokenizers


class Meaning(NamedTuple):
    """What a piece stands for."""

    place: str
    letters: bytes  # UTF-8, or a part of a character


NOTHING = Meaning(SPELLED, b"")  # of an id without a piece


class Correspondence(NamedTuple):
    """The rows of a new vocabulary that an old one can fill."""

    rows: dict[int, int]  # new id → old id
    num_respelled: int  # of them: the same letters in the same place, spelled otherwise
    num_other_forms: int  # of them: the same after one of the two normalisations, as "Tea" and "tea"


def find_correspondence(old: Tokenizer, new: Tokenizer) -> Correspondence:
    """The old piece for each new one that has one. Special tokens correspond by role. Of several old pieces
    the one with the lowest id is taken, which is the most frequent in most vocabularies."""
    old_meanings, new_meanings = meanings(old), meanings(new)
    old_pieces, new_pieces = old.vocabulary(), new.vocabulary()
    known = _first_ids(old_meanings)
    rows = {number: row for number, meaning in enumerate(new_meanings) if (row := _find(known, meaning)) >= 0}
    num_respelled = sum(
        old_pieces[row] != new_pieces[number] and new_meanings[number].place != SPECIAL
        for number, row in rows.items()
    )
    num_same = len(rows)
    # What the old tokenizer made of the letters of a new piece.
    rest = [number for number in range(len(new_pieces)) if number not in rows]
    for number, meaning in zip(rest, _normalized([new_meanings[i] for i in rest], old), strict=True):
        if (row := _find(known, meaning)) >= 0:
            rows[number] = row
    # The old pieces whose letters the new tokenizer turns into those of a new piece.
    normalized = _first_ids(_normalized(old_meanings, new))
    for number in rest:
        if number not in rows and (row := _find(normalized, new_meanings[number])) >= 0:
            rows[number] = row
    return Correspondence(rows, num_respelled, len(rows) - num_same)


def find_parts(old: Tokenizer, new: Tokenizer, numbers: Iterable[int]) -> dict[int, list[int]]:
    """The old pieces that the old tokenizer cuts each of these new pieces into, new id → old ids in the order
    of the letters. A piece of which it knows no letter, or that is a part of a character, is left out.

    A piece inside a word is cut like a word of its own. Its first old piece is then replaced by the one with
    the same letters inside a word, if there is one.
    """
    old_meanings, new_meanings = meanings(old), meanings(new)
    known = _first_ids(old_meanings)
    texts = {number: text for number in numbers if (text := _text(new_meanings[number]))}
    # Behind another word, so that the first piece has the mark of a space in every kind of tokenizer.
    encoded = old.encode_with_offsets([f"a {text}" for text in texts.values()])
    parts = {}
    for number, (ids, spans) in zip(texts, encoded, strict=True):
        ids = [i for i, (start, _) in zip(ids, spans, strict=True) if start > 0 and i != old.special.unk]
        if ids and new_meanings[number].place == INSIDE:
            first = old_meanings[ids[0]]
            inside = [known.get(first._replace(place=INSIDE), ids[0])] if first.letters else []
            ids = inside + ids[1:]
        if ids:
            parts[number] = ids
    return parts


def meanings(tokenizer: Tokenizer) -> list[Meaning]:
    """What each piece of a tokenizer stands for, by id."""
    read = _reader(tokenizer)
    roles = {number: role for role, number in tokenizer.special._asdict().items()}
    return [
        Meaning(SPECIAL, roles[number].encode()) if number in roles else read(piece) if piece else NOTHING
        for number, piece in enumerate(tokenizer.vocabulary())
    ]


def _first_ids(of: Iterable[Meaning]) -> dict[Meaning, int]:
    """The lowest id of each meaning."""
    ids: dict[Meaning, int] = {}
    for number, meaning in enumerate(of):
        ids.setdefault(meaning, number)
    return ids


def _text(meaning: Meaning) -> str:
    """The letters of a piece, "" for a special token or a part of a character."""
    if meaning.place in (SPECIAL, BYTE):
        return ""
    try:
        return meaning.letters.decode().strip()
    except UnicodeDecodeError:
        return ""


def _find(known: Mapping[Meaning, int], meaning: Meaning) -> int:
    """The id of the piece that stands for `meaning`, -1 if there is none."""
    if meaning == NOTHING:
        return -1
    places = SAME.get(meaning.place, (meaning.place,))
    found = (known.get(meaning._replace(place=place), -1) for place in places)
    return next((number for number in found if number >= 0), -1)


def _normalized(of: list[Meaning], tokenizer: Tokenizer) -> list[Meaning]:
    """The same meanings with the letters that a tokenizer's normalisation makes of them; special tokens and
    parts of characters stay."""
    normalize = _normalizer(tokenizer)
    changed = []
    for meaning in of:
        if meaning.place in (START, INSIDE, ANYWHERE):
            with contextlib.suppress(UnicodeDecodeError):
                meaning = meaning._replace(letters=normalize(meaning.letters.decode()).strip().encode())
        changed.append(meaning)
    return changed


def _normalizer(tokenizer: Tokenizer) -> Callable[[str], str]:
    """What a tokenizer does to text before it cuts it, without marks of spaces."""
    if isinstance(tokenizer, SentencePieceTokenizer) or tokenizer.normalizer is None:
        return tokenizer.normalize
    return lambda text: tokenizer.normalize(text).replace(SPACE, " ")


def _reader(tokenizer: Tokenizer) -> Callable[[str], Meaning]:
    """The function from a piece's spelling to its meaning."""
    if isinstance(tokenizer, SentencePieceTokenizer):
        return _after_space
    described = parse_json(
        read_model(Path(tokenizer.directory), huggingface.FORMAT), {"model": dict}, tokenizer.directory
    )
    model = described["model"]
    steps = json.dumps(
        [described.get(step) for step in ("normalizer", "pre_tokenizer", "decoder")], ensure_ascii=False
    )
    if '"ByteLevel"' in steps:
        return _byte_level
    if SPACE in steps or model["type"] == "Unigram":
        return _after_space
    if model.get("continuing_subword_prefix"):
        return _word_pieces(model["continuing_subword_prefix"], steps)
    return lambda piece: Meaning(SPELLED, piece.encode())


def _after_space(piece: str) -> Meaning:
    """Of SentencePiece's spelling: "▁" is a space, <0xE2> a byte."""
    if byte := re.fullmatch("<0x([0-9A-F]{2})>", piece):
        return Meaning(BYTE, bytes.fromhex(byte[1]))
    place = START if piece.startswith(SPACE) else INSIDE
    return Meaning(place, piece.removeprefix(SPACE).replace(SPACE, " ").encode())


def _byte_level(piece: str) -> Meaning:
    """Of the spelling of byte-level BPE: each letter is a byte."""
    if not set(piece) <= BYTES.keys():  # an added token
        return Meaning(SPELLED, piece.encode())
    letters = bytes(BYTES[letter] for letter in piece)
    return Meaning(START if letters.startswith(b" ") else INSIDE, letters.removeprefix(b" "))


def _word_pieces(prefix: str, steps: str) -> Callable[[str], Meaning]:
    """Of the spelling of WordPiece: `prefix` stands before a piece inside a word. `steps`: JSON of what comes
    before the model."""
    splits_punctuation = any(name in steps for name in SPLIT_AT_PUNCTUATION)
    splits_chinese = '"handle_chinese_chars": true' in steps

    def is_own_word(letter: str) -> bool:
        if splits_chinese and CHINESE.fullmatch(letter):
            return True
        is_sign = letter.isascii() and not letter.isalnum()
        return splits_punctuation and (is_sign or unicodedata.category(letter).startswith("P"))

    def read(piece: str) -> Meaning:
        if piece.startswith(prefix) and piece != prefix:
            return Meaning(INSIDE, piece.removeprefix(prefix).encode())
        return Meaning(ANYWHERE if len(piece) == 1 and is_own_word(piece) else START, piece.encode())

    return read


def _byte_letters() -> dict[str, int]:
    """Letter → byte, as GPT-2's tokenizer writes bytes: printable ones of Latin-1 as themselves, the others
    from U+0100 on."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {
        chr(0x100 + place): byte for place, byte in enumerate(others)
    }


BYTES = _byte_letters()
