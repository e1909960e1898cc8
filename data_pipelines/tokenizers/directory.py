"""A tokenizer directory: tokenizer_meta.json beside the model's file. It exists complete or not at all."""

import json
import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from data_pipelines.json_files import Maybe, read_bytes, read_json
from data_pipelines.whole_files import named_errors

META_FILE = "tokenizer_meta.json"
# Where a Hugging Face export had to add to its tokenizer.json, the file that the rows were made with.
TRAINED_FILE = "tokenizer_as_trained.json"
# Tokenizer format → the file of its model. The meta file names the format under "kind".
MODEL_FILES = {"sentencepiece": "spm.model", "tokenizers": "tokenizer.json"}


# Of a meta file. Each tokenizer format requires some of these keys.
META_FORM = {
    "kind": Maybe(str),
    "normalization": Maybe(str),
    "fingerprint": Maybe(str),
    "special_ids": Maybe(dict.fromkeys(("pad", "cls", "sep", "unk", "mask"), int)),
}
MAX_MODEL_BYTES = 1 << 28  # of a tokenizer's model; those of the largest vocabularies have 40 MB


class SpecialIds(NamedTuple):
    """Ids of the special tokens, which differ between tokenizers. Text never encodes to one, except to `unk`.

    Convert and compare by name, never by position: `SpecialTokens` in electra_jax/models/inputs.py has the
    same fields in another order (`SpecialTokens.from_ids` converts).
    """

    pad: int
    cls: int
    sep: int
    unk: int
    mask: int


def read_meta(directory: Path, required: Sequence[str] = ()) -> dict[str, Any] | None:
    """The contents of the directory's meta file, or None if it has no such file.

    Raises:
      ValueError: it is not JSON, or lacks one of the keys `required`.
    """
    path = directory / META_FILE
    if not path.is_file():
        return None
    meta = read_json(path, META_FORM, advice="Restore the file or make the tokenizer again.")
    missing = [key for key in required if key not in meta]
    if missing:
        raise ValueError(
            f"{path}: no {' and no '.join(missing)}, found {sorted(meta)}; restore it or make the tokenizer "
            "again"
        )
    return meta


def load_meta(directory: Path, required: Sequence[str] = ()) -> dict[str, Any]:
    """As `read_meta`, for a directory that must have a meta file.

    Raises:
      FileNotFoundError: it holds no tokenizer. ValueError: as `read_meta`.
    """
    meta = read_meta(directory, required)
    if meta is None:
        raise FileNotFoundError(
            f"{directory}: no tokenizer here, expected {META_FILE} and "
            f"{' or '.join(MODEL_FILES.values())}; train one, or adopt one with --from, by "
            "`python -m data_pipelines.tokenizer`"
        )
    return meta


def format_of(meta: Mapping[str, Any]) -> str:
    """The tokenizer format of a meta file, a key of MODEL_FILES.

    The oldest meta files name no format; they were written when SentencePiece was the only one.

    Raises:
      ValueError: a format that this version does not know.
    """
    tokenizer_format = meta.get("kind", "sentencepiece")
    if tokenizer_format not in MODEL_FILES:
        raise ValueError(
            f"{META_FILE}: got kind {tokenizer_format!r}, expected one of {', '.join(MODEL_FILES)}; another "
            "version wrote it, make the tokenizer again"
        )
    return tokenizer_format


def read_model(directory: Path, tokenizer_format: str) -> bytes:
    """The bytes of the model beside the meta file.

    Raises:
      FileNotFoundError: it is missing.
    """
    path = directory / MODEL_FILES[tokenizer_format]
    if tokenizer_format == "tokenizers" and (directory / TRAINED_FILE).is_file():
        path = directory / TRAINED_FILE
    if not path.is_file():
        raise FileNotFoundError(f"{path}: missing, though {META_FILE} exists; copy the directory again")
    return read_bytes(path, MAX_MODEL_BYTES)


def check_fingerprint(directory: Path, tokenizer_format: str, computed: str, recorded: str) -> None:
    """Raises ValueError when the model and the meta file of a directory do not belong together."""
    if computed != recorded:
        raise ValueError(
            f"{directory / MODEL_FILES[tokenizer_format]}: fingerprint {computed} but {META_FILE} records "
            f"{recorded}; one of the two files was changed or damaged, restore both from one copy or make "
            "the tokenizer again"
        )


def check_free(directory: Path) -> None:
    """Raises FileExistsError if `directory` holds something other than a tokenizer."""
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise FileExistsError(
            f"{directory}: exists and holds no tokenizer; choose another directory or remove it"
        )


def meta_bytes(meta: Mapping[str, Any]) -> bytes:
    """The meta file's contents."""
    return (json.dumps(meta, indent=1) + "\n").encode()


def write_directory(target: Path, files: Mapping[str, bytes]) -> None:
    """Make the directory `target` with `files`, name → contents.

    Raises:
      OSError: it cannot be written, or another process has made it in the meantime.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    with (
        named_errors(target),
        tempfile.TemporaryDirectory(prefix=f".{target.name}.", dir=target.parent) as temporary,
    ):
        unfinished = Path(temporary, target.name)
        unfinished.mkdir()  # unlike the temporary directory, with the permissions that the umask gives
        for name, data in files.items():
            (unfinished / name).write_bytes(data)
        os.rename(unfinished, target)
