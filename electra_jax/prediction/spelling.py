"""Pieces of a vocabulary as people read them, and texts with [MASK] as token ids.

Shapes: n tokens of a text.
"""

import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from data_pipelines.tokenizers.adopt import SPELLINGS
from data_pipelines.tokenizers.correspondence import BYTE, INSIDE, SPECIAL, Meaning, meanings
from data_pipelines.tokenizers.load import Tokenizer

CONTINUES = "##"  # before a piece inside a word, as BERT and ELECTRA spell it


class Spelled(NamedTuple):
    """The tokens of a text, without [CLS] and [SEP]."""

    ids: np.ndarray  # int32 [n]
    offsets: np.ndarray  # int32 [n, 2], start and end in the text, in characters
    is_mask: np.ndarray  # bool [n], where the text has a [MASK]


class Speller:
    """How texts and pieces of one vocabulary are spelled.

    Attributes:
      special: ids of the special tokens.
      mask: the spelling of [MASK] in texts.
      pieces: id → what people read: tea, ##ing, and special tokens as the vocabulary spells them.
    """

    def __init__(self, tokenizer: Tokenizer):
        self._tokenizer, self.special = tokenizer, tokenizer.special
        vocabulary = tokenizer.vocabulary()
        self.mask = vocabulary[tokenizer.special.mask]
        self.pieces = [
            _read(piece, meaning) for piece, meaning in zip(vocabulary, meanings(tokenizer), strict=True)
        ]
        spellings = sorted({self.mask, *SPELLINGS["mask"]}, key=len, reverse=True)
        self._pattern = re.compile("|".join(map(re.escape, spellings)))

    def piece(self, number: int) -> str:
        """What people read for an id; rows of the embedding table beyond the vocabulary have no piece."""
        return self.pieces[number] if number < len(self.pieces) else f"[unused {number}]"

    def has_mask(self, text: str) -> bool:
        """Whether a text has a [MASK]."""
        return self._pattern.search(text) is not None

    def spell(self, texts: Sequence[str], *, with_masks: bool) -> list[Spelled]:
        """The tokens of each text.

        Args:
          with_masks: whether [MASK] in a text is the special token, as for exports; else it is ordinary text.
            The parts between masks are encoded one by one, and a blank before a mask belongs to it.
        """
        parts = [list(self._parts(text)) if with_masks else [(0, len(text), False)] for text in texts]
        encoded = iter(
            self._tokenizer.encode_with_offsets(
                [
                    text[start:end].rstrip()
                    for text, of_text in zip(texts, parts, strict=True)
                    for start, end, is_mask in of_text
                    if not is_mask
                ]
            )
        )
        spelled = []
        for of_text in parts:
            found = [
                ([self.special.mask], np.array([[start, end]]), True)
                if is_mask
                else (*_shifted(next(encoded), start), False)
                for start, end, is_mask in of_text
            ]
            spelled.append(
                Spelled(
                    np.concatenate([np.array(ids, np.int32) for ids, _, _ in found]),
                    np.concatenate([spans for _, spans, _ in found]).astype(np.int32),
                    np.concatenate([np.full(len(ids), is_mask) for ids, _, is_mask in found]),
                )
            )
        return spelled

    def _parts(self, text: str) -> Iterator[tuple[int, int, bool]]:
        """(start, end, whether it is a mask) of the masks and of what lies between them."""
        at = 0
        for match in self._pattern.finditer(text):
            yield at, match.start(), False
            yield *match.span(), True
            at = match.end()
        yield at, len(text), False


def _shifted(encoded: tuple[list[int], np.ndarray], start: int) -> tuple[list[int], np.ndarray]:
    ids, spans = encoded
    return ids, spans.reshape(-1, 2) + start


def _read(piece: str, meaning: Meaning) -> str:
    if meaning.place in (SPECIAL, BYTE):
        return piece
    letters = meaning.letters.decode("utf-8", "replace")
    is_inside = meaning.place == INSIDE and letters[:1].isalnum()
    return CONTINUES + letters if is_inside else letters or piece
