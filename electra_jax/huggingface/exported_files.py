"""What a directory must be like before `transformers` may read it: the files of an export and no others.

`transformers` follows many files in a directory that it is given: code beside the weights, code in other
repositories that config.json names, adapters that name another model. So `verify` compares all code with the
copies in custom_code/, and lets `transformers` see only a directory with the known files, in which the code
is this project's own.
"""

import contextlib
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from data_pipelines.command_errors import shorten
from data_pipelines.json_files import read_json
from data_pipelines.tokenizers.directory import TRAINED_FILE
from electra_jax.huggingface.checks import Check, Reference
from electra_jax.huggingface.contents import FILES
from electra_jax.huggingface.export import (
    DECODER_FILE,
    DETECTOR_FILE,
    HEAD_FILE,
    REFERENCE_FILE,
    WEIGHTS_FILE,
    detector_index,
)
from electra_jax.huggingface.tokenizer import CONFIG_FILE as TOKENIZER_CONFIG_FILE

CUSTOM_CODE = Path(__file__).with_name("custom_code")
ARRAY_FILES = (WEIGHTS_FILE, HEAD_FILE, DECODER_FILE)
RECORDED = ("input_ids", "attention_mask", "positions", "hidden_states")  # arrays of every verification file
NOT_SHOWN = {REFERENCE_FILE, TRAINED_FILE}  # that `transformers` does not need


def check_code(directory: Path) -> Check:
    """Whether every file of code, in folders too, is one of custom_code/, byte for byte."""
    ours = {path.name: path.read_bytes() for path in CUSTOM_CODE.glob("modeling_*.py")}
    found = sorted(directory.rglob("*.py"))
    names = [path.relative_to(directory).as_posix() for path in found]
    other = [
        name
        for path, name in zip(found, names, strict=True)
        if name not in ours or not path.is_file() or path.read_bytes() != ours[name]
    ]
    detail = f"not this project's: {shorten(other)}" if other else f"{len(found)} files, as this project has"
    return Check("code", not other, detail)


def check_tokenizer_names_no_code(directory: Path) -> Check:
    """Whether tokenizer_config.json leaves the choice of classes to `transformers`."""
    path, name = directory / TOKENIZER_CONFIG_FILE, f"code of {TOKENIZER_CONFIG_FILE}"
    if not path.is_file():
        return Check(name, False, "the file is missing")
    try:
        config = read_json(path, dict)
    except ValueError as error:
        return Check(name, False, str(error))
    detail = f"names code: {config['auto_map']!r:.200}" if "auto_map" in config else "names none"
    return Check(name, "auto_map" not in config, detail)


def check_detector(directory: Path, reference: Reference) -> list[Check]:
    """Whether the list of a detector's arrays, if there is one, names only the exported files and arrays."""
    path = directory / DETECTOR_FILE
    if not path.exists():
        return []
    try:
        is_own = read_json(path, dict) == detector_index(reference.notes["digests"])
    except (OSError, ValueError) as error:
        return [Check(DETECTOR_FILE, False, str(error))]
    return [Check(DETECTOR_FILE, is_own, "as exported" if is_own else "is not what was exported")]


def check_reference(reference: Reference) -> Check:
    """Whether a verification file records something to compare: digests of the weights, and outputs."""
    wanted, arrays = reference.notes["digests"], reference.arrays
    foreign = [name for name in wanted if name not in ARRAY_FILES]
    problems = []
    if foreign:
        problems.append(f"has digests of {shorten(list(map(repr, foreign)))}, expected some of {ARRAY_FILES}")
    if not wanted.get(WEIGHTS_FILE):
        problems.append(f"has no digests of {WEIGHTS_FILE}")
    missing = [name for name in RECORDED if name not in arrays or not arrays[name].size]
    if missing:
        problems.append(f"has no {', '.join(missing)}")
    if not all(map(_is_line, reference.notes["lines"])):
        problems.append("has lines that are not pairs of a text and its ids")
    return Check(REFERENCE_FILE, not problems, "; ".join(problems) or f"{len(arrays)} arrays to compare with")


def _is_line(line: list[Any]) -> bool:
    return len(line) == 2 and isinstance(line[0], str) and isinstance(line[1], list)


@contextlib.contextmanager
def only_known_files(directory: Path) -> Iterator[Path]:
    """Context with a temporary directory that holds the known files of an export, as links, and this
    project's code where the export has code."""
    with tempfile.TemporaryDirectory(prefix="verified-model-") as temporary:
        for path in directory.glob("*.py"):
            if (CUSTOM_CODE / path.name).is_file():
                shutil.copyfile(CUSTOM_CODE / path.name, Path(temporary, path.name))
        for name in FILES.keys() - NOT_SHOWN:
            if (directory / name).is_file():
                link = Path(temporary, name)
                link.parent.mkdir(exist_ok=True)
                link.symlink_to((directory / name).resolve())
        yield Path(temporary)
