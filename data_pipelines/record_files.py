"""The records of several ArrayRecord files, by number."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from array_record.python.array_record_module import ArrayRecordReader


class RecordFiles:
    """Reads many records at once, in any order. Files are opened when they are first read, and stay open.

    TFDS's reader does the same with three times the time, for each record, in Python.

    Args:
      files: paths.
      ends: for each file, the number of records in it and in those before it.
    """

    def __init__(self, files: Sequence[str], ends: Sequence[int]):
        self._files, self._ends = tuple(files), np.asarray(ends, np.int64)
        self._starts = np.concatenate([[0], self._ends[:-1]])
        self._readers: dict[int, Any] = {}

    def read(self, rows: Sequence[int]) -> list[bytes]:
        """The records with these numbers, in this order. Raises as ArrayRecord does, errors of many types."""
        numbers = np.asarray(rows, np.int64)
        file_of = np.searchsorted(self._ends, numbers, side="right")
        places = numbers - self._starts[file_of]
        if len(self._files) == 1:
            return self._reader(0).read(places.tolist()) if len(numbers) else []
        records: list[bytes] = [b""] * len(numbers)
        for file in np.unique(file_of).tolist():
            (chosen,) = np.nonzero(file_of == file)
            found = self._reader(file).read(places[chosen].tolist())
            for index, record in zip(chosen.tolist(), found, strict=True):
                records[index] = record
        return records

    def _reader(self, file: int) -> Any:
        if file not in self._readers:
            # Rows are read in a random order: so no rows ahead are read, and little else.
            self._readers[file] = ArrayRecordReader(
                self._files[file], options="readahead_buffer_size:0", file_reader_buffer_size=1 << 12
            )
        return self._readers[file]
