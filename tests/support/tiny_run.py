"""A tiny corpus, and runs on it as people start them: commands in processes of their own."""

import random
import subprocess
import sys

from data_pipelines.corpus_builder import build_corpus
from data_pipelines.corpus_settings import CorpusSettings
from data_pipelines.tokenizers.train import train_tokenizer
from support.commands import start_module

NUM_STEPS, LENGTH, VOCAB = 60, 32, 128
# One layer each: other tests cover several, and every array costs time in every collective.
VALUES = {
    "model.vocab_size": VOCAB,
    "model.embedding_size": 32,
    "model.max_position_embeddings": LENGTH,
    "model.generator.hidden_size": 32,
    "model.generator.num_layers": 1,
    "model.generator.intermediate_size": 64,
    "model.discriminator.hidden_size": 32,
    "model.discriminator.num_layers": 1,
    "model.discriminator.intermediate_size": 64,
    "model.hidden_dropout": 0.1,
    "data.sequence_length": LENGTH,
    "optimizer.warmup_steps": 10,
    "train.num_steps": NUM_STEPS,
    "train.batch_size": 16,
    "eval.every": 20,
    "eval.batch_size": 16,
    "eval.max_batches": 2,
    "checkpoint.every": 10,
    "log.every": 4,  # a checkpoint falls into the middle of a window
}


def values(data, **changes):
    """Settings of a small run; `changes` by key with "__" for the dots."""
    changes = {key.replace("__", "."): value for key, value in changes.items()}
    return VALUES | {"data.datasets": str(data / "corpus")} | changes


def command(
    workdir, data, *, module="electra_jax.pretrain", config="configs/debug.py", arguments=(), **changes
):
    """The command of a small run; `arguments` are flags beside the settings."""
    return [
        sys.executable,
        "-m",
        module,
        f"--config={config}",
        f"--workdir={workdir}",
        *arguments,
        *(f"--config.{key}={value}" for key, value in values(data, **changes).items()),
    ]


def make_data(root):
    """Fill `root` with "corpus" (rows of 32) and "other", made with another tokenizer."""
    source = random.Random(0)
    words = ["".join(source.choices("abcdefghijklmnoprstu", k=source.randint(2, 7))) for _ in range(200)]
    documents = [" ".join(source.choices(words, k=source.randint(10, 60))) for _ in range(300)]
    (root / "train.txt").write_text("\n\n".join(documents), encoding="utf-8")
    (root / "validation.txt").write_text("\n\n".join(documents[:50]), encoding="utf-8")
    for name, vocab_size in (("corpus", VOCAB), ("other", VOCAB - 8)):
        train_tokenizer(documents, str(root / f"tokenizer_{name}"), vocab_size=vocab_size)
        settings = CorpusSettings(
            train=[str(root / "train.txt")],
            validation=[str(root / "validation.txt")],
            tokenizer=str(root / f"tokenizer_{name}"),
            sequence_length=LENGTH,
            packing="documents",
        )
        build_corpus(str(root / name), settings)


def running(workdir, data, environment, file_limit=None, **choices):
    """The process of `command` with `choices`, just started; no file may grow beyond `file_limit` bytes."""
    return start_module(command(workdir, data, **choices)[2:], environment, file_limit)


def start(workdir, data, environment, file_limit=None, **choices):
    """Run `command` with `choices` to its end; `file_limit` as for `running`."""
    with running(workdir, data, environment, file_limit, **choices) as process:
        out, err = process.communicate(timeout=300)
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)
