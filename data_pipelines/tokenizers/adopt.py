"""Make a tokenizer directory of an existing vocabulary: a Hugging Face tokenizer.json, a WordPiece vocab.txt
such as ELECTRA's own, or another tokenizer directory."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tokenizers

from data_pipelines.json_files import parse_json, read_bytes, read_json
from data_pipelines.tokenizers.directory import (
    MAX_MODEL_BYTES,
    META_FILE,
    MODEL_FILES,
    SpecialIds,
    check_free,
    format_of,
    meta_bytes,
    read_meta,
    read_model,
    write_directory,
)
from data_pipelines.tokenizers.hugging_face_files import (
    CONFIG_FILES,
    check_added_tokens,
    check_is_wordpiece,
    configured_lowercase,
    read_configs,
    with_class_settings,
)
from data_pipelines.tokenizers.huggingface import (
    FORMAT,
    TOKENIZER_FORM,
    fingerprint_of,
    num_ids,
    tokenizer_errors,
)
from data_pipelines.tokenizers.load import load_tokenizer
from data_pipelines.tokenizers.wordpiece import BertText, wordpiece_json

TOKENIZER_FILE, VOCAB_FILE = MODEL_FILES[FORMAT], "vocab.txt"
NOT_A_TOKENIZER = "Expected a tokenizer.json of the library tokenizers; check the path."
SPELLINGS = {
    "pad": ("[PAD]", "<pad>"),
    "cls": ("[CLS]", "<s>"),
    "sep": ("[SEP]", "</s>"),
    "unk": ("[UNK]", "<unk>"),
    "mask": ("[MASK]", "<mask>"),
}


class LetterCaseError(ValueError):
    """A vocab.txt of unknown letter case; the message names the file that can specify it."""


def adopt_tokenizer(
    source: str | os.PathLike, directory: str | os.PathLike, *, lowercase: bool | None
) -> None:
    """Make the tokenizer directory `directory` from an existing vocabulary, complete or not at all.

    Does nothing if `directory` already holds that tokenizer.

    Args:
      source: a WordPiece vocab.txt, a tokenizer.json, a Hugging Face directory that holds one of them, or a
        tokenizer directory of this project, which is copied.
      lowercase: whether a vocab.txt is of lower-case text; None if a tokenizer_config.json beside it
        specifies that. A tokenizer.json specifies it itself, or for BERT's and ELECTRA's classes of
        transformers, the tokenizer_config.json beside it does.

    Raises:
      FileNotFoundError: no such source, or nothing in it.
      FileExistsError: `directory` holds something else.
      LetterCaseError: `lowercase` is missing. ValueError: it is given where the source specifies it, a
        vocabulary lacks one of the five special tokens, files beside a vocab.txt add tokens to it or name a
        tokenizer that is not BERT's WordPiece, or a file has another form.
    """
    place_tokenizer(tokenizer_files(Path(source), lowercase), Path(directory), f"that of {source}")


def tokenizer_files(source: Path, lowercase: bool | None) -> dict[str, bytes]:
    """Name → contents of the files of a tokenizer directory for an existing vocabulary; arguments and errors
    as `adopt_tokenizer`."""
    if not source.exists():
        raise FileNotFoundError(
            f"{source}: does not exist, expected a vocab.txt, a tokenizer.json or a directory with one of "
            "them; correct the path"
        )
    meta = read_meta(source) if source.is_dir() else None
    if meta is None:
        return _files_of(_vocabulary_in(source), lowercase)
    if lowercase is not None:
        raise ValueError(
            f"{source}: got lowercase={lowercase} for a tokenizer that specifies letter case itself; leave "
            "it out"
        )
    return _own_files(source)


def place_tokenizer(files: Mapping[str, bytes], target: Path, wanted_name: str) -> None:
    """Make the tokenizer directory `target` of its files; nothing if it already holds that tokenizer.

    Raises:
      FileExistsError: it holds something else; the message calls the tokenizer `wanted_name`.
    """
    wanted = parse_json(files[META_FILE], {"fingerprint": str}, META_FILE)["fingerprint"]
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
            f"{target}: holds a tokenizer of fingerprint {existing['fingerprint']}, expected {wanted}, "
            f"{wanted_name}; choose another directory, or remove it"
        )


def declared_length(directory: Path) -> int | None:
    """model_max_length, in tokens, of the Hugging Face files in a directory; None if they give none."""
    path = directory / CONFIG_FILES[0]
    if not path.is_file():
        return None
    length = read_json(path, dict).get("model_max_length")
    return length if type(length) is int and length > 0 else None


def _own_files(source: Path) -> dict[str, bytes]:
    """The two files of a tokenizer directory, checked. Other files in it, such as weights, are left out."""
    load_tokenizer(str(source))
    tokenizer_format = format_of(read_meta(source))
    return {
        MODEL_FILES[tokenizer_format]: read_model(source, tokenizer_format),
        META_FILE: (source / META_FILE).read_bytes(),
    }


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
    config = read_configs(vocabulary.parent)
    if vocabulary.suffix == ".json":
        if lowercase is not None:
            raise ValueError(
                f"{vocabulary}: got lowercase={lowercase}, but the file specifies letter case itself; leave "
                "it out"
            )
        model_bytes = read_bytes(vocabulary, MAX_MODEL_BYTES)
        parse_json(model_bytes, TOKENIZER_FORM, str(vocabulary), NOT_A_TOKENIZER)
        model_bytes = with_class_settings(model_bytes, vocabulary.parent, config)
    else:
        model_bytes = _wordpiece(vocabulary, config, _agreed_lowercase(vocabulary, config, lowercase))
    with tokenizer_errors(str(vocabulary)):
        tokenizer = tokenizers.Tokenizer.from_str(model_bytes.decode())
        num_pieces = num_ids(tokenizer)
        tokenizer.encode("a")  # some damage shows only here
    return files_of_model(model_bytes, num_pieces, _find_special(tokenizer, config, vocabulary))


def files_of_model(model_bytes: bytes, num_pieces: int, special: SpecialIds) -> dict[str, bytes]:
    """Name → contents of the files of a tokenizer directory for a tokenizer.json of `num_pieces` ids."""
    meta = {
        "kind": FORMAT,
        "num_pieces": num_pieces,
        "vocab_size": num_pieces,
        "special_ids": special._asdict(),
        "fingerprint": fingerprint_of(model_bytes, special._asdict()),
    }
    return {TOKENIZER_FILE: model_bytes, META_FILE: meta_bytes(meta)}


def _agreed_lowercase(vocabulary: Path, config: Mapping[str, Any], lowercase: bool | None) -> bool:
    """`lowercase`, or what the configuration beside the vocabulary gives; at least one is needed, and both
    must agree."""
    configured = configured_lowercase(vocabulary.parent, config)
    if lowercase is None and configured is None:
        raise LetterCaseError(
            f"{vocabulary}: a list of pieces does not tell whether text is lower-cased. Put "
            '{"do_lower_case": true} (an uncased vocabulary) or {"do_lower_case": false} (a cased one) into '
            f"{vocabulary.parent / CONFIG_FILES[0]}"
        )
    if None not in (lowercase, configured) and lowercase != configured:
        raise ValueError(
            f"{vocabulary}: got lowercase={lowercase}, expected {configured}, as do_lower_case in "
            f"{CONFIG_FILES[0]} beside it; leave it out, or correct that file"
        )
    return configured if lowercase is None else lowercase


def _wordpiece(vocabulary: Path, config: Mapping[str, Any], lowercase: bool) -> bytes:
    """The tokenizer.json of BERT's tokenizer for a vocab.txt: one piece a line, ids from 0."""
    check_is_wordpiece(vocabulary, config)
    try:
        lines = read_bytes(vocabulary, MAX_MODEL_BYTES).decode("utf-8-sig").replace("\r\n", "\n").split("\n")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{vocabulary}: got a file that is not UTF-8 ({error}), expected a vocab.txt, one piece a line; "
            "check the path"
        ) from error
    pieces = {piece: number for number, piece in enumerate(lines if lines[-1] else lines[:-1])}
    check_added_tokens(vocabulary, config, pieces)
    names = _names(config, pieces, vocabulary)
    text = BertText(lowercase, config.get("strip_accents"), config.get("tokenize_chinese_chars", True))
    return wordpiece_json(pieces, names, text)


def _find_special(tokenizer: tokenizers.Tokenizer, config: Mapping[str, Any], vocabulary: Path) -> SpecialIds:
    """Ids of the special tokens."""
    pieces = tokenizer.get_vocab(with_added_tokens=True)
    ids = {role: pieces[name] for role, name in _names(config, pieces, vocabulary).items()}
    if len(set(ids.values())) < len(ids):
        raise ValueError(
            f"{vocabulary}: got special ids {ids}, expected five different ones, since they mark where a "
            f"document starts and ends; name others in {CONFIG_FILES[1]}"
        )
    return SpecialIds(**ids)


def _names(config: Mapping[str, Any], pieces: Mapping[str, int], vocabulary: Path) -> dict[str, str]:
    """Role → spelling of the special tokens: from the configuration, else one of the usual SPELLINGS."""
    names = {}
    for role, usual in SPELLINGS.items():
        configured = config.get(f"{role}_token")
        if isinstance(configured, dict):
            configured = configured.get("content")
        tried = usual if configured is None else (configured,)
        found = [name for name in tried if name in pieces]
        if len(found) != 1:
            raise ValueError(
                f"{vocabulary}: the special token {role!r}: found {' and '.join(found) or 'none'} among "
                f"{len(pieces)} pieces, expected one of {', '.join(tried)}. Name it in {CONFIG_FILES[1]} "
                f'beside the file, as in {{"{role}_token": "{usual[0]}"}}, or add it to the vocabulary.'
            )
        names[role] = found[0]
    return names
