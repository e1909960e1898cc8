"""Readers of files that other people write, and for each the valid files from which the fuzzer starts.

A reader is called with a path. Nothing but an error of EXPECTED that names the file may come out of it.
"""

import dataclasses
import functools
import gzip
import io
import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow
import pyarrow.parquet
import tensorflow_datasets  # noqa: F401 — its import would count as the time of a reader
import torch
import zstandard

from configs import continued
from data_pipelines.dataset_info import load_dataset_info
from data_pipelines.documents import read_documents
from data_pipelines.tasks.files import read_rows, read_sentences
from data_pipelines.tasks.minimal_pairs import read_pairs
from data_pipelines.tasks.questions import read_squad_file
from data_pipelines.tasks.records import Columns, Skipped
from data_pipelines.tasks.unlabelled import Source, Wanted, read_unlabelled
from data_pipelines.tfds_directories import open_directory
from data_pipelines.tokenizers.adopt import adopt_tokenizer
from data_pipelines.tokenizers.load import load_tokenizer
from electra_jax.finetuning.experiment_directory import read_results, with_recorded_metrics
from electra_jax.finetuning.model_files import load_model
from electra_jax.huggingface.array_files import digests
from electra_jax.huggingface.readers import read_directory
from electra_jax.huggingface.recorded_digests import check_as_exported
from electra_jax.huggingface.training_settings import read_training_settings
from electra_jax.models.config import make_pretraining_config
from electra_jax.planning.chips import price_of
from electra_jax.reports.run_view import read_run
from electra_jax.runs.provenance import read_sessions
from electra_jax.runs.rollbacks import read_rollbacks
from electra_jax.runs.trained import dataset_paths, read_description
from electra_jax.training.events import read_events
from electra_jax.training.writers import read_metrics

PAIR = Columns("text", "pair", "label")
SENTENCE = Columns("words", "", "tags")
NUMBERED = Columns("0", "", "1")
VOCABULARY = "[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\na\nb\n##c\n"


class Reader(NamedTuple):
    """A reader and a file that it takes."""

    name: str  # of the file
    seed: bytes
    read: Callable[[Path], Any]
    beside: dict[str, bytes] = {}  # other files of the same directory


def documents(path):
    """The source of the corpus builder."""
    return sum(map(len, read_documents([str(path)])))


def rows(path):
    """A file for classification."""
    return read_rows(str(path), PAIR, "train", Skipped())


def sentences(columns):
    """A file for tagging."""
    return lambda path: read_sentences(str(path), columns, "train", Skipped())


def inputs(file_format, wanted):
    """What `predict` reads."""
    return lambda path: list(read_unlabelled(Source(str(path), file_format), wanted))


def vocabulary(path):
    """What the tokenizer's --from reads."""
    return adopt_tokenizer(path, path.parent / "adopted", lowercase=True if path.suffix == ".txt" else None)


def parquet():
    """A Parquet file of two documents."""
    file = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.table({"text": ["one document", "another"]}), file)
    return file.getvalue()


def safetensors(arrays, **metadata):
    """A safetensors file: the length of its header, the header as JSON, the data."""
    header, data = {"__metadata__": metadata} if metadata else {}, b""
    for name, array in arrays.items():
        data, start = data + array.tobytes(), len(data)
        header[name] = {"dtype": "F32", "shape": list(array.shape), "data_offsets": [start, len(data)]}
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def json_of(value):
    """As the project writes it."""
    return json.dumps(value, indent=2).encode()


SQUAD = {
    "version": "2.0",
    "data": [
        {
            "title": "t",
            "paragraphs": [
                {
                    "context": "The sea is deep.",
                    "qas": [
                        {
                            "id": "1",
                            "question": "What is deep?",
                            "answers": [{"text": "sea", "answer_start": 4}],
                        },
                        {"id": "2", "question": "Who?", "answers": [], "is_impossible": True},
                    ],
                }
            ],
        }
    ],
}
ROW = {"text": "a b", "pair": "c", "label": "yes"}
TAGGED = {"words": ["a", "b"], "tags": ["O", "B-X"]}
METRICS = b'{"step": 1, "loss": 2.5}\n{"step": 2, "loss": null}\n{"step": 2, "eval/mlm_loss": 1.0}\n'
SESSION = b'{"start_step": 0, "versions": {"jax": "0.10"}, "commit": null}\n'
EVENT = b'{"step": 3, "kind": "alarm", "message": "m", "advice": ""}\n'
BERT_CONFIG = json_of({"model_type": "bert", "hidden_size": 4, "num_hidden_layers": 1, "vocab_size": 8})
WORDPIECE = json_of(
    {
        "version": "1.0",
        "added_tokens": [
            {"id": number, "content": f"[{name}]", "special": True, "single_word": False, "lstrip": False,
             "rstrip": False, "normalized": False}
            for number, name in enumerate(("PAD", "UNK", "CLS", "SEP", "MASK"))
        ],
        "normalizer": {"type": "BertNormalizer", "clean_text": True, "handle_chinese_chars": True,
                       "strip_accents": None, "lowercase": True},
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "post_processor": None,
        "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": True},
        "model": {"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##",
                  "max_input_chars_per_word": 100,
                  "vocab": {word: number for number, word in enumerate(VOCABULARY.split())}},
    }
)  # fmt: skip
WEIGHTS = {"bert.embeddings.word_embeddings.weight": np.ones((8, 4), np.float32)}
ARRAYS = safetensors(WEIGHTS)
NOTES = {"digests": {"model.safetensors": digests(WEIGHTS)}}
EXPORTED = safetensors(WEIGHTS, notes=json.dumps(NOTES))
PAIRS = {"sentence_good": "a b", "sentence_bad": "b a", "UID": "order", "field": "f"}
RESULTS = [{"model": "m", "seed": 0, "metrics": {"accuracy": 0.5}, "settings": {"a.b": 1}, "step": 3}]
ROLLBACKS = [{"step": 9, "to": 4, "because": "a spike"}]
DATASETS = [{"path": "a", "first_step": 0}, {"path": "b", "first_step": 5}]
STAGED = {"stages": ((5, {"data.datasets": "b"}),), "train": {"num_steps": 9}, "data": {"datasets": ["a"]}}
RUN_SESSION = {
    "start_step": 0,
    "command": ["pretrain", "--config=configs/debug.py", "--config.train.num_steps=9"],
    "log_every": 1,
}


def pickled():
    """A file of PyTorch's."""
    file = io.BytesIO()
    torch.save({name: torch.from_numpy(array) for name, array in WEIGHTS.items()}, file)
    return file.getvalue()


def finetuned(config):
    """(config.json of a fine-tuning, model.json of one of its models), with the encoder of a run."""
    task = {"kind": "classification", "metrics": ["accuracy"]}
    model = {"head": "published", "head_dropout": 0.1, "pooling": "cls"}
    description = {"config": {"task": task, "model": model, "optimizer": {}, "sift": {}, "train": {}}}
    encoder = dataclasses.asdict(make_pretraining_config(config["model"]).discriminator)
    saved = description | {"encoder": encoder, "task": task, "labels": ["a", "b"], "trained_length": 8}
    return description, saved


def recorded_metrics(path):
    """What a resumed fine-tuning reads from its directory."""
    return with_recorded_metrics({"task": {"metrics": ()}}, path.parent)


def make_readers(corpus, tokenizer, config):
    """All readers. `corpus` and `tokenizer` are directories of this project, `config` is a run's."""
    text = json_of(ROW).replace(b"\n", b"") + b"\n"
    info = (corpus / "corpus.json").read_bytes()
    shards = {path.name: path.read_bytes() for path in corpus.glob("*.array_record*")}
    meta = (tokenizer / "tokenizer_meta.json").read_bytes()
    model = (tokenizer / "spm.model").read_bytes()
    of_parent = lambda read: lambda path: read(path.parent)
    run = json_of({"config": config, "data": []})
    finetuning, saved = finetuned(config)
    of_run = {"config.json": run, "metrics.jsonl": METRICS}
    report = of_parent(lambda directory: read_run(str(directory)))
    dataset = {name: (corpus / name).read_bytes() for name in ("dataset_info.json", "features.json")}
    return [
        Reader("a.txt", b"one document\nits second line\n\nanother\n", documents),
        Reader("a.jsonl", text * 3, documents),
        Reader("a.jsonl.gz", gzip.compress(text * 3, mtime=0), documents),
        Reader("a.parquet", parquet(), documents),
        Reader("rows.jsonl", text * 3, rows),
        Reader("rows.tsv", b"text\tpair\tlabel\na\tb\tyes\nc\td\tno\n", rows),
        Reader("rows.csv", b'text,pair,label\n"a, b",c,yes\nc,"d\ne",no\n', rows),
        Reader("sentences.jsonl", json.dumps(TAGGED).encode() + b"\n", sentences(SENTENCE)),
        Reader("sentences.conll", b"# text = a b\na O\nb B-X\n\nc O\n", sentences(NUMBERED)),
        Reader(
            "sentences.conllu",
            b"# sent_id = 1\n1-2\tab\t_\t_\t_\t_\t_\t_\t_\t_\n1\ta\ta\tX\t_\t_\t0\troot\t_\t_\n",
            sentences(Columns("form", "", "upos")),
        ),
        Reader("squad.json", json_of(SQUAD), lambda path: read_squad_file(str(path), "train", Skipped())),
        Reader("inputs.json", json_of(SQUAD), inputs("json", Wanted("question", "context", "id"))),
        Reader("inputs.tsv", b"text\tpair\na\tb\n", inputs("tsv", Wanted("text", "pair"))),
        Reader("inputs.csv", b'text,pair\n"a, b",c\n', inputs("csv", Wanted("text", "pair"))),
        Reader("inputs.txt", b"a text\nanother\n", inputs("text", Wanted("text", ""))),
        Reader(
            "inputs.conll", b"a O\nb O\n\nc O\n", inputs("conll", Wanted("0", "", tags="1", has_words=True))
        ),
        Reader("vocab.txt", VOCABULARY.encode(), vocabulary),
        Reader("tokenizer.json", WORDPIECE, vocabulary),
        Reader(
            "tokenizer_meta.json", meta, lambda path: load_tokenizer(str(path.parent)), {"spm.model": model}
        ),
        Reader(
            "spm.model", model, lambda path: load_tokenizer(str(path.parent)), {"tokenizer_meta.json": meta}
        ),
        Reader("corpus.json", info, lambda path: load_dataset_info(str(path.parent)), shards),
        Reader("config.json", run, of_parent(read_description)),
        Reader("metrics.jsonl", METRICS, of_parent(read_metrics)),
        Reader("events.jsonl", EVENT, of_parent(read_events)),
        Reader("sessions.jsonl", SESSION, of_parent(read_sessions)),
        Reader("model.safetensors", ARRAYS, read_directory, {"config.json": BERT_CONFIG}),
        Reader("foreign/config.json", BERT_CONFIG, of_parent(read_directory), {"model.safetensors": ARRAYS}),
        Reader("a.jsonl.zst", zstandard.compress(text * 3), documents),
        Reader("pairs.jsonl", json.dumps(PAIRS).encode() + b"\n", lambda path: read_pairs(str(path))),
        Reader("pairs.tsv", b"sentence_good\tsentence_bad\na b\tb a\n", lambda path: read_pairs(str(path))),
        Reader(
            "model.safetensors.index.json",
            json_of({"weight_map": dict.fromkeys(WEIGHTS, "part.safetensors")}),
            of_parent(read_directory),
            {"part.safetensors": ARRAYS, "config.json": BERT_CONFIG},
        ),
        Reader("pytorch_model.bin", pickled(), read_directory, {"config.json": BERT_CONFIG}),
        Reader(
            "verification.safetensors",
            EXPORTED,
            of_parent(lambda directory: check_as_exported(directory, {"model.safetensors": WEIGHTS})),
        ),
        Reader("training_config.json", run, read_training_settings),
        Reader("continued/config.json", run, lambda path: continued.get_config(f"run={path.parent}")),
        Reader("rollbacks.json", json_of(ROLLBACKS), of_parent(read_rollbacks)),
        Reader(
            "datasets.json",
            json_of(DATASETS),
            of_parent(functools.partial(dataset_paths, config=STAGED, step=7)),
        ),
        Reader("report/config.json", run, report, of_run),
        Reader("report/metrics.jsonl", METRICS, report, of_run),
        Reader("report/sessions.jsonl", json.dumps(RUN_SESSION).encode() + b"\n", report, of_run),
        Reader("report/datasets.json", json_of(DATASETS), report, of_run),
        Reader("results.json", json_of(RESULTS), of_parent(read_results)),
        Reader(
            "finetuning/config.json",
            json_of(finetuning),
            recorded_metrics,
            {"results.json": json_of(RESULTS)},
        ),
        Reader("model.json", json_of(saved), of_parent(load_model)),
        Reader(
            "prices.json", json_of({"": "a note", "l4": [0.5, 1]}), lambda path: price_of(str(path), "l4")
        ),
        Reader("dataset_info.json", dataset["dataset_info.json"], of_parent(open_directory), dataset),
        Reader("features.json", dataset["features.json"], of_parent(open_directory), dataset),
    ]


NAMES = [
    "a.txt",
    "a.jsonl",
    "a.jsonl.gz",
    "a.parquet",
    "rows.jsonl",
    "rows.tsv",
    "rows.csv",
    "sentences.jsonl",
    "sentences.conll",
    "sentences.conllu",
    "squad.json",
    "inputs.json",
    "inputs.tsv",
    "inputs.csv",
    "inputs.txt",
    "inputs.conll",
    "vocab.txt",
    "tokenizer.json",
    "tokenizer_meta.json",
    "spm.model",
    "corpus.json",
    "config.json",
    "metrics.jsonl",
    "events.jsonl",
    "sessions.jsonl",
    "model.safetensors",
    "foreign/config.json",
    "a.jsonl.zst",
    "pairs.jsonl",
    "pairs.tsv",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "verification.safetensors",
    "training_config.json",
    "continued/config.json",
    "rollbacks.json",
    "datasets.json",
    "report/config.json",
    "report/metrics.jsonl",
    "report/sessions.jsonl",
    "report/datasets.json",
    "results.json",
    "finetuning/config.json",
    "model.json",
    "prices.json",
    "dataset_info.json",
    "features.json",
]
