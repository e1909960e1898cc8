"""The text that the parts train on: made here, the same on every machine, so that nothing has to be fetched.

It is a language of 500 words in which each word has four successors. A model that reads the neighbouring
words predicts a masked word far better than one that counts words, so the debug recipe learns it in a few
hundred steps. Its vocabulary is written here as well: training one would depend on SentencePiece's version.
"""

import random
from pathlib import Path

from data_pipelines.corpus_builder import build_corpus
from data_pipelines.corpus_settings import CorpusSettings
from data_pipelines.tokenizers.adopt import adopt_tokenizer
from data_pipelines.whole_files import write_text

NUM_WORDS = 500
NUM_DOCUMENTS = {"train": 3000, "validation": 200}
SPECIAL_PIECES = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", ".")
SYLLABLES = [consonant + vowel for consonant in "bdfgklmnprstvz" for vowel in "aeiou"]


def build_rows(directory: Path, sequence_length: int) -> Path:
    """The dataset with rows of `sequence_length` ids below `directory`, built unless it is there.

    Raises:
      OSError: it cannot be written.
    """
    rows = directory / f"rows_of_{sequence_length}"
    if rows.exists():  # complete, wherever its directory was when it was built
        return rows
    directory.mkdir(parents=True, exist_ok=True)
    texts = {split: directory / f"{split}.txt" for split in NUM_DOCUMENTS}
    for seed, (split, path) in enumerate(texts.items()):
        if not path.exists():
            write_text(path, "\n\n".join(make_documents(NUM_DOCUMENTS[split], seed)) + "\n")
    vocabulary, tokenizer = directory / "vocab.txt", directory / "tokenizer"
    if not tokenizer.exists():
        write_text(vocabulary, "".join(piece + "\n" for piece in (*SPECIAL_PIECES, *make_words())))
        adopt_tokenizer(vocabulary, tokenizer, lowercase=True)
    settings = CorpusSettings(
        train=(str(texts["train"]),),
        validation=(str(texts["validation"]),),
        tokenizer=str(tokenizer),
        sequence_length=sequence_length,
        packing="documents",
    )
    build_corpus(str(rows), settings)
    return rows


def make_words() -> list[str]:
    """The words, the same on every machine."""
    source = random.Random(0)
    words: dict[str, None] = {}
    while len(words) < NUM_WORDS:
        words["".join(SYLLABLES[_below(source, len(SYLLABLES))] for _ in range(2 + len(words) % 2))] = None
    return list(words)


def make_documents(number: int, seed: int) -> list[str]:
    """Documents of 4 to 15 sentences of 6 to 13 words; the successors of a word do not depend on `seed`."""
    words, table = make_words(), random.Random(1)
    successors = [[_below(table, NUM_WORDS) for _ in range(4)] for _ in words]
    source = random.Random(100 + seed)
    documents = []
    for _ in range(number):
        sentences = []
        for _ in range(4 + _below(source, 12)):
            word, sentence = _below(source, NUM_WORDS), []
            for _ in range(6 + _below(source, 8)):
                sentence.append(words[word])
                word = successors[word][(0, 0, 0, 0, 1, 1, 2, 3)[_below(source, 8)]]
            sentences.append(" ".join(sentence) + ".")
        documents.append(" ".join(sentences))
    return documents


def _below(source: random.Random, end: int) -> int:
    """An integer in [0, end). Only `random` is promised to give the same numbers in every Python."""
    return int(source.random() * end)
