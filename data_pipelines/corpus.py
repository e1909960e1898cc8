"""Text → tokens → packed rows → a TFDS dataset in ArrayRecord files, split by document.

    python -m data_pipelines.corpus --train train.jsonl --validation valid.jsonl --tokenizer DIR \\
        --sequence_length 128 --packing documents --out DIR

The unit of work is a chunk of whole documents of a fixed amount of text, packed by itself into one file, so the rows do not
depend on the number of processes. The directory appears whole or not at all, and holds a copy of its tokenizer.
"""

import argparse
import collections
import dataclasses
import hashlib
import json
import multiprocessing
import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import tensorflow_datasets as tfds
from array_record.python.array_record_module import ArrayRecordWriter
from tensorflow_datasets.core import example_serializer
from tqdm import tqdm

from data_pipelines.documents import read_documents
from data_pipelines.packing import PACKERS, pack
from data_pipelines.tokenizer import PAD_ID, Tokenizer

INFO_FILE, DATASET = "corpus.json", "electra_corpus"


@dataclasses.dataclass(frozen=True)
class CorpusInfo:
    """What corpus.json says. `splits`: name → rows, documents, tokens (padding not counted), shards (file → bytes)."""

    fingerprint: str
    tokenizer_fingerprint: str
    vocab_size: int
    sequence_length: int
    packing: str
    sources: dict
    splits: dict


def load_corpus_info(directory: str) -> CorpusInfo:
    """Read corpus.json and compare the size of every file with what was written.

    Raises:
      FileNotFoundError: not a dataset of this project. OSError: a file is missing or truncated; names it.
    """
    path = Path(directory) / INFO_FILE
    if not path.exists():
        raise FileNotFoundError(f"{directory}: no {INFO_FILE}; expected a directory made by `python -m data_pipelines.corpus`. "
                                "Set config.data.datasets to one.")
    info = CorpusInfo(**json.loads(path.read_text()))
    for split in info.splits.values():
        for name, size in split["shards"].items():
            shard = path.parent / name
            got = shard.stat().st_size if shard.exists() else None
            if got != size:
                raise OSError(f"{shard}: got {got} bytes, expected {size}: missing or truncated. Build the dataset again.")
    return info


def build_corpus(directory: str, *, train: Sequence[str], validation: Sequence[str], tokenizer: str, sequence_length: int,
                 packing: str, num_processes: int, text_field: str = "text", on_invalid_utf8: str = "error",
                 chunk_chars: int = 8_000_000) -> CorpusInfo:
    """Build the dataset `directory` from documents (see data_pipelines.documents for the sources).

    A directory already built with the same arguments is returned as it is.

    Raises:
      FileExistsError: `directory` holds a dataset built otherwise. ValueError: a split without text.
    """
    settings = {"train": list(train), "validation": list(validation), "text_field": text_field,
                "on_invalid_utf8": on_invalid_utf8, "chunk_chars": chunk_chars}
    loaded = Tokenizer.load(tokenizer)
    wanted = {"tokenizer_fingerprint": loaded.fingerprint, "sequence_length": sequence_length, "packing": packing,
              "sources": settings}
    if (Path(directory) / INFO_FILE).exists():
        info = load_corpus_info(directory)
        differing = [key for key, value in wanted.items() if getattr(info, key) != value]
        if differing:
            raise FileExistsError(f"{directory} holds a dataset with other {', '.join(differing)}. Choose another --out, or "
                                  "remove it.")
        return info
    partial = Path(f"{directory}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    splits, digests = {}, []
    for split, sources in (("train", train), ("validation", validation)):
        documents = read_documents(sources, text_field=text_field, on_invalid_utf8=on_invalid_utf8)
        jobs = ((tokenizer, sequence_length, packing, str(partial / f"{split}-{number:05d}"), chunk)
                for number, chunk in enumerate(_chunks(documents, chunk_chars)))
        done = list(tqdm(_run(jobs, num_processes), desc=f"packing {split}", unit="chunk", leave=False))
        if not sum(counts["rows"] for counts in done):
            raise ValueError(f"--{split}: got no text from {list(sources)}, expected at least one document.")
        splits[split] = _name_shards(partial, split, done)
        digests += [counts["sha256"] for counts in done]
    _write_tfds_metadata(partial, splits, sequence_length, _dtype(loaded.vocab_size))
    shutil.copytree(tokenizer, partial / "tokenizer")
    info = CorpusInfo(
        fingerprint=hashlib.sha256(json.dumps([wanted, digests], sort_keys=True).encode()).hexdigest(),
        vocab_size=loaded.vocab_size, splits=splits, **wanted)
    (partial / INFO_FILE).write_text(json.dumps(dataclasses.asdict(info), indent=2))
    os.replace(partial, directory)
    return info


def _chunks(documents: Iterable[str], chunk_chars: int) -> Iterator[list[str]]:
    chunk, size = [], 0
    for document in documents:
        chunk.append(document)
        size += len(document)
        if size >= chunk_chars:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk


def _run(jobs: Iterator[tuple], num_processes: int) -> Iterator[dict]:
    """Results in order, with at most two chunks a process in memory."""
    if num_processes == 1:
        yield from map(_pack_chunk, jobs)
        return
    with multiprocessing.get_context("spawn").Pool(num_processes) as pool:
        waiting: collections.deque = collections.deque()
        for job in jobs:
            waiting.append(pool.apply_async(_pack_chunk, (job,)))
            if len(waiting) >= 2 * num_processes:
                yield waiting.popleft().get()
        while waiting:
            yield waiting.popleft().get()


def _pack_chunk(job: tuple) -> dict:
    """Tokenise, pack and write one chunk; runs in a worker."""
    tokenizer, sequence_length, packing, path, documents = job
    loaded = Tokenizer.load(tokenizer)
    lines = [document.split("\n") if packing == "electra" else [document] for document in documents]
    encoded = [loaded.encode_batch(document) for document in lines]
    rows = pack(encoded, sequence_length=sequence_length, mode=packing)
    features = _features(sequence_length, _dtype(loaded.vocab_size))
    serializer = example_serializer.ExampleSerializer(features.get_serialized_info())
    digest = hashlib.sha256()
    writer = ArrayRecordWriter(path, "group_size:1")
    for row in rows.astype(_dtype(loaded.vocab_size)):
        writer.write(serializer.serialize_example(features.encode_example({"input_ids": row})))
        digest.update(row.tobytes())
    writer.close()
    return {"path": path, "rows": len(rows), "documents": len(documents), "tokens": int((rows != PAD_ID).sum()),
            "sha256": digest.hexdigest()}


def _dtype(vocab_size: int) -> type:
    return np.uint16 if vocab_size <= 2**16 else np.int32


def _features(sequence_length: int, dtype: type) -> tfds.features.FeaturesDict:
    return tfds.features.FeaturesDict({"input_ids": tfds.features.Tensor(shape=(sequence_length,), dtype=dtype)})


def _name_shards(directory: Path, split: str, done: list[dict]) -> dict:
    """Give the files of a split their TFDS names, which hold their number; returns the split's entry of corpus.json."""
    shards, lengths = {}, []
    for number, counts in enumerate(done):
        name = f"{DATASET}-{split}.array_record-{number:05d}-of-{len(done):05d}"
        os.replace(counts["path"], directory / name)
        shards[name] = (directory / name).stat().st_size
        lengths.append(counts["rows"])
    return {"rows": sum(lengths), "rows_by_shard": lengths, "documents": sum(counts["documents"] for counts in done),
            "tokens": sum(counts["tokens"] for counts in done), "shards": shards}


def _write_tfds_metadata(directory: Path, splits: dict, sequence_length: int, dtype: type) -> None:
    """dataset_info.json and features.json, so that `tfds.builder_from_directory` reads the dataset."""
    template = tfds.core.ShardedFileTemplate(data_dir=directory, dataset_name=DATASET, filetype_suffix="array_record")
    infos = [tfds.core.SplitInfo(name=name, shard_lengths=split["rows_by_shard"], num_bytes=sum(split["shards"].values()),
                                 filename_template=template) for name, split in splits.items()]
    tfds.folder_dataset.write_metadata(data_dir=directory, features=_features(sequence_length, dtype), split_infos=infos,
                                       filename_template=template, check_data=False)


def main() -> None:
    """Command line of this module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--train", nargs="+", required=True, help="sources: .txt .jsonl .parquet (also .gz, .zst) or tfds:NAME")
    parser.add_argument("--validation", nargs="+", required=True, help="held-out sources")
    parser.add_argument("--tokenizer", required=True, help="directory made by data_pipelines.tokenizer")
    parser.add_argument("--sequence_length", type=int, required=True, help="ids a row, special ones included")
    parser.add_argument("--packing", choices=sorted(PACKERS), required=True, help="see data_pipelines/packing.py")
    parser.add_argument("--out", required=True, help="directory to create")
    parser.add_argument("--num_processes", type=int, default=os.cpu_count(), help="worker processes (default: all cores)")
    parser.add_argument("--text_field", default="text", help="field of JSONL, Parquet and TFDS documents")
    parser.add_argument("--on_invalid_utf8", choices=("error", "skip", "replace"), default="error")
    arguments = vars(parser.parse_args())
    info = build_corpus(arguments.pop("out"), **arguments)
    for name, split in info.splits.items():
        padding = 1 - split["tokens"] / (split["rows"] * info.sequence_length)
        print(f"{name:12s} {split['documents']:>10,} documents {split['tokens']:>14,} tokens {split['rows']:>10,} rows "
              f"{padding:6.2%} padding")


if __name__ == "__main__":
    main()
