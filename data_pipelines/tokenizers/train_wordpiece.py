"""Train a WordPiece tokenizer on text, of the kind that BERT and ELECTRA have.

The same text and options give the same bytes on any machine: everything that the library's trainer would
number in the order of a hash table is given to it sorted.
"""

import collections
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import tokenizers
from tokenizers import models, pre_tokenizers, trainers

from data_pipelines.tokenizers.directory import MODEL_FILES, SpecialIds
from data_pipelines.tokenizers.huggingface import FORMAT, HuggingFaceTokenizer
from data_pipelines.tokenizers.train import MAX_TRAINING_CHARS
from data_pipelines.tokenizers.trained import (
    check_text_options,
    count_words,
    first_characters,
    has_trained,
    source_options,
    write_trained,
)
from data_pipelines.tokenizers.wordpiece import INSIDE, BertText, wordpiece_json

# As in BERT's and ELECTRA's vocabularies, without their unused places.
NAMES = {"pad": "[PAD]", "unk": "[UNK]", "cls": "[CLS]", "sep": "[SEP]", "mask": "[MASK]"}
SPECIAL = SpecialIds(**{role: number for number, role in enumerate(NAMES)})
CHARACTER_COVERAGE = 0.9999  # higher than for SentencePiece: a word with an unknown character is all [UNK]
REPEATED_AT_ONCE = 1000  # copies of a word in a text for the trainer; bounds the length of the text


def train_wordpiece(
    documents: Iterable[str],
    directory: str,
    *,
    vocab_size: int,
    text: BertText,
    min_frequency: int = 2,
    character_coverage: float = CHARACTER_COVERAGE,
    max_training_chars: int = MAX_TRAINING_CHARS,
) -> HuggingFaceTokenizer:
    """Train on the first `max_training_chars` characters of `documents` and save to `directory`.

    The directory holds tokenizer.json, vocab.txt and tokenizer_config.json, so that `transformers` loads it,
    too. It appears complete or not at all. If it already holds a tokenizer trained with the same options,
    that one is returned and `documents` is not read. Memory holds every different word of the text once.

    Args:
      vocab_size: pieces, the five special ones included.
      min_frequency: two pieces become one if they are neighbours this often.
      character_coverage: the share of the text's characters that get a piece, the most frequent ones first.

    Raises:
      FileExistsError: `directory` holds something else, or a tokenizer of other options.
      ValueError: a wrong option, no text, or a vocabulary size that the text does not allow.
    """
    options = {
        "model_type": "wordpiece",
        "requested_vocab_size": vocab_size,
        "min_frequency": min_frequency,
        "character_coverage": character_coverage,
        "max_training_chars": max_training_chars,
        **source_options(documents),
        **text.config(),
    }
    check_text_options(options)
    if min_frequency < 1:
        raise ValueError(f"min_frequency: got {min_frequency}, expected at least 1")
    if has_trained(Path(directory), FORMAT, options):
        return HuggingFaceTokenizer.load(directory)
    words = count_words(
        first_characters(documents, max_training_chars),
        text.normalizer().normalize_str,
        pre_tokenizers.BertPreTokenizer(),
    )
    pieces = _learn_pieces(words, vocab_size, min_frequency, character_coverage)
    model_bytes = wordpiece_json(pieces, NAMES, text)
    tokenizer = HuggingFaceTokenizer(directory, model_bytes, SPECIAL)
    files = {
        MODEL_FILES[FORMAT]: model_bytes,
        "vocab.txt": "".join(piece + "\n" for piece in tokenizer.vocabulary()).encode(),
        "tokenizer_config.json": _config(text),
    }
    write_trained(tokenizer, FORMAT, files, options)
    return tokenizer


def _alphabet(words: Mapping[str, int], character_coverage: float) -> set[str]:
    """The most frequent characters, until they make up this share of the text."""
    counts: collections.Counter[str] = collections.Counter()
    for word, count in words.items():
        for character in word:
            counts[character] += count
    left = character_coverage * counts.total()
    alphabet = set()
    for character in sorted(counts, key=lambda character: (-counts[character], character)):
        if left <= 0:
            break
        alphabet.add(character)
        left -= counts[character]
    return alphabet


def _learn_pieces(
    words: Mapping[str, int], vocab_size: int, min_frequency: int, character_coverage: float
) -> dict[str, int]:
    """Piece → id. Raises ValueError if the text allows no vocabulary of this size."""
    alphabet = _alphabet(words, character_coverage)
    # One with a rare character is [UNK] as a whole.
    words = {word: count for word, count in sorted(words.items()) if alphabet.issuperset(word)}
    inside = {character for word in words for character in word[1:]}
    fewest = len(NAMES) + len(alphabet) + len(inside)
    if vocab_size < fewest:
        raise ValueError(
            f"vocab_size: got {vocab_size}, but the different characters of the text need at least "
            f"{fewest} pieces; ask for more, or lower character_coverage"
        )
    trainer = trainers.WordPieceTrainer(
        vocab_size=vocab_size,
        min_frequency=min_frequency,
        # The trainer numbers these in this order. It would find the "##x" by itself, in the order of a hash
        # table that differs from one process to the next, and pairs of equal frequency merge in the order of
        # their ids.
        special_tokens=[*NAMES.values(), *(INSIDE + character for character in sorted(inside))],
        initial_alphabet=sorted(alphabet),
        continuing_subword_prefix=INSIDE,
        show_progress=False,
    )
    tokenizer = tokenizers.Tokenizer(models.WordPiece(unk_token=NAMES["unk"]))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.train_from_iterator(_repeated(words), trainer)
    pieces = tokenizer.get_vocab(with_added_tokens=False)
    if len(pieces) < vocab_size:
        raise ValueError(
            f"vocab_size: got {vocab_size}, but the text is too small for it: at most {len(pieces)} pieces "
            f"can be learnt; ask for {len(pieces)} or fewer, give more text, or lower min_frequency"
        )
    return pieces


def _repeated(words: Mapping[str, int]) -> Iterator[str]:
    """Texts with each word as often as it occurs."""
    for word, count in words.items():
        for start in range(0, count, REPEATED_AT_ONCE):
            yield " ".join([word] * min(REPEATED_AT_ONCE, count - start))


def _config(text: BertText) -> bytes:
    """The contents of tokenizer_config.json, for `transformers`."""
    config = {
        "tokenizer_class": "ElectraTokenizer",
        **{f"{role}_token": name for role, name in NAMES.items()},
        **text.config(),
        "clean_up_tokenization_spaces": False,
    }
    return (json.dumps(config, indent=2) + "\n").encode()
