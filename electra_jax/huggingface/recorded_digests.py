"""What an export records of its arrays: whether they are still those that were exported."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from data_pipelines.command_errors import shorten
from data_pipelines.json_files import Maybe, parse_json
from electra_jax.huggingface.array_files import digests, read_metadata
from electra_jax.huggingface.export import REFERENCE_FILE

DIGESTS = "digests"  # key of the notes of REFERENCE_FILE: file → array → digest
ADVICE_EXPORT = (
    "Export the model again, or copy it again. If you changed its weights yourself, remove "
    f"{REFERENCE_FILE}, which describes the old ones."
)


def changed_arrays(arrays: Mapping[str, np.ndarray], recorded: Mapping[str, str]) -> list[str]:
    """A phrase for each array that is not one of those that were exported; [] if all are, and no other."""
    found = digests(arrays)
    problems = []
    for name in sorted(found.keys() | recorded.keys()):
        if name not in found:
            problems.append(f"{name} is missing")
        elif name not in recorded:
            problems.append(f"{name} is new")
        elif found[name] != recorded[name]:
            problems.append(f"{name} is not what was exported")
    return problems


def check_as_exported(directory: Path, files: Mapping[str, Mapping[str, np.ndarray]]) -> None:
    """Compare the arrays of a model with what was recorded in its directory. A model that is no export has no
    such record, and passes.

    Args:
      files: name → its arrays.

    Raises:
      ValueError: a file was changed or damaged after the export, or the record cannot be read.
    """
    path = directory / REFERENCE_FILE
    if not path.is_file():
        return
    form = {DIGESTS: Maybe({str: {str: str}})}
    notes = parse_json(read_metadata(path).get("notes", "{}"), form, f"{path}, notes", ADVICE_EXPORT)
    recorded = notes.get(DIGESTS, {})
    for name in files.keys() & recorded.keys():
        if problems := changed_arrays(files[name], recorded[name]):
            raise ValueError(
                f"{directory / name}: damaged or changed since its export: {shorten(problems)}. "
                f"{ADVICE_EXPORT}"
            )
