"""Datasets in buckets are read from a local copy, made once: rows are read in random order, each many times a
run, and an object store answers every single read with a delay and a charge."""

import contextlib
import fcntl
import functools
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

from data_pipelines.buckets import bucket_url, download, is_bucket, read_object, sizes_under
from data_pipelines.cache_directory import CACHE_VARIABLE, cache_directory
from data_pipelines.dataset_directory import DESCRIPTIONS, TOKENIZER_DIRECTORY
from data_pipelines.dataset_info import INFO_FILE, DatasetInfo, load_dataset_info, parse_dataset_info
from data_pipelines.json_files import parse_json
from data_pipelines.plain_names import check_plain_name
from data_pipelines.whole_files import TEMPORARY_SUFFIX

# Of corpus.json, for `parse_json`: what a copy needs.
COPIED_FORM = {"fingerprint": str, "splits": {str: {"shards": {str: int}}}}


@functools.cache
def local_dataset(place: str) -> str:
    """The directory of a dataset: `place` itself, or, of a URL, the copy on this machine.

    The copy is found by the dataset's fingerprint, so a dataset that was moved or that lies in several
    buckets is copied once. It appears complete or not at all.

    Raises:
      FileNotFoundError: no dataset of this project. OSError: it cannot be read, is incomplete, or does not
        fit on the disk.
    """
    if not is_bucket(place):
        return place
    url = bucket_url(place)
    try:
        entries = parse_json(
            _read_info(url), COPIED_FORM, f"{url}/{INFO_FILE}", "Copy the dataset there again."
        )
        fingerprint = check_plain_name(entries["fingerprint"], f"{url}/{INFO_FILE}")
    except ValueError as error:
        raise OSError(str(error)) from error
    splits = entries["splits"].values()
    wanted = {name: size for split in splits for name, size in split["shards"].items()}
    target = cache_directory() / "datasets" / fingerprint[:32]
    if not target.is_dir():
        with _only_copy(url, target):
            if not target.is_dir():
                _copy(url, wanted, target)
    return str(target)


def read_dataset_info(place: str) -> DatasetInfo:
    """What a dataset records of itself; of a URL, without a copy of its rows.

    Raises:
      FileNotFoundError, ValueError, OSError: as `load_dataset_info` and `local_dataset`.
    """
    if not is_bucket(place):
        return load_dataset_info(place)
    url = bucket_url(place)
    return parse_dataset_info(_read_info(url), f"{url}/{INFO_FILE}")


def _read_info(url: str) -> bytes:
    try:
        return read_object(f"{url}/{INFO_FILE}")
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"{url}: no {INFO_FILE}; expected a dataset made by `python -m data_pipelines.corpus` and copied "
            "there whole (`gcloud storage cp -r`, `aws s3 cp --recursive`). Set config.data.datasets to one."
        ) from error


@contextlib.contextmanager
def _only_copy(url: str, target: Path) -> Iterator[None]:
    """Context in which no other process copies to `target`; waits for one that does."""
    lock = target.with_name(f"{target.name}.lock")
    with contextlib.ExitStack() as stack:
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            file = stack.enter_context(open(lock, "ab"))
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                print(f"Waiting for another process that copies {url} to {target}.", file=sys.stderr)
                fcntl.flock(file, fcntl.LOCK_EX)
        except OSError as error:
            raise OSError(
                f"{target.parent}: no copy of {url} can be made there: {error}. Set {CACHE_VARIABLE} to a "
                "directory to write to."
            ) from error
        yield
        lock.unlink(missing_ok=True)


def _copy(url: str, shards: dict[str, int], target: Path) -> None:
    """Copy the files of a dataset to `target`, after comparing their sizes with the recorded ones."""
    found = sizes_under(url)
    for name, size in shards.items():
        if found.get(name) != size:
            raise OSError(
                f"{url}/{name}: got {found.get(name)} bytes, expected {size}: missing or truncated. Copy the "
                "dataset there again."
            )
    names = [
        name
        for name in found
        if name in shards or name in DESCRIPTIONS or name.startswith(f"{TOKENIZER_DIRECTORY}/")
    ]
    temporary = target.with_name(f"{target.name}{TEMPORARY_SUFFIX}")
    shutil.rmtree(temporary, ignore_errors=True)  # of a process that was killed
    needed, free = sum(found[name] for name in names), shutil.disk_usage(target.parent).free
    if needed > free:
        raise OSError(
            f"{url}: its copy needs {needed / 2**30:,.1f} GiB in {target.parent}, where "
            f"{free / 2**30:,.1f} GiB are free. Set {CACHE_VARIABLE} to a directory on a larger disk, or "
            "mount the bucket and give the path below the mount."
        )
    print(f"Copying {url} to {target}, once: {needed / 2**20:,.1f} MiB.", file=sys.stderr)
    try:
        download(url, names, temporary, label=url)
        temporary.rename(target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
