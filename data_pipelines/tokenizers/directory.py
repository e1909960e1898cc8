"""What every tokenizer directory is: tokenizer_meta.json beside the model's file, there whole or not at
all."""

import json
import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

META_FILE = "tokenizer_meta.json"
# The model where a Hugging Face export had to add to its tokenizer.json: this one is what rows were made
# with.
TRAINED_FILE = "tokenizer_as_trained.json"
MODEL_FILES = {
    "sentencepiece": "spm.model",
    "tokenizers": "tokenizer.json",
}  # kind → file; the meta file names the kind


class SpecialIds(NamedTuple):
    """Ids that carry structure, which differ between tokenizers; no text encodes to one of them, except to
    `unk`."""

    pad: int
    cls: int
    sep: int
    unk: int
    mask: int


def read_meta(directory: Path, required: Sequence[str] = ()) -> dict[str, Any] | None:
    """The contents of the directory's meta file, None if it has none.

    Raises:
      ValueError: it is no JSON, or lacks one of the keys `required`.
    """
    path = directory / META_FILE
    if not path.is_file():
        return None
    try:
        meta = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(
            f"{path}: not valid JSON ({error}); restore the file or make the tokenizer again"
        ) from error
    missing = [key for key in required if key not in meta]
    if missing:
        raise ValueError(
            f"{path}: no {' and no '.join(missing)}, found {sorted(meta)}; restore it or make the tokenizer "
            "again"
        )
    return meta


def load_meta(directory: Path, required: Sequence[str] = ()) -> dict[str, Any]:
    """As `read_meta`, of a directory that must have one.

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


def kind_of(meta: Mapping[str, Any]) -> str:
    """Which of MODEL_FILES a meta file speaks of. It names no kind where it was written when SentencePiece
    was the only one.

    Raises:
      ValueError: a kind that this version does not know.
    """
    kind = meta.get("kind", "sentencepiece")
    if kind not in MODEL_FILES:
        raise ValueError(
            f"{META_FILE}: got kind {kind!r}, expected one of {', '.join(MODEL_FILES)}; it was written by "
            "another version, make the tokenizer again"
        )
    return kind


def read_model(directory: Path, kind: str) -> bytes:
    """The bytes of the model beside the meta file.

    Raises:
      FileNotFoundError: it is missing.
    """
    path = directory / MODEL_FILES[kind]
    if kind == "tokenizers" and (directory / TRAINED_FILE).is_file():
        path = directory / TRAINED_FILE
    if not path.is_file():
        raise FileNotFoundError(f"{path}: missing, though {META_FILE} is there; copy the directory again")
    return path.read_bytes()


def check_fingerprint(directory: Path, kind: str, computed: str, recorded: str) -> None:
    """Raises ValueError when the model and the meta file of a directory do not belong together."""
    if computed != recorded:
        raise ValueError(
            f"{directory / MODEL_FILES[kind]}: fingerprint {computed} but {META_FILE} records {recorded}; "
            "one of the two files was changed or damaged, restore both from one copy or make the tokenizer "
            "again"
        )


def check_free(directory: Path) -> None:
    """Raises FileExistsError where something other than a tokenizer is in the way."""
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise FileExistsError(
            f"{directory}: exists and holds no tokenizer; choose another directory or remove it"
        )


def meta_bytes(meta: Mapping[str, Any]) -> bytes:
    """The meta file's contents."""
    return (json.dumps(meta, indent=1) + "\n").encode()


def write_directory(target: Path, files: Mapping[str, bytes]) -> None:
    """Make the directory `target` with `files`, name → contents; it appears whole or not at all.

    Raises:
      OSError: it cannot be written, or another process has made it meanwhile.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    try:
        temporary.chmod(0o755)
        for name, data in files.items():
            (temporary / name).write_bytes(data)
        os.rename(temporary, target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
