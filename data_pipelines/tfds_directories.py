"""Opening a prepared TensorFlow Dataset that may come from anybody.

Its features.json names classes, and the library imports the module of each, any that Python finds. Only
the library's own are let through.
"""

import os
from pathlib import Path
from typing import Any

from data_pipelines.json_files import read_json
from data_pipelines.plain_names import check_plain_name

FEATURES_FILE, CLASS_KEYS = "features.json", ("pythonClassName", "type")
OWN = "tensorflow_datasets."


def open_directory(directory: str | Path) -> Any:
    """TFDS's builder of a prepared dataset.

    Raises:
      OSError: a file cannot be opened.
      ValueError: a file is damaged, or names code or files that are not of the dataset.
    """
    import tensorflow_datasets as tfds  # slow to import

    path = Path(directory, FEATURES_FILE)
    if path.is_file():
        _check_classes(read_json(path, dict, advice="Copy or prepare the dataset again."), path)
    try:
        builder = tfds.builder_from_directory(directory)
        paths = [str(path) for split in builder.info.splits.values() for path in split.filepaths]
    except Exception as error:  # of protocol buffers, and many more
        reason = f"{type(error).__name__}: {error}".partition("\n")[0][:200]
        kind = OSError if isinstance(error, OSError) else ValueError
        raise kind(
            f"{directory}: dataset_info.json or features.json is missing or damaged: {reason}. Copy or "
            "prepare the dataset again."
        ) from error
    for name in (os.path.relpath(path, directory) for path in paths):
        check_plain_name(name, Path(directory, "dataset_info.json"))
    return builder


def _check_classes(value: Any, path: Path) -> None:
    """Raises ValueError if a description of features names a class that is not the library's."""
    children = value.values() if isinstance(value, dict) else value
    if isinstance(value, dict):
        for key in CLASS_KEYS:
            name = value.get(key, OWN)
            if isinstance(name, str) and "." in name and not name.startswith(OWN):
                raise ValueError(
                    f"{path}: names the class {name!r:.80}, whose module would be imported, expected one of "
                    "TensorFlow Datasets. Prepare the dataset again, with its own features."
                )
    for child in children:
        if isinstance(child, dict | list):
            _check_classes(child, path)
