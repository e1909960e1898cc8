"""Vocabularies that others made: a Hugging Face tokenizer.json, or a WordPiece vocab.txt such as ELECTRA's
own.

`adopt_tokenizer` makes a tokenizer directory of one; the library `tokenizers` does the work. Text is encoded
as the file says, but for two things: nothing is added, cut or padded, and text that spells a special token
("[MASK]") gets ordinary pieces.
"""

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers

from data_pipelines.tokenizers.directory import (
    META_FILE,
    MODEL_FILES,
    SpecialIds,
    check_fingerprint,
    check_free,
    kind_of,
    load_meta,
    meta_bytes,
    read_meta,
    read_model,
    write_directory,
)

KIND = "tokenizers"
TOKENIZER_FILE, VOCAB_FILE = MODEL_FILES[KIND], "vocab.txt"
CONFIG_FILES = (
    "tokenizer_config.json",
    "special_tokens_map.json",
)  # where Hugging Face names the special tokens
SPELLINGS = {
    "pad": ("[PAD]", "<pad>"),
    "cls": ("[CLS]", "<s>"),
    "sep": ("[SEP]", "</s>"),
    "unk": ("[UNK]", "<unk>"),
    "mask": ("[MASK]", "<mask>"),
}
SPACE_MARKS = (
    "▁",
    "Ġ",
)  # what a space is spelled as in a piece: SentencePiece's way, and that of byte-level BPE
LONGEST_WORD = 100  # characters of a word that BERT's WordPiece still takes apart; a longer one is [UNK]


class HuggingFaceTokenizer:
    """A tokenizer.json loaded from its directory.

    `num_pieces` is the highest id plus one, and `vocab_size` the same: published checkpoints have just so
    many embedding rows. `fingerprint` changes with the file's bytes or the special ids, and with nothing
    else.
    """

    def __init__(self, directory: str, model_bytes: bytes, special: SpecialIds):
        self.directory = str(directory)
        self.special = special
        self.fingerprint = _fingerprint(model_bytes, special._asdict())
        self._encoder = _make_encoder(model_bytes, special)
        self.num_pieces = self.vocab_size = _num_ids(self._encoder)

    @classmethod
    def load(cls, directory: str) -> "HuggingFaceTokenizer":
        """The tokenizer in `directory`, after checking that its two files belong together.

        Raises:
          FileNotFoundError: a file is missing. ValueError: one was changed.
        """
        path = Path(directory)
        meta = load_meta(path, ("special_ids", "fingerprint"))
        model_bytes = read_model(path, KIND)
        check_fingerprint(path, KIND, _fingerprint(model_bytes, meta["special_ids"]), meta["fingerprint"])
        return cls(directory, model_bytes, SpecialIds(**meta["special_ids"]))

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids of each text, without [CLS] or [SEP]; an empty text gives an empty list."""
        encodings = self._encoder.encode_batch_fast(
            [_clean(text) for text in texts], add_special_tokens=False
        )
        return [encoding.ids for encoding in encodings]

    def encode_with_offsets(self, texts: Sequence[str]) -> list[tuple[list[int], np.ndarray]]:
        """Ids of each text as by `encode_batch`, and int32 [n, 2]: where in the text as given each piece
        starts and ends.

        White space before a piece is not part of its span, so that of "▁" alone is empty. Pieces that are
        bytes have the span of their character.
        """
        encodings = self._encoder.encode_batch([_clean(text) for text in texts], add_special_tokens=False)
        return [
            (encoding.ids, _spans(text, encoding)) for text, encoding in zip(texts, encodings, strict=True)
        ]

    def decode(self, ids: Sequence[int]) -> str:
        """The normalised text of `ids`; [PAD], [CLS], [SEP] and [MASK] vanish, [UNK] shows as it is
        written."""
        ids = [int(i) for i in ids]
        for i in ids:
            if not 0 <= i < self.num_pieces:
                raise ValueError(f"decode: got id {i}, expected 0 to {self.num_pieces - 1} (num_pieces - 1)")
        vanishing = set(self.special) - {self.special.unk}
        text = self._encoder.decode([i for i in ids if i not in vanishing], skip_special_tokens=False)
        return _clean(text)  # the names of what else is special

    def pieces(self, text: str) -> list[str]:
        """The pieces of `text`, to look at."""
        return self._encoder.encode(_clean(text), add_special_tokens=False).tokens

    def vocabulary(self) -> list[str]:
        """The spelling of every id, "" for one that nothing has."""
        spellings = {i: _clean(piece) for piece, i in self._encoder.get_vocab(with_added_tokens=True).items()}
        return [spellings.get(i, "") for i in range(self.num_pieces)]


def _clean(text: str) -> str:
    """Without NUL, which the names of `_make_encoder` hold; BERT's normalisation drops it too."""
    return text.replace("\0", "")


def _spans(text: str, encoding: tokenizers.Encoding) -> np.ndarray:
    """int32 [n, 2], the spans in `text` of the pieces of its encoding, without white space before them."""
    clean = _clean(text)
    spans = []
    for piece, (start, end) in zip(encoding.tokens, encoding.offsets, strict=True):
        covered = clean[start:end]
        start += len(covered) - len(covered.lstrip())
        # A space put before the first word, where it is a piece of its own, claims that word's first
        # character.
        spans.append((start, start if piece in SPACE_MARKS and covered != piece else end))
    if clean != text:
        places = [at for at, character in enumerate(text) if character != "\0"] + [len(text)]
        spans = [
            (places[start], places[end - 1] + 1 if end > start else places[start]) for start, end in spans
        ]
    return np.array(spans, np.int32).reshape(-1, 2)


def _make_encoder(model_bytes: bytes, special: SpecialIds) -> tokenizers.Tokenizer:
    """The tokenizer of a tokenizer.json, which neither cuts nor pads, and gives no text the id of a special
    token.

    `encode_special_tokens` alone does not see to that: it only stops the search for special tokens that goes
    before the model. A model with "[CLS]" among its own pieces (Unigram as in DeBERTaV3) still finds it. So
    special tokens get names with a NUL, which `_clean` keeps out of the text. A model looks its unknown piece
    up by name; that one stays.
    """
    described = json.loads(model_bytes) | {"truncation": None, "padding": None, "post_processor": None}
    model = described["model"]
    hidden = {token["id"] for token in described["added_tokens"] if token["special"]} | set(special)
    if model.get("unk_token") is not None:  # Unigram has a number in place of it
        hidden.discard(special.unk)
    for token in described["added_tokens"]:
        if token["id"] in hidden:
            token |= {"content": "\0" + token["content"], "normalized": False}
    if isinstance(model["vocab"], dict):
        model["vocab"] = {
            "\0" + piece if number in hidden else piece: number for piece, number in model["vocab"].items()
        }
    else:
        model["vocab"] = [
            ["\0" + piece if number in hidden else piece, score]
            for number, (piece, score) in enumerate(model["vocab"])
        ]
    encoder = tokenizers.Tokenizer.from_str(json.dumps(described))
    encoder.encode_special_tokens = True  # for the unknown piece
    return encoder


def _num_ids(tokenizer: tokenizers.Tokenizer) -> int:
    return max(tokenizer.get_vocab(with_added_tokens=True).values()) + 1


def _fingerprint(model_bytes: bytes, special_ids: Mapping[str, int]) -> str:
    return hashlib.sha256(model_bytes + b"\0" + json.dumps(special_ids, sort_keys=True).encode()).hexdigest()


def adopt_tokenizer(
    source: str | os.PathLike, directory: str | os.PathLike, *, lowercase: bool | None
) -> None:
    """Make the tokenizer directory `directory` of a vocabulary that exists; it appears whole or not at all.

    `source` is a WordPiece vocab.txt, a tokenizer.json, a Hugging Face directory that holds one of them, or a
    tokenizer directory of this project, which is copied. Where `directory` holds that tokenizer already,
    nothing is done.

    Args: lowercase: whether a vocab.txt is of lower-case text; None where a tokenizer_config.json beside it
      says so. A
        tokenizer.json says so itself.

    Raises: FileNotFoundError: no such source, or nothing in it. FileExistsError: `directory` holds something
      else. ValueError: a vocabulary without one of the five special tokens, a file that is none, or
      `lowercase` missing or given
        without need.
    """
    source, target = Path(source), Path(directory)
    if not source.exists():
        raise FileNotFoundError(
            f"{source}: does not exist, expected a vocab.txt, a tokenizer.json or a directory with one of "
            "them; correct the path"
        )
    meta = read_meta(source) if source.is_dir() else None
    if meta is None:
        files = _files_of(_vocabulary_in(source), lowercase)
    elif lowercase is not None:
        raise ValueError(
            f"{source}: got lowercase={lowercase} for a tokenizer that says itself how text is treated; "
            "leave it out"
        )
    else:
        files = _own_files(source)
    wanted = json.loads(files[META_FILE])["fingerprint"]
    existing = read_meta(target, ("fingerprint",))
    if existing is None:
        check_free(target)
        try:
            write_directory(target, files)
            return
        except OSError:
            existing = read_meta(target, ("fingerprint",))  # another process may have finished first
            if existing is None:
                raise
    if existing["fingerprint"] != wanted:
        raise FileExistsError(
            f"{target}: holds a tokenizer of fingerprint {existing['fingerprint']}, expected {wanted}, that "
            f"of {source}; choose another directory, or remove it"
        )


def _own_files(source: Path) -> dict[str, bytes]:
    """The two files of a tokenizer directory, checked; others beside them, a model's weights for one, are
    left out."""
    from data_pipelines.tokenizer import (
        load_tokenizer,  # here, since it chooses among the kinds and this is one
    )

    load_tokenizer(str(source))
    kind = kind_of(read_meta(source))
    return {MODEL_FILES[kind]: read_model(source, kind), META_FILE: (source / META_FILE).read_bytes()}


def _vocabulary_in(source: Path) -> Path:
    """The file to read: `source` itself, or the one in it."""
    if source.is_file():
        return source
    found = [source / name for name in (TOKENIZER_FILE, VOCAB_FILE) if (source / name).is_file()]
    if not found:
        names = sorted(path.name for path in source.iterdir())
        raise FileNotFoundError(
            f"{source}: found {names}, expected {META_FILE}, {TOKENIZER_FILE} or {VOCAB_FILE}. A Hugging "
            "Face model without them gets its tokenizer.json from "
            "`AutoTokenizer.from_pretrained(MODEL).save_pretrained(DIR)` of the package transformers."
        )
    return found[0]


def _files_of(vocabulary: Path, lowercase: bool | None) -> dict[str, bytes]:
    """tokenizer.json and the meta file for a vocabulary of either form."""
    config = _read_configs(vocabulary.parent)
    if vocabulary.suffix == ".json":
        if lowercase is not None:
            raise ValueError(
                f"{vocabulary}: got lowercase={lowercase}, but the file says itself how text is treated; "
                "leave it out"
            )
        model_bytes = vocabulary.read_bytes()
    else:
        model_bytes = _wordpiece(vocabulary, config, _agreed_lowercase(vocabulary, config, lowercase))
    try:
        tokenizer = tokenizers.Tokenizer.from_str(model_bytes.decode())
    except Exception as error:  # the library has no class of its own for this
        raise ValueError(
            f"{vocabulary}: got a file that is no tokenizer.json ({error}), expected one of the library "
            "tokenizers; check the path"
        ) from error
    special = _find_special(tokenizer, config, vocabulary)
    meta = {
        "kind": KIND,
        "num_pieces": _num_ids(tokenizer),
        "vocab_size": _num_ids(tokenizer),
        "special_ids": special._asdict(),
        "fingerprint": _fingerprint(model_bytes, special._asdict()),
    }
    return {TOKENIZER_FILE: model_bytes, META_FILE: meta_bytes(meta)}


def _read_configs(directory: Path) -> dict[str, Any]:
    """What the CONFIG_FILES in a directory say, the first of them first."""
    config: dict[str, Any] = {}
    for name in reversed(CONFIG_FILES):
        if (directory / name).is_file():
            config |= json.loads((directory / name).read_text(encoding="utf-8"))
    return config


def _agreed_lowercase(vocabulary: Path, config: Mapping[str, Any], lowercase: bool | None) -> bool:
    """What is asked for, or what the configuration beside the vocabulary says; one of them must, and both
    must agree."""
    configured = config.get("do_lower_case")
    if lowercase is None and configured is None:
        raise ValueError(
            f"{vocabulary}: got no word on letter case, which a list of pieces does not tell; pass "
            "--lowercase for an uncased vocabulary, --no-lowercase for a cased one"
        )
    if None not in (lowercase, configured) and lowercase != configured:
        raise ValueError(
            f"{vocabulary}: got lowercase={lowercase}, expected {configured}, as do_lower_case in "
            f"{CONFIG_FILES[0]} beside it; leave it out, or correct that file"
        )
    return configured if lowercase is None else lowercase


def _wordpiece(vocabulary: Path, config: Mapping[str, Any], lowercase: bool) -> bytes:
    """The tokenizer.json of BERT's tokenizer over the pieces of a vocab.txt, one a line, the first with id
    0."""
    try:
        lines = vocabulary.read_text(encoding="utf-8").split("\n")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{vocabulary}: got a file that is not UTF-8 ({error}), expected a vocab.txt, one piece a line; "
            "check the path"
        ) from error
    pieces = {piece: number for number, piece in enumerate(lines if lines[-1] else lines[:-1])}
    names = _names(config, pieces, vocabulary)
    tokenizer = tokenizers.Tokenizer(
        tokenizers.models.WordPiece(pieces, unk_token=names["unk"], max_input_chars_per_word=LONGEST_WORD)
    )
    tokenizer.normalizer = tokenizers.normalizers.BertNormalizer(
        clean_text=True,
        handle_chinese_chars=config.get("tokenize_chinese_chars", True),
        strip_accents=config.get("strip_accents"),
        lowercase=lowercase,
    )  # None: as `lowercase`
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = tokenizers.decoders.WordPiece(prefix="##")
    tokenizer.add_special_tokens(list(names.values()))
    # For those who take the file elsewhere; it is not used here.
    sep, cls = ((names[role], pieces[names[role]]) for role in ("sep", "cls"))
    tokenizer.post_processor = tokenizers.processors.BertProcessing(sep, cls)
    return tokenizer.to_str().encode()


def _find_special(tokenizer: tokenizers.Tokenizer, config: Mapping[str, Any], vocabulary: Path) -> SpecialIds:
    """Ids of the special tokens."""
    pieces = tokenizer.get_vocab(with_added_tokens=True)
    ids = {role: pieces[name] for role, name in _names(config, pieces, vocabulary).items()}
    if len(set(ids.values())) < len(ids):
        raise ValueError(
            f"{vocabulary}: got special ids {ids}, expected five different ones, since they tell where a "
            f"document starts and ends; name others in {CONFIG_FILES[1]}"
        )
    return SpecialIds(**ids)


def _names(config: Mapping[str, Any], pieces: Mapping[str, int], vocabulary: Path) -> dict[str, str]:
    """How the special tokens are spelled, by role: as the configuration says, else in one of the usual
    ways."""
    names = {}
    for role, usual in SPELLINGS.items():
        configured = config.get(f"{role}_token")
        if isinstance(configured, dict):
            configured = configured["content"]
        tried = usual if configured is None else (configured,)
        found = [name for name in tried if name in pieces]
        if len(found) != 1:
            raise ValueError(
                f"{vocabulary}: the special token {role!r}: found {' and '.join(found) or 'none'} among "
                f"{len(pieces)} pieces, expected one of {', '.join(tried)}. Name it in {CONFIG_FILES[1]} beside "
                f'the file, as in {{"{role}_token": "{usual[0]}"}}, or add it to the vocabulary.'
            )
        names[role] = found[0]
    return names
