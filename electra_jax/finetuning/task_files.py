"""Fingerprints of the files of a task, by which an experiment knows them when they have moved."""

import hashlib
from pathlib import Path
from typing import Any

from data_pipelines.tasks.load import SPLITS, TFDS_PREFIX, paths_of


def fingerprint_files(task: dict[str, Any]) -> dict[str, list[str | None]]:
    """Split → the fingerprint of each file that config.task names; None for one that cannot be read, which
    `load_task` reports. A TFDS dataset is its own name."""
    return {split: [_fingerprint(path) for path in paths_of(task[split])] for split in SPLITS}


def same_files(fingerprints: dict[str, list[str | None]], *, can_hold_out: bool = True) -> list[str]:
    """A sentence for each split to evaluate on that shares a file with the training split.

    Args:
      can_hold_out: whether the task allows config.task.validation_fraction.
    """
    train = set(fingerprints["train"]) - {None}
    remedy = "Give another file."
    if can_hold_out:
        remedy = (
            "To hold out a part of the training examples, pass --config.task.validation_fraction=0.1 in its "
            "place."
        )
    return [
        f"config.task.{split} has a file of config.task.train: its score says nothing about new text. "
        f"{remedy}"
        for split, files in fingerprints.items()
        if split != "train" and train & set(files) and not all(map(_is_dataset, train & set(files)))
    ]


def _is_dataset(fingerprint: str) -> bool:
    return fingerprint.startswith(TFDS_PREFIX)


def _fingerprint(path: str) -> str | None:
    """A hash of the bytes and of the extensions, which decide how the file is read."""
    if path.startswith(TFDS_PREFIX):
        return path
    try:
        with open(path, "rb") as file:
            content = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return None
    name = path.lower().removesuffix(".gz")
    form = Path(name).suffix.removeprefix(".") + ".gz" * path.lower().endswith(".gz")
    return hashlib.sha256(f"{form}\0{content}".encode("utf-8", "surrogateescape")).hexdigest()
