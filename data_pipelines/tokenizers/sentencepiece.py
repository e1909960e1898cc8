"""SentencePiece tokenizers: a model, a text normalisation, and a fingerprint of both.

All have the same five special ids. They are control symbols of the model, so no text ever encodes to one of
them (a document that spells "[MASK]" gets ordinary pieces), except that unseen characters become [UNK].
`train_tokenizer` (data_pipelines/tokenizers/train.py) makes their directories.
"""

import hashlib
import re
import unicodedata
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import sentencepiece
from sentencepiece import sentencepiece_pb2

from data_pipelines.tokenizers.directory import (
    META_FILE,
    SpecialIds,
    check_fingerprint,
    load_meta,
    read_model,
)
from data_pipelines.tokenizers.spans import normalized_spans

FORMAT = "sentencepiece"
SPECIAL = SpecialIds(pad=0, cls=1, sep=2, unk=3, mask=4)
NORMALIZATIONS = ("nfkc", "nfkc_lowercase", "nfkc_visible", "nfkc_visible_lowercase", "identity")
# What "nfkc_visible" removes: soft hyphens, zero-width spaces, word joiners, marks of the direction of text,
# byte order marks. Joiners (U+200C, U+200D) stay, since Persian, Hindi and emoji need them. A regular
# expression for Python's `re` and for the library `tokenizers` alike.
INVISIBLE = "[\u00ad\u061c\u180e\u200b\u200e\u200f\u202a-\u202e\u2060-\u2064\u2066-\u206f\ufeff]"
_INVISIBLE = re.compile(INVISIBLE)
VOCAB_MULTIPLE = 128  # embedding rows are padded to it; ids from num_pieces on are never produced


def normalize_text(text: str, normalization: str) -> str:
    """The text that the model sees: normalised, every run of white space one space, none at either end."""
    if normalization not in NORMALIZATIONS:
        raise ValueError(f"normalization: got {normalization!r}, expected one of {', '.join(NORMALIZATIONS)}")
    return " ".join(_normal_form(text, normalization).split())


def _normal_form(text: str, normalization: str) -> str:
    """Unicode normal form and letter case by `normalization`; white space is unchanged."""
    if normalization.startswith("nfkc_visible"):
        text = _INVISIBLE.sub("", text)
    if normalization != "identity":
        text = unicodedata.normalize("NFKC", text)
    if normalization.endswith("_lowercase"):
        # `lower` alone depends on context: a Σ that ends a word becomes ς. No other implementation of this
        # normalisation, such as the exported tokenizer's, does that, so every Σ becomes σ here.
        text = unicodedata.normalize("NFKC", text.replace("Σ", "σ").lower())
    return text


class SentencePieceTokenizer:
    """A SentencePiece tokenizer loaded from its directory; see `Tokenizer` for the methods.

    `num_pieces` is the model's number of pieces, `vocab_size` the next multiple of 128. `fingerprint` covers
    the model's bytes and the normalisation, nothing else.
    """

    def __init__(self, directory: str, model_bytes: bytes, normalization: str):
        self.directory = str(directory)
        self.normalization = normalization
        self.special = SPECIAL
        self.inside_mark = ""
        self.fingerprint = _fingerprint(model_bytes, normalization)
        try:
            self._processor = sentencepiece.SentencePieceProcessor(model_proto=model_bytes)
        except RuntimeError as error:
            raise ValueError(
                f"{directory}: its model is not one of SentencePiece ({error}). Make the tokenizer again."
            ) from error
        self.num_pieces = self._processor.get_piece_size()
        if self.num_pieces <= max(SPECIAL):
            raise ValueError(
                f"{directory}: its model has {self.num_pieces} pieces, expected the special ids "
                f"{SPECIAL._asdict()} among them. Make the tokenizer again."
            )
        self.vocab_size = -(-self.num_pieces // VOCAB_MULTIPLE) * VOCAB_MULTIPLE

    @classmethod
    def load(cls, directory: str) -> "SentencePieceTokenizer":
        """The tokenizer in `directory`, after checking that its two files belong together.

        Raises:
          FileNotFoundError: a file is missing. ValueError: one was changed.
        """
        path = Path(directory)
        meta = load_meta(path, ("normalization", "fingerprint"))
        if meta["normalization"] not in NORMALIZATIONS:
            raise ValueError(
                f"{path / META_FILE}: got normalization {meta['normalization']!r}, expected one of "
                f"{', '.join(NORMALIZATIONS)}. Restore the file or make the tokenizer again."
            )
        model_bytes = read_model(path, FORMAT)
        computed = _fingerprint(model_bytes, meta["normalization"])
        check_fingerprint(path, FORMAT, computed, meta["fingerprint"])
        return cls(directory, model_bytes, meta["normalization"])

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids of each text, without [CLS] or [SEP]; an empty text gives an empty list."""
        return self._processor.encode(
            [normalize_text(text, self.normalization) for text in texts], out_type=int
        )

    def encode_with_offsets(self, texts: Sequence[str]) -> list[tuple[list[int], np.ndarray]]:
        """Ids as by `encode_batch`, with int32 [n, 2]: start and end of each piece in the original text.

        A span excludes the white space before its piece, so that of "▁" alone is empty. Pieces that are bytes
        have the span of their character; characters that the normalisation only changes together share one
        span.
        """
        normalized = [normalize_text(text, self.normalization) for text in texts]
        # As bytes, since the other ways to ask for positions changed between versions of the library.
        encoded = self._processor.encode(normalized, out_type="serialized_proto")
        return [
            self._ids_and_spans(text, normal, sentencepiece_pb2.SentencePieceText.FromString(pieces))
            for text, normal, pieces in zip(texts, normalized, encoded, strict=True)
        ]

    def _ids_and_spans(self, text: str, normalized: str, encoded: Any) -> tuple[list[int], np.ndarray]:
        """Ids and spans of one text; `encoded` is a SentencePieceText."""
        ids = [piece.id for piece in encoded.pieces]
        spans = [(piece.begin, piece.end) for piece in encoded.pieces]  # in UTF-8 bytes of `normalized`
        spans = np.array(spans, np.int32).reshape(-1, 2)
        # Of a character split into bytes, the library gives the whole character to the last byte.
        for at in range(len(ids) - 2, -1, -1):
            if spans[at, 0] == spans[at, 1] and self._processor.is_byte(ids[at]):
                spans[at] = spans[at + 1]
        is_first_byte = np.frombuffer(normalized.encode(), np.uint8) & 0xC0 != 0x80
        spans = np.concatenate([[0], np.cumsum(is_first_byte)]).astype(np.int32)[spans]  # in characters
        starts, ends = normalized_spans(text, lambda part: _normal_form(part, self.normalization))
        first, end = spans.T
        return ids, np.stack([starts[first], np.where(end > first, ends[end - 1], starts[first])], axis=1)

    def decode(self, ids: Sequence[int]) -> str:
        """The normalised text of `ids`, without [PAD], [CLS], [SEP] and [MASK]; [UNK] becomes " ⁇ "."""
        ids = [int(i) for i in ids]
        for i in ids:
            if not 0 <= i < self.num_pieces:
                raise ValueError(f"decode: got id {i}, expected 0 to {self.num_pieces - 1} (num_pieces - 1)")
        return self._processor.decode(ids)

    def normalize(self, text: str) -> str:
        """As `normalize_text`, with the normalisation of this tokenizer."""
        return normalize_text(text, self.normalization)

    def pieces(self, text: str) -> list[str]:
        """The pieces of `text`, for people to read; "▁" is a space."""
        return self._processor.encode(normalize_text(text, self.normalization), out_type=str)

    def vocabulary(self) -> list[str]:
        """The spelling of every id; "▁" is a space."""
        return [self._processor.id_to_piece(i) for i in range(self.num_pieces)]


def _fingerprint(model_bytes: bytes, normalization: str) -> str:
    return hashlib.sha256(model_bytes + b"\0" + normalization.encode()).hexdigest()
