"""The sample corpus as a ready dataset: text, tokenizer and rows in one call, for
`config.data.datasets=sample:wikitext2`."""

import os
import sys
from pathlib import Path

from data_pipelines.corpus import build_corpus
from data_pipelines.documents import read_documents
from data_pipelines.sample import wikitext2
from data_pipelines.tokenizers.sentencepiece import train_tokenizer

PREFIX = "sample:"
VOCAB_SIZE = 8192  # what two million words can fill with pieces that are seen often enough to learn


def prepare_sample(name: str, directory: str | Path, *, sequence_length: int) -> str:
    """Fetch "sample:wikitext2", train a tokenizer on it and pack it; returns the dataset's directory, under
    `directory`.

    What is there already is used again.

    Raises:
      ValueError: no such sample. OSError: it could not be fetched or written.
    """
    if name != f"{PREFIX}wikitext2":
        raise ValueError(
            f"config.data.datasets: got {name!r}, expected the directory of a dataset or '{PREFIX}wikitext2'."
        )
    root = Path(directory) / "wikitext2"
    dataset = root / f"rows_of_{sequence_length}"
    if not dataset.exists():
        print(f"{root}: preparing the sample dataset. {wikitext2.SOURCE}", file=sys.stderr)
    try:
        texts = wikitext2.fetch(root / "text")
    except RuntimeError as error:
        raise OSError(str(error)) from error
    tokenizer = str(root / "tokenizer")
    train_tokenizer(read_documents([str(texts["train"])]), tokenizer, vocab_size=VOCAB_SIZE)
    build_corpus(
        str(dataset),
        train=[str(texts["train"])],
        validation=[str(texts["validation"])],
        tokenizer=tokenizer,
        sequence_length=sequence_length,
        packing="documents",
        num_processes=os.cpu_count() or 1,
    )
    return str(dataset)
