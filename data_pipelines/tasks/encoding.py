"""Encode sentences, pairs and tagged sentences as token ids."""

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from data_pipelines.tasks.examples import TaggedExample, TextExample
from data_pipelines.tasks.labels import NO_TAG
from data_pipelines.tasks.words import spell_words, word_separator
from data_pipelines.tokenizers.load import Tokenizer

ENCODE_TEXTS = 1024


class EncodedExample(NamedTuple):
    """The token ids of an example, or of a part of one."""

    ids: np.ndarray  # int32 [n], [CLS] … [SEP] (… [SEP])
    label: int | float | np.ndarray | None  # see data_pipelines/tasks/labels.py
    example: int  # index of the example


def encode_examples(
    tokenizer: Tokenizer,
    examples: Sequence[TextExample] | Sequence[TaggedExample],
    max_length: int,
) -> tuple[list[EncodedExample], int]:
    """Token ids of every example, at most `max_length` each, and the number of examples that did not fit.

    [CLS] text [SEP], or [CLS] text [SEP] pair [SEP] with the longer of the two truncated first. Tagged words
    are encoded one by one, spelled as in running text (`word_separator`); the first piece carries the tag,
    and a word without pieces becomes [UNK]. A sentence that does not fit is divided between words; only a
    single word that does not fit is truncated.

    Raises:
      ValueError: `max_length` leaves no room for text.
    """
    is_tagged = bool(examples) and isinstance(examples[0], TaggedExample)
    shortest = 5 if not is_tagged and any(example.pair is not None for example in examples) else 3
    if max_length < shortest:
        raise ValueError(
            f"max_length: got {max_length}, expected at least {shortest}, so that every text keeps a token; "
            "ask for longer examples"
        )
    encode = _encode_tagged if is_tagged else _encode_texts
    encoded, cut = [], 0
    for start in range(0, len(examples), ENCODE_TEXTS):
        batch, batch_cut = encode(tokenizer, examples[start : start + ENCODE_TEXTS], max_length)
        encoded += [example._replace(example=start + example.example) for example in batch]
        cut += batch_cut
    return encoded, cut


def _encode_texts(
    tokenizer: Tokenizer, examples: Sequence[TextExample], max_length: int
) -> tuple[list[EncodedExample], int]:
    cls, sep = tokenizer.special.cls, tokenizer.special.sep
    texts = tokenizer.encode_batch([example.text for example in examples])
    pairs = iter(tokenizer.encode_batch([example.pair for example in examples if example.pair is not None]))
    encoded, cut = [], 0
    for index, (example, text) in enumerate(zip(examples, texts, strict=True)):
        pair = None if example.pair is None else next(pairs)
        room = max_length - (2 if pair is None else 3)
        cut += len(text) + len(pair or ()) > room
        if pair is None:
            ids = [cls, *text[:room], sep]
        else:
            # The result of removing single tokens from the longer one, or from the pair if both are equal.
            pair = pair[: max(room // 2, room - len(text))]
            ids = [cls, *text[: room - len(pair)], sep, *pair, sep]
        encoded.append(EncodedExample(np.array(ids, np.int32), example.label, index))
    return encoded, cut


def _encode_tagged(
    tokenizer: Tokenizer,
    examples: Sequence[TaggedExample],
    max_length: int,
) -> tuple[list[EncodedExample], int]:
    cls, sep, unk = tokenizer.special.cls, tokenizer.special.sep, tokenizer.special.unk
    separator = word_separator(tokenizer)
    words = iter(
        tokenizer.encode_batch(
            [word for example in examples for word in spell_words(example.words, separator)]
        )
    )
    room = max_length - 2
    encoded, cut = [], 0
    for index, example in enumerate(examples):
        rows: list[tuple[list[int], list[int]]] = [([], [])]
        is_cut = False
        for tag, pieces in zip(example.tags, itertools.islice(words, len(example.words)), strict=True):
            is_cut |= len(pieces) > room
            pieces = pieces[:room] or [unk]
            if len(rows[-1][0]) + len(pieces) > room:
                rows.append(([], []))
            rows[-1][0].extend(pieces)
            rows[-1][1].extend([tag, *[NO_TAG] * (len(pieces) - 1)])
        cut += is_cut or len(rows) > 1
        encoded += [
            EncodedExample(
                np.array([cls, *ids, sep], np.int32), np.array([NO_TAG, *tags, NO_TAG], np.int32), index
            )
            for ids, tags in rows
        ]
    return encoded, cut
