"""Chunks of documents → one ArrayRecord file of packed rows each.

The chunks (data_pipelines/chunks.py) may be packed anywhere, by worker processes of this machine (`run_jobs`)
or of others (data_pipelines/beam_runner.py). A finished file of the same text and settings is not rebuilt.
"""

import collections
import hashlib
import multiprocessing
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, wait
from pathlib import Path
from typing import Any

import numpy as np
from array_record.python.array_record_module import ArrayRecordWriter

from data_pipelines.array_files import save_array
from data_pipelines.chunks import Job, num_characters
from data_pipelines.documents import Piece
from data_pipelines.json_files import read_json, write_json
from data_pipelines.packing import Lines, pack
from data_pipelines.process_ends import end_with_parent
from data_pipelines.tokenizers.directory import load_meta
from data_pipelines.tokenizers.load import Tokenizer, load_tokenizer
from data_pipelines.tokenizers.unknown_characters import CharacterCounter, character_counter
from data_pipelines.whole_files import written_whole
from data_pipelines.worker_processes import worker_processes

COUNTS_SUFFIX = ".counts.json"
TOKENS_SUFFIX = ".tokens.npy"  # how often each id is in the rows of a file, int64 [vocab_size]
COUNTED_BY_SOURCE = ("documents", "text_tokens", "unknown_tokens")
SECONDS_BETWEEN_SIGNS = 1.0  # of progress, while a file is packed
JOBS_AHEAD = 2  # read while every process is busy

# Called with the number of characters of every text that this process has tokenised.
_on_tokenised: Callable[[int], None] = lambda characters: None


def run_jobs(
    jobs: Iterator[Job], num_processes: int, on_progress: Callable[[int], None] = lambda characters: None
) -> Iterator[tuple[str, dict[str, Any]]]:
    """(path, counts) of every job in order; at most `num_processes` + 2 jobs are in memory.

    A file that an earlier build finished from the same text, with the same settings, is kept.

    Args:
      on_progress: called about every second with the characters of text that are tokenised, of all jobs
        together.

    Raises:
      OSError: a file could not be written, or a process was killed.
    """
    if num_processes == 1:
        yield from _run_here(jobs, on_progress)
        return
    tokenised = multiprocessing.get_context("spawn").Value("q", 0)
    kept = 0  # characters of files that an earlier build finished
    # Without the number's lock, which a process may have held when it was killed.
    show = lambda: on_progress(kept + tokenised.get_obj().value)
    with worker_processes(num_processes, start_worker, (tokenised,), "; finished files are kept") as submit:
        waiting: collections.deque = collections.deque()
        for job in jobs:
            counts = _finished(job)
            kept += num_characters(job) if counts else 0
            waiting.append((job.path, counts, None if counts else submit(write_shard, job)))
            show()
            if len(waiting) >= num_processes + JOBS_AHEAD:
                yield _wait(*waiting.popleft(), show)
        while waiting:
            yield _wait(*waiting.popleft(), show)


def _run_here(
    jobs: Iterator[Job], on_progress: Callable[[int], None]
) -> Iterator[tuple[str, dict[str, Any]]]:
    """As `run_jobs`, in this process."""
    global _on_tokenised
    done = 0

    def count(characters: int) -> None:
        nonlocal done
        done += characters
        on_progress(done)

    before, _on_tokenised = _on_tokenised, count
    try:
        for job in jobs:
            counts = _finished(job)
            if counts:
                count(num_characters(job))
            yield job.path, counts or write_shard(job)
    finally:
        _on_tokenised = before


def start_worker(tokenised: Any) -> None:
    """Let this process end when its parent does, and add the characters that it tokenises to a number that
    all share."""
    end_with_parent()

    def count(characters: int) -> None:
        with tokenised.get_lock():
            tokenised.value += characters

    global _on_tokenised
    _on_tokenised = count


def finish_job(job: Job) -> tuple[str, dict[str, Any]]:
    """(path, counts) of a job, which is done now unless its file is already finished."""
    return job.path, _finished(job) or write_shard(job)


def _wait(
    path: str, counts: dict[str, Any] | None, result: Future | None, show: Callable[[], None]
) -> tuple[str, dict[str, Any]]:
    """The path and counts of a file, once it is finished; calls `show` every second until then."""
    while result is not None and not result.done():
        show()
        wait([result], timeout=SECONDS_BETWEEN_SIGNS)
    show()
    return path, counts or result.result()


def _finished(job: Job) -> dict[str, Any] | None:
    """Counts of the job's file, None unless it is complete and was made for this job by this version."""
    recorded = Path(job.path + COUNTS_SUFFIX)
    if not recorded.exists() or not Path(job.path).exists():
        return None
    counts = read_json(recorded, dict, advice="Remove it: the same command makes that file again.")
    is_same = (
        counts.get("input_sha256") == _sha256_of(job)  # which earlier versions lack
        and Path(job.path + TOKENS_SUFFIX).exists()
        and "long_word" in counts  # which earlier versions lack, too
        and counts["file_bytes"] == Path(job.path).stat().st_size
    )
    return counts if is_same else None


def _sha256_of(job: Job) -> str:
    """Digest of all that decides the rows and the counts of a job, but for this program."""
    tokenizer = load_meta(Path(job.tokenizer), ("fingerprint",))["fingerprint"]
    digest = hashlib.sha256(repr((tokenizer, job.sequence_length, job.packing, job.seed)).encode())
    for piece in job.pieces:
        for value in (piece.source, piece.text):
            data = value.encode("utf-8", "surrogatepass")
            digest.update(len(data).to_bytes(8, "big"))
            digest.update(data)
    return digest.hexdigest()


def write_shard(job: Job) -> dict[str, Any]:
    """Tokenise, pack and write one chunk, then record its counts beside the file.

    Raises:
      OSError: the file could not be written.
    """
    from tensorflow_datasets.core import example_serializer  # slow to import

    tokenizer = load_tokenizer(job.tokenizer)
    special = tokenizer.special
    texts = [piece.text for piece in job.pieces]
    ids: dict[str, Lines] = {}  # of each text; its copies share them
    for text in texts:
        if text not in ids:
            ids[text] = encode_document(text, job.packing, tokenizer)
        _on_tokenised(len(text))
    encoded = [ids[text] for text in texts]
    rows = pack(
        encoded, sequence_length=job.sequence_length, mode=job.packing, special=special, seed=job.seed
    )
    dtype = row_dtype(tokenizer.vocab_size)
    features = row_features(job.sequence_length, dtype)
    serializer = example_serializer.ExampleSerializer(features.get_serialized_info())
    digest = hashlib.sha256()
    try:
        with written_whole(Path(job.path)) as temporary:
            writer = ArrayRecordWriter(str(temporary), "group_size:1")
            for row in rows.astype(dtype):
                writer.write(serializer.serialize_example(features.encode_example({"input_ids": row})))
                digest.update(row.tobytes())
            writer.close()
        save_array(Path(job.path + TOKENS_SUFFIX), np.bincount(rows.ravel(), minlength=tokenizer.vocab_size))
    except (RuntimeError, ValueError, OSError) as error:  # ArrayRecord raises the first two
        raise OSError(
            f"{job.path}: cannot be written: {error}. Free disk space and start the same command again."
        ) from error
    by_source = _count_by_source(job.pieces, encoded, special.unk)
    long_word = _count_characters(by_source, job.pieces, encoded, character_counter(tokenizer))
    text_tokens = sum(counts["text_tokens"] for counts in by_source.values())
    kept_text_tokens = np.isin(rows, (special.pad, special.cls, special.sep), invert=True).sum()
    counts = {
        "path": job.path,
        "rows": len(rows),
        "documents": len(texts),
        "tokens": int((rows != special.pad).sum()),
        "text_tokens": text_tokens,
        "dropped_text_tokens": text_tokens - int(kept_text_tokens),
        "unknown_tokens": sum(counts["unknown_tokens"] for counts in by_source.values()),
        "by_source": by_source,
        "long_word": long_word,
        "text_bytes": sum(len(text.encode("utf-8", "surrogatepass")) for text in texts),
        "input_sha256": _sha256_of(job),
        "file_bytes": os.path.getsize(job.path),
        "sha256": digest.hexdigest(),
    }
    write_json(Path(job.path + COUNTS_SUFFIX), counts)
    return counts


def encode_document(text: str, packing: str, tokenizer: Tokenizer) -> list[list[int]]:
    """Ids of each line. The original recipe builds its segments from lines; other packings join all text."""
    return tokenizer.encode_batch(text.split("\n") if packing == "electra" else [text])


def _count_by_source(
    pieces: Sequence[Piece], encoded: Sequence[Lines], unk_id: int
) -> dict[str, dict[str, int]]:
    """Source → its documents, their tokens, and how many of these are [UNK]."""
    by_source: dict[str, dict[str, int]] = {}
    for piece, lines in zip(pieces, encoded, strict=True):
        counts = by_source.setdefault(piece.source, dict.fromkeys(COUNTED_BY_SOURCE, 0))
        counts["documents"] += 1
        counts["text_tokens"] += sum(len(line) for line in lines)
        counts["unknown_tokens"] += sum(line.count(unk_id) for line in lines)
    return by_source


def _count_characters(
    by_source: dict[str, dict[str, int]],
    pieces: Sequence[Piece],
    encoded: Sequence[Lines],
    counter: CharacterCounter | None,
) -> str:
    """Add to `by_source` how many characters become [UNK], as in `CharacterCounts`; the beginning of a word
    that is too long for the tokenizer, "" if none is. Adds nothing without a counter."""
    if counter is None:
        return ""
    found: dict[str, list[tuple[str, Lines]]] = {}
    for piece, lines in zip(pieces, encoded, strict=True):
        found.setdefault(piece.source, []).append((piece.text, lines))
    first = ""
    for source, documents in found.items():
        counts, long_word = counter.count(*zip(*documents, strict=True))
        by_source[source] |= counts._asdict()
        first = first or long_word
    return first


def row_dtype(vocab_size: int) -> type:
    """The smallest type that holds every id."""
    return np.uint16 if vocab_size <= 2**16 else np.int32


def row_features(sequence_length: int, dtype: type) -> Any:
    """The `tfds.features.FeaturesDict` of a row."""
    import tensorflow_datasets as tfds

    return tfds.features.FeaturesDict(
        {"input_ids": tfds.features.Tensor(shape=(sequence_length,), dtype=dtype)}
    )
