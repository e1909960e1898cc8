"""The sample corpus as a finished dataset in one call: text, tokenizer and rows, for
`config.data.datasets=sample:wikitext2`."""

import os
import sys
from pathlib import Path

from data_pipelines.corpus_builder import Workers, build_corpus
from data_pipelines.corpus_settings import CorpusSettings
from data_pipelines.documents import ReadReport, read_documents, source_bytes
from data_pipelines.sample import wikitext2_articles
from data_pipelines.tokenizers.train import MAX_TRAINING_CHARS, train_tokenizer
from data_pipelines.tokenizers.watching import watched

PREFIX = "sample:"
VOCAB_SIZE = 8192  # in two million words, this many pieces occur often enough to be learnt


def prepare_sample(name: str, directory: str | Path, *, sequence_length: int) -> str:
    """Fetch "sample:wikitext2", train a tokenizer on it and pack it; finished parts are used again.

    Returns:
      The dataset's directory, under `directory`.

    Raises:
      ValueError: no such sample, or a damaged download. OSError: it could not be fetched or written.
    """
    if name != f"{PREFIX}wikitext2":
        raise ValueError(
            f"config.data.datasets: got {name!r}, expected the directory of a dataset or '{PREFIX}wikitext2'."
        )
    root = Path(directory) / "wikitext2"
    dataset = root / f"rows_of_{sequence_length}"
    if not dataset.exists():
        print(f"{root}: preparing the sample dataset. {wikitext2_articles.SOURCE}", file=sys.stderr)
    texts = {split: str(path) for split, path in wikitext2_articles.fetch(root / "text").items()}
    tokenizer = str(root / "tokenizer")
    report = ReadReport()
    documents = read_documents([texts["train"]], report=report)
    with watched(documents, MAX_TRAINING_CHARS, report, source_bytes([texts["train"]])) as watched_documents:
        train_tokenizer(
            watched_documents, tokenizer, vocab_size=VOCAB_SIZE, max_training_chars=MAX_TRAINING_CHARS
        )
    settings = CorpusSettings(
        train=(texts["train"],),
        validation=(texts["validation"],),
        tokenizer=tokenizer,
        sequence_length=sequence_length,
        packing="documents",
    )
    build_corpus(str(dataset), settings, Workers(os.cpu_count() or 1))
    return str(dataset)
