"""One dataset of rows, opened: its files, and its rows by number."""

import bisect
import dataclasses
import functools
import itertools
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from data_pipelines.dataset_cache import local_dataset
from data_pipelines.dataset_info import INFO_FILE, load_dataset_info
from data_pipelines.record_files import RecordFiles
from data_pipelines.row_checks import RowChecks, check_number_of_rows
from data_pipelines.row_decoding import FEATURE, decode_rows
from data_pipelines.tfds_directories import open_directory


@dataclasses.dataclass(frozen=True)
class DatasetSource:
    """One dataset of a mixture."""

    path: str  # its directory, or its URL in a bucket (dataset_cache.py)
    weight: float = 1.0  # its share of the examples, relative to the other weights
    split: str = "train"
    fingerprint: str | None = None  # of its content, by which `continue_sources` knows it; None: by its path
    order: int | None = None  # number of its shuffled order in the run; None: its place in the mixture
    start: int = 0  # examples of that order that were read before (`continue_sources`)

    @property
    def label(self) -> str:
        """Its name in errors and reports."""
        return f"{self.path} (split {self.split!r})"


class OpenedDataset:
    """An opened DatasetSource: rows by number; errors name the file."""

    def __init__(self, described: DatasetSource):
        self.described = described
        directory = local_dataset(described.path)
        self.info = load_dataset_info(directory)
        builder = open_directory(directory)
        splits = builder.info.splits
        if described.split not in splits or not splits[described.split].num_examples:
            sizes = {name: split.num_examples for name, split in splits.items()}
            raise ValueError(
                f"dataset {described.path}: split {described.split!r} is missing or empty; its splits and "
                f"their rows are {sizes}. Choose another split in config.data, or build from more text."
            )
        features = builder.info.features
        if FEATURE not in features or len(features[FEATURE].shape) != 1:
            raise ValueError(
                f"dataset {described.path}: expected a feature {FEATURE!r} of shape (sequence_length,), "
                f"got {features}. Build it with data_pipelines.corpus."
            )
        (self.sequence_length,) = features[FEATURE].shape
        if self.sequence_length != self.info.sequence_length:
            raise ValueError(
                f"dataset {described.path}: {INFO_FILE} records rows of {self.info.sequence_length} ids, "
                f"features.json rows of {self.sequence_length}. Copy or build the dataset again."
            )
        self.dtype = np.dtype(features[FEATURE].np_dtype)  # .dtype would import TensorFlow
        self.files = [instruction.filename for instruction in splits[described.split].file_instructions]
        taken = [instruction.take for instruction in splits[described.split].file_instructions]
        self.file_ends = list(itertools.accumulate(taken))  # file f: rows file_ends[f-1] … file_ends[f]-1
        self.num_rows = self.file_ends[-1]
        self._check_described(taken)
        self.checks = RowChecks(self.info)
        self._features = features
        self._records = RecordFiles(self.files, self.file_ends)
        self._check_files(taken)

    def _check_described(self, sizes: Sequence[int]) -> None:
        """Raises ValueError unless corpus.json and TFDS's files name the same files, of as many rows."""
        split = self.info.splits.get(self.described.split, {})
        recorded = dict(zip(split.get("shards", ()), split.get("rows_by_shard", ()), strict=False))
        found = {Path(path).name: size for path, size in zip(self.files, sizes, strict=True)}
        if recorded != found:
            raise ValueError(
                f"dataset {self.described.label}: {INFO_FILE} records the files and rows {recorded}, "
                f"dataset_info.json {found}. Copy or build the dataset again."
            )

    def _check_files(self, sizes: Sequence[int]) -> None:
        """Read the first and last row of every file, and how many it has, so that damage is found before the
        first step."""
        starts = [0, *self.file_ends[:-1]]
        self.read(sorted({*starts, *(end - 1 for end in self.file_ends)}))
        for path, size in zip(self.files, sizes, strict=True):
            try:
                check_number_of_rows(path, size)
            except Exception as error:  # ArrayRecord raises several
                raise self._unreadable(path, error) from error

    def _unreadable(self, path: str, error: Exception) -> OSError:
        return OSError(
            f"dataset {self.described.label}: cannot read {path}: {error}. The file is missing, truncated, "
            "damaged or from another dataset; copy it again or rebuild the dataset."
        )

    def read(self, rows: list[int]) -> np.ndarray:
        """Token ids [n, L] of the given row numbers, in that order."""
        if rows and not 0 <= min(rows) <= max(rows) < self.num_rows:
            raise IndexError(
                f"dataset {self.described.label} has rows 0 … {self.num_rows - 1}, got {min(rows)} … "
                f"{max(rows)}."
            )
        try:
            return self._decode(rows)
        except Exception as error:
            # One bad file fails the whole batch without being named: read file by file.
            file_of = functools.partial(bisect.bisect_right, self.file_ends)
            for number, of_file in itertools.groupby(sorted(rows), file_of):
                chosen = list(of_file)
                try:
                    self._decode(chosen)
                except Exception as cause:
                    raise self._unreadable(self.files[number], cause) from cause
            raise OSError(
                f"dataset {self.described.label}: reading rows {rows[:8]}… failed: {error}"
            ) from error

    def _decode(self, rows: list[int]) -> np.ndarray:
        records = self._records.read(rows)
        ids = decode_rows(records, self.sequence_length, self.dtype)
        if ids is None:
            # TFDS reads every form of an example, one after the other, to rows of the right length.
            examples = [self._features.deserialize_example_np(record) for record in records]
            ids = np.stack([example[FEATURE] for example in examples]).astype(self.dtype)
        self.checks.check(ids, rows)
        return ids
