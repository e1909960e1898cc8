"""One chunk of documents → one ArrayRecord file of packed rows, in worker processes; finished files are not made again."""

import collections
import hashlib
import json
import multiprocessing
import os
from collections.abc import Iterator
from concurrent.futures.process import BrokenProcessPool, ProcessPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tensorflow_datasets as tfds
from array_record.python.array_record_module import ArrayRecordWriter
from tensorflow_datasets.core import example_serializer

from data_pipelines.packing import pack
from data_pipelines.tokenizer import load_tokenizer

COUNTS_SUFFIX = ".counts.json"
JOBS_AHEAD = 2  # read while every process is busy


class Job(NamedTuple):
    """What a worker needs: where to write, and the documents themselves."""

    tokenizer: str
    sequence_length: int
    packing: str
    seed: tuple[int, ...]
    path: str
    documents: list[str]


def run_jobs(jobs: Iterator[Job], num_processes: int) -> Iterator[tuple[str, dict[str, Any]]]:
    """(path, counts) of every job in order; at most `num_processes` + 2 jobs are in memory.

    A file that an earlier run finished from the same text is left as it is.

    Raises:
      OSError: a file could not be written, or a process was killed.
    """
    if num_processes == 1:
        yield from ((job.path, _finished(job) or write_shard(job)) for job in jobs)
        return
    # Unlike multiprocessing.Pool, which waits forever, an executor notices that the system killed one of its processes.
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
        raise OSError(f"one of {num_processes} processes was killed, probably for want of memory. Start the same command again "
                      "with a smaller --num_processes; finished files are kept.") from error
    finally:
        pool.shutdown(cancel_futures=True)


def _wait(path: str, counts: dict[str, Any] | None, result) -> tuple[str, dict[str, Any]]:
    return path, counts or result.result()


def _finished(job: Job) -> dict[str, Any] | None:
    """Counts of a file that is whole and was made from this very text."""
    recorded = Path(job.path + COUNTS_SUFFIX)
    if not recorded.exists() or not Path(job.path).exists():
        return None
    counts = json.loads(recorded.read_text())
    is_same = counts["text_sha256"] == _digest(job.documents) and counts["file_bytes"] == Path(job.path).stat().st_size
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
    # The original recipe builds its segments out of lines; the other modes join all text of a document anyway.
    lines = (document.split("\n") if job.packing == "electra" else [document] for document in job.documents)
    encoded = [tokenizer.encode_batch(document) for document in lines]
    rows = pack(encoded, sequence_length=job.sequence_length, mode=job.packing, special=special, seed=job.seed)
    dtype = row_dtype(tokenizer.vocab_size)
    features = row_features(job.sequence_length, dtype)
    serializer = example_serializer.ExampleSerializer(features.get_serialized_info())
    digest = hashlib.sha256()
    temporary = job.path + ".tmp"
    try:
        writer = ArrayRecordWriter(temporary, "group_size:1")
        for row in rows.astype(dtype):
            writer.write(serializer.serialize_example(features.encode_example({"input_ids": row})))
            digest.update(row.tobytes())
        writer.close()
    except (RuntimeError, ValueError) as error:  # what ArrayRecord raises where a file cannot be written
        raise OSError(f"{job.path}: cannot be written: {error}. Free disk space and start the same command again.") from error
    os.replace(temporary, job.path)
    text_tokens = sum(len(line) for document in encoded for line in document)
    kept_text_tokens = np.isin(rows, (special.pad, special.cls, special.sep), invert=True).sum()
    counts = {"path": job.path, "rows": len(rows), "documents": len(job.documents), "tokens": int((rows != special.pad).sum()),
              "text_tokens": text_tokens, "dropped_text_tokens": text_tokens - int(kept_text_tokens),
              "text_bytes": sum(len(document.encode("utf-8", "surrogatepass")) for document in job.documents),
              "text_sha256": _digest(job.documents), "file_bytes": os.path.getsize(job.path), "sha256": digest.hexdigest()}
    write_json(Path(job.path + COUNTS_SUFFIX), counts)
    return counts


def write_json(path: Path, value: Any) -> None:
    """Write a file that is there whole or not at all."""
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(json.dumps(value))
    os.replace(temporary, path)


def row_dtype(vocab_size: int) -> type:
    """The smallest type that holds every id."""
    return np.uint16 if vocab_size <= 2**16 else np.int32


def row_features(sequence_length: int, dtype: type) -> tfds.features.FeaturesDict:
    """The TFDS feature of a row."""
    return tfds.features.FeaturesDict({"input_ids": tfds.features.Tensor(shape=(sequence_length,), dtype=dtype)})
