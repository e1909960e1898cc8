"""How often each token is in a dataset's training rows: token_counts.npy, int64 [vocab_size], by id.

The corpus builder counts the tokens of each file of rows and adds up those of the training split. Those of a
dataset that an earlier version built are counted when a run first reads it, and kept beside the run.
"""

import sys
from pathlib import Path

import numpy as np

from data_pipelines.array_files import save_array
from data_pipelines.dataset_cache import local_dataset
from data_pipelines.dataset_directory import TOKEN_COUNTS_FILE
from data_pipelines.dataset_info import DatasetInfo
from data_pipelines.mixture import DatasetSource, Mixture, make_sequential

MAX_TOKENS = 2**25  # read of a dataset without counts: rows at equal distances
TOKENS_AT_ONCE = 2**22  # read together: 8,192 rows of 512


def mixture_counts(mixture: Mixture, cache: Path) -> np.ndarray:
    """Counts by id, float64 [vocab_size], of the tokens that a mixture reads; special tokens included.

    The datasets' frequencies are weighted as the mixture weights their rows. The sum of the counts is the
    number of tokens in all datasets. Of a single dataset these are its own counts.

    Args:
      cache: directory for the counts of datasets that have none.

    Raises:
      OSError: rows cannot be read; names the file.
    """
    counts, per_row = [], 0.0
    for source, info in zip(mixture.sources, mixture.infos, strict=True):
        counts.append(_dataset_counts(source, info, cache))
        per_row = per_row + source.weight * counts[-1] / info.splits["train"]["rows"]
    return per_row * (sum(one.sum() for one in counts) / per_row.sum())


def _dataset_counts(source: DatasetSource, info: DatasetInfo, cache: Path) -> np.ndarray:
    """Counts of one dataset: recorded in it or in `cache`, or made now."""
    kept = cache / f"token_counts-{info.fingerprint[:16]}.npy"
    recorded = Path(local_dataset(source.path), TOKEN_COUNTS_FILE)
    for path in (recorded, kept):
        counts = _read(path)
        if counts is not None and _is_whole(counts, info):
            return counts
    counts = _count(source, info, is_damaged=recorded.exists())
    cache.mkdir(parents=True, exist_ok=True)
    save_array(kept, counts)
    return counts


def _read(path: Path) -> np.ndarray | None:
    """None if there is no such file, or if it is damaged."""
    try:
        counts = np.load(path, mmap_mode="r")  # so that a header that lies about the size takes no memory
        return np.array(counts) if isinstance(counts, np.ndarray) else None
    except Exception:  # for a damaged header NumPy raises errors of many types, such as tokenize.TokenError
        return None


def _is_whole(counts: np.ndarray, info: DatasetInfo) -> bool:
    """Whether they add up to the number of tokens in the training rows."""
    total = info.splits["train"]["rows"] * info.sequence_length
    if counts.shape != (info.vocab_size,) or counts.dtype not in (np.int64, np.float64):
        return False
    is_exact = counts.dtype == np.int64  # others are scaled
    found = counts.sum()
    return bool((counts >= 0).all() and (found == total if is_exact else np.isclose(found, total, 1e-9)))


def _count(source: DatasetSource, info: DatasetInfo, *, is_damaged: bool) -> np.ndarray:
    """Counts from the training rows, at most MAX_TOKENS of them, scaled to all rows."""
    rows = make_sequential([DatasetSource(source.path)])
    every = max(1, -(-rows.num_rows * rows.sequence_length // MAX_TOKENS))
    chosen = np.arange(0, rows.num_rows, every)
    reason = f"it has no {TOKEN_COUNTS_FILE}, since an earlier version built it"
    if is_damaged:
        reason = f"its {TOKEN_COUNTS_FILE} is damaged or of other rows"
    print(
        f"{source.path}: {reason}. Counting the "
        f"tokens of {len(chosen):,} of its {rows.num_rows:,} training rows, once for this run.",
        file=sys.stderr,
    )
    counts = np.zeros(info.vocab_size)
    at_once = max(1, TOKENS_AT_ONCE // rows.sequence_length)
    for start in range(0, len(chosen), at_once):
        part = chosen[start : start + at_once]
        ids = rows.read(np.zeros(len(part), np.int32), part)
        counts += np.bincount(ids.ravel(), minlength=info.vocab_size)
    return counts * (rows.num_rows / len(chosen))
