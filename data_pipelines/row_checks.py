"""Which rows of token ids a model can learn from. A row of other ids would train without an error: a look-up
beyond a table of embeddings takes its last row."""

from typing import Any

import numpy as np
from array_record.python.array_record_module import ArrayRecordReader

from data_pipelines.dataset_info import DatasetInfo
from data_pipelines.tokenizers.directory import SpecialIds

SHORTEST = 4  # ids; shorter rows may hold [CLS] and two [SEP] where documents are joined


class RowChecks:
    """Checks of the rows of one dataset: every id is below its vocabulary, every row has text, begins with
    [CLS] and ends, before its padding, with [SEP], as all packings write it (packing.py)."""

    def __init__(self, info: DatasetInfo):
        special = self._special = SpecialIds(**info.special_ids)
        self._vocab_size = info.vocab_size
        self._no_text = np.zeros(info.vocab_size, bool)  # by id; a row may be of [UNK] alone
        self._no_text[[special.pad, special.cls, special.sep, special.mask]] = True

    def check(self, ids_NL: np.ndarray, rows: list[int]) -> None:
        """Raises ValueError for the first bad row, with its number; `rows` are the numbers of all."""
        if not ids_NL.size:
            return
        if ids_NL.max() >= self._vocab_size or (ids_NL.dtype.kind == "i" and ids_NL.min() < 0):
            bad_NL = (ids_NL < 0) | (ids_NL >= self._vocab_size)
            index, place = np.argwhere(bad_NL)[0]
            raise ValueError(
                f"row {rows[index]} has the id {ids_NL[index, place]}, expected ids of the dataset's "
                f"vocabulary, 0 to {self._vocab_size - 1}"
            )
        if ids_NL.shape[1] >= SHORTEST:
            self._check_text(ids_NL, rows)
        self._check_ends(ids_NL, rows)

    def _check_text(self, ids_NL: np.ndarray, rows: list[int]) -> None:
        # Behind [CLS] there is text in nearly every row: only the others are looked at in full.
        (suspects,) = np.nonzero(self._no_text[ids_NL[:, 1]])
        without = suspects[self._no_text[ids_NL[suspects]].all(axis=1)] if len(suspects) else suspects
        if len(without):
            raise ValueError(
                f"row {rows[without[0]]} has special ids alone ({_first_ids(ids_NL[without[0]])}), expected "
                "text"
            )

    def _check_ends(self, ids_NL: np.ndarray, rows: list[int]) -> None:
        cls, sep, pad = self._special.cls, self._special.sep, self._special.pad
        bad = np.flatnonzero(ids_NL[:, 0] != cls)
        if len(bad):
            raise ValueError(
                f"row {rows[bad[0]]} begins with the id {ids_NL[bad[0], 0]} ({_first_ids(ids_NL[bad[0]])}), "
                f"expected [CLS], {cls}"
            )
        # Most rows end in [SEP] without padding: only in the others is the end looked for.
        (suspects,) = np.nonzero(ids_NL[:, -1] != sep)
        padding_N = (ids_NL[suspects, ::-1] != pad).argmax(axis=1)
        last_N = ids_NL[suspects, ids_NL.shape[1] - 1 - padding_N]
        bad = np.flatnonzero(last_N != sep)
        if len(bad):
            raise ValueError(
                f"row {rows[suspects[bad[0]]]} ends with the id {last_N[bad[0]]} before its padding, "
                f"expected [SEP], {sep}"
            )


def _first_ids(ids_L: np.ndarray) -> str:
    return ", ".join([*map(str, ids_L[:4].tolist()), "…"])


def check_number_of_rows(path: str, expected: int) -> None:
    """Raises ValueError if a file of rows has another number of them than its dataset records."""
    reader: Any = ArrayRecordReader(path)
    try:
        number = reader.num_records()
    finally:
        reader.close()
    if number != expected:
        raise ValueError(f"it has {number} rows, expected {expected}")
