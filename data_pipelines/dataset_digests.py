"""Whether the rows of a dataset are those that were built: every row is read, and its digest compared.

A run only reads the first and the last row of each file when it starts. A file that was replaced by another
whole one, of as many rows and bytes, is found here alone.
"""

import hashlib
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np

from data_pipelines.dataset_cache import local_dataset
from data_pipelines.dataset_info import DatasetInfo, fingerprint_of, load_dataset_info
from data_pipelines.mixture import DatasetSource, make_sequential

TOKENS_AT_ONCE = 2**22  # read together: 8,192 rows of 512
NO_ROWS = hashlib.sha256().hexdigest()
MOST_GUESSES = 20_000  # a second or two for some files, a minute for thousands


def check_all_rows(path: str, on_rows: Callable[[int], None] = lambda rows: None) -> int:
    """Read every row of a dataset and compare its digests with the recorded ones; the number of rows.

    Args:
      path: its directory, or its URL in a bucket.
      on_rows: called with the number of rows that were just read.

    Raises:
      OSError: a row cannot be read, is no row of text (row_checks.py), or is another one than was built;
        names the file.
    """
    digests: dict[str, dict[str, str]] = {}
    number = 0
    info = load_dataset_info(local_dataset(path))
    for split in info.splits:
        mixture = make_sequential([DatasetSource(path, split=split)])
        found = digests[split] = {}
        at_once = max(1, TOKENS_AT_ONCE // mixture.sequence_length)
        ends = np.cumsum(info.splits[split]["rows_by_shard"]).tolist()
        for name, start, end in zip(info.splits[split]["shards"], [0, *ends], ends, strict=False):
            digest = hashlib.sha256()
            for first in range(start, end, at_once):
                rows = np.arange(first, min(first + at_once, end))
                digest.update(mixture.read(np.zeros(len(rows), np.int32), rows).tobytes())
                on_rows(len(rows))
            found[name] = digest.hexdigest()
            _compare(path, name, found[name], info.splits[split].get("digests", {}).get(name))
        number += mixture.num_rows
    _compare_fingerprint(path, info, digests)
    return number


def _compare(path: str, name: str, found: str, recorded: str | None) -> None:
    """`recorded`: None in datasets of earlier versions, which have only the fingerprint of all files."""
    if recorded is not None and found != recorded:
        raise OSError(
            f"dataset {path}: the rows of {name} are not those that were built: their digest is "
            f"{found[:12]}…, corpus.json records {recorded[:12]}…. The file is of another dataset or was "
            "changed; copy it again or rebuild the dataset."
        )


def _compare_fingerprint(path: str, info: DatasetInfo, digests: Mapping[str, Mapping[str, str]]) -> None:
    """Each file whose digest is recorded has been compared already."""
    lists = {split: list(found.values()) for split, found in digests.items()}
    own = info.tokenizer_fingerprint, info.sequence_length, info.packing
    if all("without_rows" in split for split in info.splits.values()):
        places = {split: described["without_rows"] for split, described in info.splits.items()}
        candidates = iter([_with_empty_files(lists, places)])
    elif all(set(split["shards"]) <= set(split.get("digests", ())) for split in info.splits.values()):
        return  # of an earlier version; each file has been compared with its digest
    else:
        candidates = itertools.islice(_guesses(lists), MOST_GUESSES)
    if not any(info.fingerprint == fingerprint_of(*own, one) for one in candidates):
        raise OSError(
            f"dataset {path}: its rows are not those that were built: their fingerprint is "
            f"{fingerprint_of(*own, lists)[:12]}…, corpus.json records {info.fingerprint[:12]}…. A file is "
            "of another dataset or was changed; copy the dataset again or rebuild it."
        )


def _with_empty_files(
    lists: Mapping[str, Sequence[str]], places: Mapping[str, Sequence[int]]
) -> dict[str, list[str]]:
    """The digests with those of text that gave no row at `places` of the result: the fingerprint has them,
    and the finished dataset leaves such files out."""
    filled = {split: list(found) for split, found in lists.items()}
    for split, numbers in places.items():
        for number in sorted(numbers):
            filled[split].insert(number, NO_ROWS)
    return filled


def _guesses(lists: Mapping[str, Sequence[str]]) -> Iterator[dict[str, list[str]]]:
    """The digests with no text without rows, with one such text at each place, with two, …: earlier versions
    did not record where they are."""
    yield _with_empty_files(lists, {})
    most = MOST_GUESSES.bit_length()  # of them: there are as many guesses at least
    for number in range(1, most):
        for counts in itertools.product(range(number + 1), repeat=len(lists)):
            if sum(counts) == number:
                choices = (
                    itertools.combinations(range(len(found) + count), count)
                    for found, count in zip(lists.values(), counts, strict=True)
                )
                for places in itertools.product(*choices):
                    yield _with_empty_files(lists, dict(zip(lists, places, strict=True)))
