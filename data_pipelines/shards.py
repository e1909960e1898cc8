"""Groups of sources → chunks of documents → one ArrayRecord file of packed rows each; finished files are not
made again.

A group is read from its first document to its last by one process. Its chunks may be packed anywhere, in
worker processes of this machine (`run_jobs`) or of others (data_pipelines.beam_runner): what a chunk holds
depends on its group alone.
"""

import collections
import dataclasses
import hashlib
import json
import multiprocessing
import os
import uuid
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool, ProcessPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tensorflow_datasets as tfds
from array_record.python.array_record_module import ArrayRecordWriter
from tensorflow_datasets.core import example_serializer

from data_pipelines.documents import ReadReport, read_documents
from data_pipelines.packing import pack
from data_pipelines.tokenizer import load_tokenizer

SPLITS = ("train", "validation")
COUNTS_SUFFIX = ".counts.json"
JOBS_AHEAD = 2  # read while every process is busy
GROUP_CHUNKS = 64  # a chunk ends where its group does, so groups are long: held-out shares of 1 % still fill most of a chunk


@dataclasses.dataclass(frozen=True)
class Recipe:
    """What all groups have in common: how text is read, cut into chunks [characters] and packed, and where
    files go.

    `validation_fraction`: the share of documents held out of every group, 0 where held-out sources are given.
    """

    directory: str
    tokenizer: str
    sequence_length: int
    packing: str
    seed: int
    validation_fraction: float
    chunk_chars: int
    text_field: str
    on_invalid_utf8: str


class Group(NamedTuple):
    """Consecutive sources of a split, and their place among its groups."""

    split: str
    number: int
    sources: list[str]


class Job(NamedTuple):
    """What a worker needs: where to write, and the documents themselves."""

    tokenizer: str
    sequence_length: int
    packing: str
    seed: tuple[int, ...]
    path: str
    documents: list[str]


def make_groups(split: str, sources: Sequence[str], chunk_chars: int) -> list[Group]:
    """The sources in order, a new group as soon as one has the bytes of 64 chunks; none of them is opened.

    TFDS datasets, whose size is not known here, count as that many. Paths are made absolute, for workers
    elsewhere.

    Raises:
      OSError: a source does not exist.
    """
    grouped: list[list[str]] = []
    enough = size = GROUP_CHUNKS * chunk_chars
    for source in sources:
        if size >= enough:
            grouped.append([])
            size = 0
        is_file = not source.startswith("tfds:")
        grouped[-1].append(os.path.abspath(source) if is_file else source)
        size += os.path.getsize(source) if is_file else enough
    return [Group(split, number, group) for number, group in enumerate(grouped)]


def read_jobs(group: Group, recipe: Recipe, report: ReadReport) -> Iterator[Job]:
    """Read a group; one job for each chunk of it, of `recipe.chunk_chars` characters or a little more."""
    texts = read_documents(
        group.sources, text_field=recipe.text_field, on_invalid_utf8=recipe.on_invalid_utf8, report=report
    )
    if recipe.validation_fraction:
        documents = _divide(texts, recipe.validation_fraction)
    else:
        documents = ((group.split, text) for text in texts)
    for split, number, chunk in _chunks(documents, recipe.chunk_chars):
        # NumPy takes no notice of zeros at the end of a seed: with the group there, the first group, which is
        # all of most corpora, has the rows it had before there were groups.
        seed = (recipe.seed, SPLITS.index(split), number, group.number)
        path = f"{recipe.directory}/{split}-{group.number:08d}-{number:08d}"  # in the order of names
        yield Job(recipe.tokenizer, recipe.sequence_length, recipe.packing, seed, path, chunk)


def _divide(documents: Iterable[str], fraction: float) -> Iterator[tuple[str, str]]:
    for text in documents:
        digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()
        yield "validation" if int.from_bytes(digest[:8], "big") < fraction * 2**64 else "train", text


def _chunks(documents: Iterable[tuple[str, str]], chunk_chars: int) -> Iterator[tuple[str, int, list[str]]]:
    """(split, number of the chunk in its split, documents) of `chunk_chars` characters or a little more."""
    texts: dict[str, list[str]] = {split: [] for split in SPLITS}
    sizes, numbers = dict.fromkeys(SPLITS, 0), dict.fromkeys(SPLITS, 0)
    for split, text in documents:
        texts[split].append(text)
        sizes[split] += len(text)
        if sizes[split] >= chunk_chars:
            yield split, numbers[split], texts[split]
            texts[split], sizes[split] = [], 0
            numbers[split] += 1
    for split in SPLITS:
        if texts[split]:
            yield split, numbers[split], texts[split]


def run_jobs(jobs: Iterator[Job], num_processes: int) -> Iterator[tuple[str, dict[str, Any]]]:
    """(path, counts) of every job in order; at most `num_processes` + 2 jobs are in memory.

    A file that an earlier run finished from the same text is left as it is.

    Raises:
      OSError: a file could not be written, or a process was killed.
    """
    if num_processes == 1:
        yield from map(finish_job, jobs)
        return
    # Unlike multiprocessing.Pool, which waits forever, an executor notices that the system killed one of its
    # processes.
    pool = ProcessPoolExecutor(num_processes, multiprocessing.get_context("spawn"))
    try:
        waiting: collections.deque = collections.deque()
        for job in jobs:
            counts = _finished(job)
            waiting.append((job.path, counts, None if counts else pool.submit(write_shard, job)))
            if len(waiting) >= num_processes + JOBS_AHEAD:
                yield _wait(*waiting.popleft())
        while waiting:
            yield _wait(*waiting.popleft())
    except BrokenProcessPool as error:
        raise OSError(
            f"one of {num_processes} processes was killed, probably for want of memory. Start the same "
            "command again with a smaller --num_processes; finished files are kept."
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


def finish_job(job: Job) -> tuple[str, dict[str, Any]]:
    """(path, counts) of a job that is done now or was before."""
    return job.path, _finished(job) or write_shard(job)


def _wait(path: str, counts: dict[str, Any] | None, result) -> tuple[str, dict[str, Any]]:
    return path, counts or result.result()


def _finished(job: Job) -> dict[str, Any] | None:
    """Counts of a file that is whole and was made from this very text."""
    recorded = Path(job.path + COUNTS_SUFFIX)
    if not recorded.exists() or not Path(job.path).exists():
        return None
    counts = json.loads(recorded.read_text())
    is_same = (
        counts["text_sha256"] == _digest(job.documents)
        and counts["file_bytes"] == Path(job.path).stat().st_size
    )
    return counts if is_same else None


def _digest(documents: list[str]) -> str:
    digest = hashlib.sha256()
    for document in documents:
        data = document.encode("utf-8", "surrogatepass")
        digest.update(len(data).to_bytes(8, "big"))
        digest.update(data)
    return digest.hexdigest()


def write_shard(job: Job) -> dict[str, Any]:
    """Tokenise, pack and write one chunk; its counts are recorded beside the file once that is whole.

    Raises:
      OSError: the file could not be written.
    """
    tokenizer = load_tokenizer(job.tokenizer)
    special = tokenizer.special
    # The original recipe builds its segments out of lines; the other modes join all text of a document
    # anyway.
    lines = (document.split("\n") if job.packing == "electra" else [document] for document in job.documents)
    encoded = [tokenizer.encode_batch(document) for document in lines]
    rows = pack(
        encoded, sequence_length=job.sequence_length, mode=job.packing, special=special, seed=job.seed
    )
    dtype = row_dtype(tokenizer.vocab_size)
    features = row_features(job.sequence_length, dtype)
    serializer = example_serializer.ExampleSerializer(features.get_serialized_info())
    digest = hashlib.sha256()
    temporary = _temporary(job.path)
    try:
        writer = ArrayRecordWriter(temporary, "group_size:1")
        for row in rows.astype(dtype):
            writer.write(serializer.serialize_example(features.encode_example({"input_ids": row})))
            digest.update(row.tobytes())
        writer.close()
    except (RuntimeError, ValueError) as error:  # what ArrayRecord raises where a file cannot be written
        raise OSError(
            f"{job.path}: cannot be written: {error}. Free disk space and start the same command again."
        ) from error
    os.replace(temporary, job.path)
    text_tokens = sum(len(line) for document in encoded for line in document)
    kept_text_tokens = np.isin(rows, (special.pad, special.cls, special.sep), invert=True).sum()
    counts = {
        "path": job.path,
        "rows": len(rows),
        "documents": len(job.documents),
        "tokens": int((rows != special.pad).sum()),
        "text_tokens": text_tokens,
        "dropped_text_tokens": text_tokens - int(kept_text_tokens),
        "text_bytes": sum(len(document.encode("utf-8", "surrogatepass")) for document in job.documents),
        "text_sha256": _digest(job.documents),
        "file_bytes": os.path.getsize(job.path),
        "sha256": digest.hexdigest(),
    }
    write_json(Path(job.path + COUNTS_SUFFIX), counts)
    return counts


def write_json(path: Path, value: Any) -> None:
    """Write a file that is there whole or not at all."""
    temporary = Path(_temporary(str(path)))
    temporary.write_text(json.dumps(value))
    os.replace(temporary, path)


def _temporary(path: str) -> str:
    """A name of its own, since a Beam runner may give the same job to two workers at once."""
    return f"{path}.{uuid.uuid4().hex}.tmp"


def row_dtype(vocab_size: int) -> type:
    """The smallest type that holds every id."""
    return np.uint16 if vocab_size <= 2**16 else np.int32


def row_features(sequence_length: int, dtype: type) -> tfds.features.FeaturesDict:
    """The TFDS feature of a row."""
    return tfds.features.FeaturesDict(
        {"input_ids": tfds.features.Tensor(shape=(sequence_length,), dtype=dtype)}
    )
