"""Writes the tokenizer files of a Hugging Face repository. They give the ids that a run was trained on.

    tokenizer.json           the whole tokenizer, for the library `tokenizers`; both transformers 4 and 5 read
                             it without conversion
    tokenizer_config.json    its class, the special tokens, the maximum length
    special_tokens_map.json  the special tokens again, for transformers 4
    spm.model / vocab.txt    the SentencePiece model or the list of WordPieces, for older readers
    tokenizer_meta.json      our own: together with the model's file it restores the tokenizer directory

One difference from training is deliberate. Text that spells a special token, most of all "[MASK]", becomes
that token here, because filling masks needs it. In training rows such text is tokenised like any other text.

Three differences remain:
  * `tokenizers` has its own Unicode tables. It does not reorder a combining mark that its normal forms do not
    know, and with "…_lowercase" it lowers capital letters that Python does not know.
  * If a Unigram model gives two segmentations the same score, for example in a run of asterisks, `tokenizers`
    takes the first that it finds. SentencePiece may take the other one if its float32 sums were rounded, in
    texts of more than about 30,000 tokens.
"""

import json
import sys
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import sentencepiece
import tokenizers
from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers, processors

from data_pipelines.json_files import write_json
from data_pipelines.tokenizers.directory import (
    META_FILE,
    MODEL_FILES,
    TRAINED_FILE,
    SpecialIds,
    format_of,
    read_meta,
)
from data_pipelines.tokenizers.load import load_tokenizer
from data_pipelines.tokenizers.sentencepiece import INVISIBLE
from data_pipelines.whole_files import write_bytes, write_text

TOKENIZER_FILE, CONFIG_FILE, SPECIAL_FILE, VOCAB_FILE = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "vocab.txt",
)
INPUT_NAMES = ("input_ids", "token_type_ids", "attention_mask")
SPACE = "▁"  # how SentencePiece writes a space
# What str.split() takes for whitespace.
WHITESPACE = (
    r"[\x09-\x0d\x1c-\x20\x{85}\x{a0}\x{1680}\x{2000}-\x{200a}\x{2028}\x{2029}\x{202f}\x{205f}\x{3000}]"
)
NOT_A_CHARACTER = "\uffff"


def write_tokenizer(
    tokenizer_directory: Path, out: Path, *, model_max_length: int, input_names: Sequence[str] = INPUT_NAMES
) -> None:
    """Write the files of a tokenizer; the same bytes each time.

    Args:
      tokenizer_directory: our tokenizer.
      out: an existing directory.
      model_max_length: maximum number of tokens in a row, including [CLS] and [SEP].
      input_names: arguments of the model's class that the tokenizer gives.
    Raises:
      FileNotFoundError: no tokenizer, or one of its files is missing.
      ValueError: a file was changed.
    """
    tokenizer_directory, out = Path(tokenizer_directory), Path(out)
    # Loading also checks that the two files belong together.
    special = load_tokenizer(str(tokenizer_directory)).special
    meta = read_meta(tokenizer_directory)
    name = MODEL_FILES[format_of(meta)]
    model_bytes = (tokenizer_directory / name).read_bytes()
    if name == TOKENIZER_FILE:
        tokenizer = tokenizers.Tokenizer.from_str(model_bytes.decode())
        if not _is_complete(tokenizer, special):
            write_bytes(out / TRAINED_FILE, model_bytes)
            _complete(tokenizer, special)
            model_bytes = tokenizer.to_str().encode()
        write_bytes(out / TOKENIZER_FILE, model_bytes)
    else:
        tokenizer = _from_sentencepiece(model_bytes, meta)
        _complete(tokenizer, special)
        write_bytes(out / name, model_bytes)
        write_text(out / TOKENIZER_FILE, tokenizer.to_str(pretty=True) + "\n")
    write_bytes(out / META_FILE, (tokenizer_directory / META_FILE).read_bytes())
    described = json.loads(tokenizer.to_str())
    if described["model"]["type"] == "WordPiece":
        write_text(out / VOCAB_FILE, vocabulary_text(described["model"]["vocab"]))
    names = {f"{role}_token": tokenizer.id_to_token(number) for role, number in special._asdict().items()}
    write_json(out / SPECIAL_FILE, names)
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": model_max_length,
        **names,
        "model_input_names": list(input_names),
        "clean_up_tokenization_spaces": False,
        **_case_settings(described["normalizer"]),
    }
    write_json(out / CONFIG_FILE, config)


def _from_sentencepiece(model_bytes: bytes, meta: Mapping[str, Any]) -> tokenizers.Tokenizer:
    """A tokenizer that does what SentencePiece and the normalisation before it do, except special tokens."""
    processor = sentencepiece.SentencePieceProcessor(model_proto=model_bytes)
    numbers = range(processor.get_piece_size())
    pieces, scores = processor.id_to_piece(list(numbers)), processor.get_score(list(numbers))
    is_text = [
        not (processor.is_control(i) or processor.is_unknown(i) or processor.is_byte(i)) for i in numbers
    ]
    byte_fallback = meta["byte_fallback"]
    steps, isolated = _normalization(meta["normalization"]), None
    if meta["model_type"] == "bpe":
        model = models.BPE(
            {piece: i for i, piece in enumerate(pieces)},
            _merges(pieces, scores, is_text),
            unk_token=pieces[processor.unk_id()],
            fuse_unk=True,
            byte_fallback=byte_fallback,
        )
    else:
        model, unknown = _unigram(pieces, scores, is_text, processor.unk_id(), byte_fallback)
        if unknown and byte_fallback:
            isolated = pre_tokenizers.Split(unknown, "isolated")
        elif unknown:
            steps.append(normalizers.Replace(unknown, NOT_A_CHARACTER))
    tokenizer = tokenizers.Tokenizer(model)
    tokenizer.normalizer = normalizers.Sequence(steps)
    if isolated is not None:
        tokenizer.pre_tokenizer = isolated
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace(SPACE, " "),
            *([decoders.ByteFallback()] if byte_fallback else []),
            decoders.Fuse(),
            decoders.Replace(Regex(r"\A +"), ""),
        ]
    )
    return tokenizer


def _normalization(normalization: str) -> list[normalizers.Normalizer]:
    """Our `normalize_text`, followed by SentencePiece's treatment of spaces."""
    steps = []
    if normalization.startswith("nfkc_visible"):
        steps.append(normalizers.Replace(Regex(INVISIBLE), ""))
    if normalization != "identity":
        steps += [
            *(normalizers.Replace(text, normal) for text, normal in _unknown_normal_forms()),
            normalizers.NFKC(),
        ]
    if normalization.endswith("_lowercase"):
        steps += [normalizers.Lowercase(), normalizers.NFKC()]
    return [
        *steps,
        normalizers.Replace(Regex(f"{WHITESPACE}+"), " "),
        normalizers.Strip(),
        normalizers.Prepend(SPACE),
        normalizers.Replace(" ", SPACE),
        normalizers.Replace(Regex(rf"{SPACE}+\z"), ""),  # "▁" in the text itself, at its end
    ]


def _unknown_normal_forms() -> Iterator[tuple[str, str]]:
    """(text, NFKC) of composed and decomposed characters that the older tables of `tokenizers` do not
    normalise."""
    theirs = normalizers.NFKC()
    for character in map(chr, range(sys.maxunicode + 1)):
        if unicodedata.decomposition(character):
            normal = unicodedata.normalize("NFKC", character)
            for text in sorted({character, unicodedata.normalize("NFD", character)}):
                if theirs.normalize_str(text) != normal:
                    yield text, normal


def _merges(pieces: Sequence[str], scores: Sequence[float], is_text: Sequence[bool]) -> list[tuple[str, str]]:
    """The merges of a BPE model, in order. SentencePiece merges any two neighbours whose text is a piece, the
    piece with the best score first.

    Several pairs can form the same piece, but their order does not matter. When a piece's turn comes, all
    merges with better scores are done, and they depend only on the piece's text: only one pair can occur.
    """
    known = {piece for piece, is_kept in zip(pieces, is_text, strict=True) if is_kept}
    ranked = sorted((i for i, is_kept in enumerate(is_text) if is_kept), key=lambda i: -scores[i])
    return [
        (pieces[i][:cut], pieces[i][cut:])
        for i in ranked
        for cut in range(1, len(pieces[i]))
        if pieces[i][:cut] in known and pieces[i][cut:] in known
    ]


def _unigram(
    pieces: Sequence[str], scores: Sequence[float], is_text: Sequence[bool], unk_id: int, byte_fallback: bool
) -> tuple[models.Unigram, Regex | None]:
    """The model, and a pattern of the characters in special and byte pieces that the model does not know.

    `tokenizers` does not distinguish ordinary pieces from others and would find "[MASK]" and "<0x41>" in
    text. They therefore get a score below that of any way to spell them with known characters. An unknown
    character costs even more, whatever that score is, so such characters must be hidden from the model or
    isolated from their neighbours.
    """
    lowest = min(score for score, is_kept in zip(scores, is_text, strict=True) if is_kept)
    others = [piece for piece, is_kept in zip(pieces, is_text, strict=True) if not is_kept]
    never = lowest * (1 + max(map(len, others))) - 1
    unknown = sorted(set("".join(others)) - set(pieces))
    scored = [
        (piece, score if is_kept else never)
        for piece, score, is_kept in zip(pieces, scores, is_text, strict=True)
    ]
    model = models.Unigram(scored, unk_id, byte_fallback)
    if not unknown:
        return model, None
    codes = "".join(rf"\x{{{ord(character):x}}}" for character in unknown)
    return model, Regex(f"[{codes}]")


def _is_complete(tokenizer: tokenizers.Tokenizer, special: SpecialIds) -> bool:
    """Whether `_complete` would change no output of the tokenizer."""
    if tokenizer.truncation is not None or tokenizer.padding is not None:
        return False
    added = tokenizer.get_added_tokens_decoder()
    if not all(number in added and added[number].special for number in special):
        return False
    [first, second] = (tokenizer.encode(text, add_special_tokens=False).ids for text in ("a", "b c"))
    pair = tokenizer.encode("a", "b c")
    return (
        tokenizer.encode("a").ids == [special.cls, *first, special.sep]
        and pair.ids == [special.cls, *first, special.sep, *second, special.sep]
        and pair.type_ids == [0] * (len(first) + 2) + [1] * (len(second) + 1)
    )


def _complete(tokenizer: tokenizers.Tokenizer, special: SpecialIds) -> None:
    """Find special tokens in text, put [CLS] and [SEP] around texts and pairs, and do not cut or pad."""
    names = SpecialIds(*map(tokenizer.id_to_token, special))
    # Adding one again would lose its settings: RoBERTa's <mask> takes the blank before it (lstrip).
    known = {number for number, token in tokenizer.get_added_tokens_decoder().items() if token.special}
    tokenizer.add_special_tokens(
        [
            AddedToken(tokenizer.id_to_token(number), special=True, normalized=False)
            for number in sorted(set(special) - known)
        ]
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{names.cls} $A {names.sep}",
        pair=f"{names.cls} $A {names.sep} $B:1 {names.sep}:1",
        special_tokens=[(names.cls, special.cls), (names.sep, special.sep)],
    )
    tokenizer.no_truncation()
    tokenizer.no_padding()


def vocabulary_text(pieces: Mapping[str, int]) -> str:
    """vocab.txt of piece → id: the line number is the id; the line is empty if no piece has it."""
    by_number = {number: piece for piece, number in pieces.items()}
    return "".join(by_number.get(number, "") + "\n" for number in range(max(by_number) + 1))


def _case_settings(normalizer: Mapping[str, Any] | None) -> dict[str, Any]:
    """The settings of BERT's normalisation under their names in transformers; empty for another."""
    if normalizer is None or normalizer["type"] != "BertNormalizer":
        return {}
    return {
        "do_lower_case": normalizer["lowercase"],
        "strip_accents": normalizer["strip_accents"],
        "tokenize_chinese_chars": normalizer["handle_chinese_chars"],
    }
