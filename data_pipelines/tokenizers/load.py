"""What the pipeline needs of a tokenizer, and loading one from its directory, whatever its format."""

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from data_pipelines.tokenizers.directory import SpecialIds, format_of, load_meta
from data_pipelines.tokenizers.huggingface import HuggingFaceTokenizer
from data_pipelines.tokenizers.sentencepiece import SentencePieceTokenizer

TOKENIZER_CLASSES = {"sentencepiece": SentencePieceTokenizer, "tokenizers": HuggingFaceTokenizer}


class Tokenizer(Protocol):
    """What the pipeline needs of a tokenizer."""

    directory: str
    fingerprint: str  # changes with anything that changes ids
    num_pieces: int  # one more than the highest id that text can have
    vocab_size: int  # number of embedding rows that a model needs
    special: SpecialIds
    inside_mark: str  # before pieces that continue a word, "##" in WordPiece; "": spaces are marked instead

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids of each text, without special tokens; text that spells one of them gets ordinary pieces."""

    def encode_with_offsets(self, texts: Sequence[str]) -> list[tuple[list[int], np.ndarray]]:
        """Ids as by `encode_batch`, with int32 [n, 2]: start and end of each piece in the original text.

        The original text is the one passed in, before normalisation. A span excludes the white space before
        its piece, so a piece of white space alone has an empty span. Starts never decrease, nor do ends.
        Spans can overlap: the pieces of one character all have that character's span.
        """

    def decode(self, ids: Sequence[int]) -> str:
        """The normalised text of `ids`, without special tokens except the unknown one."""

    def normalize(self, text: str) -> str:
        """The normalised text, which the pieces spell."""

    def pieces(self, text: str) -> list[str]:
        """The pieces of `text`, for people to read."""

    def vocabulary(self) -> list[str]:
        """The spelling of every id, special ones included; "" for an id without a piece."""


def load_tokenizer(directory: str) -> Tokenizer:
    """The tokenizer in `directory`, after checking that its files belong together.

    Raises:
      FileNotFoundError: no tokenizer, or one of its files is missing. ValueError: a file was changed.
    """
    return TOKENIZER_CLASSES[format_of(load_meta(Path(directory)))].load(directory)
