"""A small corpus of invented documents, its tokenizer, and builds of it."""

import json
from pathlib import Path

import numpy as np
import tensorflow_datasets as tfds
from array_record.python.array_record_module import ArrayRecordWriter
from tensorflow_datasets.core import example_serializer

from data_pipelines.corpus_builder import Workers, build_corpus
from data_pipelines.corpus_settings import CorpusSettings
from data_pipelines.shards import row_features
from data_pipelines.tokenizers.train import train_tokenizer

TEXT = (
    "the a cat dog bird sat ran flew on over under mat hill river and then it was seen again by nobody at all"
)
WORDS = tuple(TEXT.split())


def make_documents(count, seed):
    rng = np.random.default_rng(seed)
    line = lambda: " ".join(rng.choice(WORDS, size=rng.integers(3, 20)))
    return [
        f"number {seed} {index} " + "\n".join(line() for _ in range(rng.integers(1, 6)))
        for index in range(count)
    ]


def write(path, documents):
    path.write_text("".join(json.dumps({"text": document}) + "\n" for document in documents))
    return str(path)


def write_data(root):
    """Sources and a tokenizer."""
    train_tokenizer(make_documents(300, 0), str(root / "tokenizer"), vocab_size=80)
    write(root / "train.jsonl", make_documents(200, 1))
    write(root / "validation.jsonl", make_documents(30, 2))
    return root


def build(data, out, num_processes=1, start_over=False, **changes):
    settings = {
        "train": [str(data / "train.jsonl")],
        "validation": [str(data / "validation.jsonl")],
        "tokenizer": str(data / "tokenizer"),
        "sequence_length": 32,
        "packing": "documents",
        "chunk_chars": 4_000,
    }
    settings = CorpusSettings(**settings | changes)
    return build_corpus(str(out), settings, Workers(num_processes), start_over=start_over)


def rows_of(directory, split="train"):
    return np.stack(
        [row["input_ids"] for row in tfds.builder_from_directory(str(directory)).as_data_source(split)]
    )


def replace_rows(directory, change, split="train", place=0):
    """Write `change(rows)` into one file of a split, and its size into corpus.json: a whole file that the
    build did not make. Returns its name."""
    path = Path(directory, "corpus.json")
    info = json.loads(path.read_text())
    name = list(info["splits"][split]["shards"])[place]
    rows = rows_of(directory, split)
    ends = np.cumsum([0, *info["splits"][split]["rows_by_shard"]])
    changed = change(rows[ends[place] : ends[place + 1]].copy())
    features = row_features(changed.shape[1], changed.dtype.type)
    serializer = example_serializer.ExampleSerializer(features.get_serialized_info())
    writer = ArrayRecordWriter(str(Path(directory, name)), "group_size:1")
    for row in changed:
        writer.write(serializer.serialize_example(features.encode_example({"input_ids": row})))
    writer.close()
    info["splits"][split]["shards"][name] = Path(directory, name).stat().st_size
    path.write_text(json.dumps(info))
    return name


def flags(data):
    """Flags of a small build, without held-out text and --out."""
    sources = ["--train", str(data / "train.jsonl"), "--tokenizer", str(data / "tokenizer")]
    return [*sources, "--sequence_length=32", "--packing=documents", "--num_processes=1"]
