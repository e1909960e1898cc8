"""Sentences, pairs and tagged sentences as token ids."""

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from data_pipelines.tasks.load import TaggedExample, TextExample
from data_pipelines.tokenizers.load import Tokenizer

NO_TAG = -1  # of a token that does not begin a word
ENCODE_TEXTS = 1024


class EncodedExample(NamedTuple):
    """An example as token ids, or the part of one."""

    ids: np.ndarray  # int32 [n], [CLS] … [SEP] (… [SEP])
    label: int | float | np.ndarray | None  # as in the example; of tags int32 [n], NO_TAG where none belongs
    example: int  # its place among the examples


def encode_examples(
    tokenizer: Tokenizer,
    examples: Sequence[TextExample] | Sequence[TaggedExample],
    max_length: int,
) -> tuple[list[EncodedExample], int]:
    """Token ids of at most `max_length`, and how many examples did not fit whole.

    [CLS] text [SEP], or [CLS] text [SEP] pair [SEP] with the longer of the two cut first. Tagged words are
    encoded one by one; the first piece carries the tag, and a word that has no piece gets [UNK]. A sentence
    that does not fit becomes several examples, divided between words; only a single word that does not fit is
    cut.

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
        some, some_cut = encode(tokenizer, examples[start : start + ENCODE_TEXTS], max_length)
        encoded += [example._replace(example=start + example.example) for example in some]
        cut += some_cut
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
            # What is left after taking tokens off the longer one, or off the pair where both are as long, one
            # by one.
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
    words = iter(tokenizer.encode_batch([word for example in examples for word in example.words]))
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
