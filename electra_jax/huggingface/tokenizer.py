"""The tokenizer files of a Hugging Face repository, which give the ids that a run was trained on.

    tokenizer.json           all of it, for the library `tokenizers`: the one file that both transformers 4
                             and 5 read as it is
    tokenizer_config.json    its class, the special tokens, the greatest length
    special_tokens_map.json  the special tokens again, for transformers 4 spm.model / vocab.txt    the
    SentencePiece model or the list of WordPieces, for those who read nothing newer
    tokenizer_meta.json      ours: with the model's file the whole tokenizer directory, so that it can be had
                             back

One difference is deliberate. Text that spells a special token, "[MASK]" above all, becomes that token here,
since filling masks needs it; when rows for training are made, it gets ordinary pieces.

Three differences stay. `tokenizers` has its own tables of Unicode: a combining mark that its normal forms do
not know is not put in order beside another mark, and with "nfkc_lowercase" a capital letter that Python does
not know is made small. And of two segmentations that a Unigram model scores the same, in a run of asterisks
for one, `tokenizers` takes the first found, while SentencePiece takes either where its float32 sums had to be
rounded: in texts of over some 30,000 tokens.
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

from data_pipelines.tokenizers.directory import (
    META_FILE,
    MODEL_FILES,
    TRAINED_FILE,
    SpecialIds,
    format_of,
    read_meta,
)
from data_pipelines.tokenizers.load import load_tokenizer

TOKENIZER_FILE, CONFIG_FILE, SPECIAL_FILE, VOCAB_FILE = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "vocab.txt",
)
SPACE = "▁"  # how SentencePiece writes a space
WHITESPACE = r"[\x09-\x0d\x1c-\x20\x{85}\x{a0}\x{1680}\x{2000}-\x{200a}\x{2028}\x{2029}\x{202f}\x{205f}\x{3000}]"  # str.split()
NOT_A_CHARACTER = "\uffff"


def write_tokenizer(tokenizer_directory: Path, out: Path, *, model_max_length: int) -> None:
    """Write the tokenizer of `tokenizer_directory` into the directory `out`, which must exist; the same bytes
    each time.

    `model_max_length` is the greatest number of tokens of a row, [CLS] and [SEP] included.

    Raises:
      FileNotFoundError: no tokenizer, or a file of it is missing. ValueError: a file was changed.
    """
    tokenizer_directory, out = Path(tokenizer_directory), Path(out)
    special = load_tokenizer(
        str(tokenizer_directory)
    ).special  # which checks that the two files belong together
    meta = read_meta(tokenizer_directory)
    name = MODEL_FILES[format_of(meta)]
    model_bytes = (tokenizer_directory / name).read_bytes()
    if name == TOKENIZER_FILE:
        tokenizer = tokenizers.Tokenizer.from_str(model_bytes.decode())
        if not _is_complete(tokenizer, special):
            (out / TRAINED_FILE).write_bytes(model_bytes)
            _complete(tokenizer, special)
            model_bytes = tokenizer.to_str().encode()
        (out / TOKENIZER_FILE).write_bytes(model_bytes)
    else:
        tokenizer = _from_sentencepiece(model_bytes, meta)
        _complete(tokenizer, special)
        (out / name).write_bytes(model_bytes)
        (out / TOKENIZER_FILE).write_text(tokenizer.to_str(pretty=True) + "\n", encoding="utf-8")
    (out / META_FILE).write_bytes((tokenizer_directory / META_FILE).read_bytes())
    described = json.loads(tokenizer.to_str())
    if described["model"]["type"] == "WordPiece":
        (out / VOCAB_FILE).write_text(_vocabulary(described["model"]["vocab"]), encoding="utf-8")
    names = {f"{role}_token": tokenizer.id_to_token(number) for role, number in special._asdict().items()}
    _write_json(out / SPECIAL_FILE, names)
    _write_json(
        out / CONFIG_FILE,
        {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "model_max_length": model_max_length,
            **names,
            "model_input_names": ["input_ids", "token_type_ids", "attention_mask"],
            "clean_up_tokenization_spaces": False,
            **_case(described["normalizer"]),
        },
    )


def _from_sentencepiece(model_bytes: bytes, meta: Mapping[str, Any]) -> tokenizers.Tokenizer:
    """What SentencePiece and the normalisation before it do, but for the special tokens."""
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
    """`normalize_text`, and then what SentencePiece itself does to spaces."""
    steps = []
    if normalization != "identity":
        steps += [
            *(normalizers.Replace(text, normal) for text, normal in _unknown_normal_forms()),
            normalizers.NFKC(),
        ]
    if normalization == "nfkc_lowercase":
        steps += [normalizers.Lowercase(), normalizers.NFKC()]
    return [
        *steps,
        normalizers.Replace(Regex(f"{WHITESPACE}+"), " "),
        normalizers.Strip(),
        normalizers.Prepend(SPACE),
        normalizers.Replace(" ", SPACE),
        normalizers.Replace(Regex(rf"{SPACE}+\z"), ""),
    ]  # its own sign, at the end of text


def _unknown_normal_forms() -> Iterator[tuple[str, str]]:
    """(text, NFKC) of characters, whole and taken apart, that `tokenizers` with its older tables leaves as
    they are."""
    theirs = normalizers.NFKC()
    for character in map(chr, range(sys.maxunicode + 1)):
        if unicodedata.decomposition(character):
            normal = unicodedata.normalize("NFKC", character)
            for text in sorted({character, unicodedata.normalize("NFD", character)}):
                if theirs.normalize_str(text) != normal:
                    yield text, normal


def _merges(pieces: Sequence[str], scores: Sequence[float], is_text: Sequence[bool]) -> list[tuple[str, str]]:
    """Pairs that join, the first first. SentencePiece joins any two whose text is a piece, that of the best
    score first.

    Only one way to make a piece of two ever comes up: by the time its turn comes, all joins with better
    scores are done, and they depend on its own text alone. So the order among the ways of one piece does not
    matter.
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
    """The model, and which characters of special and byte pieces it does not know.

    `tokenizers` does not tell pieces of text from others and would find "[MASK]" and "<0x41>" in text. Here
    they have a score below that of any spelling of them with known characters. An unknown character is worse
    than that, whatever the score, and must be kept from the model, or apart from its neighbours.
    """
    lowest = min(score for score, is_kept in zip(scores, is_text, strict=True) if is_kept)
    others = [piece for piece, is_kept in zip(pieces, is_text, strict=True) if not is_kept]
    never = lowest * (1 + max(map(len, others))) - 1
    unknown = sorted(set("".join(others)) - set(pieces))
    model = models.Unigram(
        [
            (piece, score if is_kept else never)
            for piece, score, is_kept in zip(pieces, scores, is_text, strict=True)
        ],
        unk_id,
        byte_fallback,
    )
    return model, Regex(
        "[" + "".join(rf"\x{{{ord(character):x}}}" for character in unknown) + "]"
    ) if unknown else None


def _is_complete(tokenizer: tokenizers.Tokenizer, special: SpecialIds) -> bool:
    """Whether `_complete` would change nothing that can be seen."""
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
    """Let the special tokens be found in text, put [CLS] and [SEP] around texts and pairs, and neither cut
    nor pad."""
    names = SpecialIds(*map(tokenizer.id_to_token, special))
    tokenizer.add_special_tokens(
        [
            AddedToken(tokenizer.id_to_token(number), special=True, normalized=False)
            for number in sorted(special)
        ]
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{names.cls} $A {names.sep}",
        pair=f"{names.cls} $A {names.sep} $B:1 {names.sep}:1",
        special_tokens=[(names.cls, special.cls), (names.sep, special.sep)],
    )
    tokenizer.no_truncation()
    tokenizer.no_padding()


def _vocabulary(pieces: Mapping[str, int]) -> str:
    """One piece a line, where line number is id; empty where no piece has it."""
    by_number = {number: piece for piece, number in pieces.items()}
    return "".join(by_number.get(number, "") + "\n" for number in range(max(by_number) + 1))


def _case(normalizer: Mapping[str, Any] | None) -> dict[str, Any]:
    """What BERT's normalisation does, in the words of transformers; nothing for another."""
    if normalizer is None or normalizer["type"] != "BertNormalizer":
        return {}
    return {
        "do_lower_case": normalizer["lowercase"],
        "strip_accents": normalizer["strip_accents"],
        "tokenize_chinese_chars": normalizer["handle_chinese_chars"],
    }


def _write_json(path: Path, value: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
