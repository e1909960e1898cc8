"""SentencePiece: train a tokenizer, and use it. A model, a text normalisation, and a fingerprint of both.

Every one has the same five special ids. They are control symbols of the model, so no text ever encodes to one
of them (a document that spells out "[MASK]" gets ordinary pieces), except [UNK] for characters the model has
not seen.
"""

import hashlib
import io
import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import sentencepiece
from sentencepiece import sentencepiece_model_pb2, sentencepiece_pb2

from data_pipelines.tokenizers.directory import (
    META_FILE,
    MODEL_FILES,
    SpecialIds,
    check_fingerprint,
    check_free,
    kind_of,
    load_meta,
    meta_bytes,
    read_meta,
    read_model,
    write_directory,
)
from data_pipelines.tokenizers.spans import normalized_spans

KIND = "sentencepiece"
SPECIAL = SpecialIds(pad=0, cls=1, sep=2, unk=3, mask=4)
NORMALIZATIONS = ("nfkc", "nfkc_lowercase", "identity")
MODEL_TYPES = ("unigram", "bpe")
VOCAB_MULTIPLE = 128  # embedding rows are padded to it; ids from num_pieces on are never produced
MAX_LINE_BYTES = 4000  # SentencePiece silently drops training lines above 4192 bytes
SCORE_STEPS = 64  # scores of a Unigram model are multiples of 1/64: see `_round_scores`
TRAINING_THREADS = 4  # part of the model's bytes: the same text and options give the same file on any machine


def normalize_text(text: str, normalization: str) -> str:
    """The text the model sees: Unicode normal form and case by `normalization`, every run of whitespace one
    space."""
    if normalization not in NORMALIZATIONS:
        raise ValueError(f"normalization: got {normalization!r}, expected one of {', '.join(NORMALIZATIONS)}")
    return " ".join(_normal_form(text, normalization).split())


def _normal_form(text: str, normalization: str) -> str:
    """Unicode normal form and case by `normalization`, white space as it comes."""
    if normalization != "identity":
        text = unicodedata.normalize("NFKC", text)
    if normalization == "nfkc_lowercase":
        # Alone, `lower` looks around: a Σ that ends a word becomes ς. No other implementation of this
        # normalisation, such as the exported tokenizer's, does that, so every Σ is one σ here.
        text = unicodedata.normalize("NFKC", text.replace("Σ", "σ").lower())
    return text


class SentencePieceTokenizer:
    """A SentencePiece tokenizer loaded from its directory.

    `num_pieces` is how many pieces the model has; `vocab_size` is that rounded up to a multiple of 128, the
    number of embedding rows. `fingerprint` changes with the model's bytes or the normalisation, and with
    nothing else.
    """

    def __init__(self, directory: str, model_bytes: bytes, normalization: str):
        self.directory = str(directory)
        self.normalization = normalization
        self.special = SPECIAL
        self.fingerprint = _fingerprint(model_bytes, normalization)
        self._processor = sentencepiece.SentencePieceProcessor(model_proto=model_bytes)
        self.num_pieces = self._processor.get_piece_size()
        self.vocab_size = -(-self.num_pieces // VOCAB_MULTIPLE) * VOCAB_MULTIPLE

    @classmethod
    def load(cls, directory: str) -> "SentencePieceTokenizer":
        """The tokenizer in `directory`, after checking that its two files belong together.

        Raises:
          FileNotFoundError: a file is missing. ValueError: one was changed.
        """
        path = Path(directory)
        meta = load_meta(path, ("normalization", "fingerprint"))
        model_bytes = read_model(path, KIND)
        check_fingerprint(path, KIND, _fingerprint(model_bytes, meta["normalization"]), meta["fingerprint"])
        return cls(directory, model_bytes, meta["normalization"])

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids of each text, without [CLS] or [SEP]; an empty text gives an empty list."""
        return self._processor.encode(
            [normalize_text(text, self.normalization) for text in texts], out_type=int
        )

    def encode_with_offsets(self, texts: Sequence[str]) -> list[tuple[list[int], np.ndarray]]:
        """Ids of each text as by `encode_batch`, and int32 [n, 2]: where in the text as given each piece
        starts and ends.

        White space before a piece is not part of its span, so that of "▁" alone is empty. Pieces that are
        bytes have the span of their character; characters that the normalisation changes only together have
        one span.
        """
        normalized = [normalize_text(text, self.normalization) for text in texts]
        # As bytes, for the other ways to ask for positions changed between versions of the library.
        encoded = self._processor.encode(normalized, out_type="serialized_proto")
        return [
            self._ids_and_spans(text, normal, sentencepiece_pb2.SentencePieceText.FromString(pieces))
            for text, normal, pieces in zip(texts, normalized, encoded, strict=True)
        ]

    def _ids_and_spans(self, text: str, normalized: str, encoded: Any) -> tuple[list[int], np.ndarray]:
        """What one text of `encode_with_offsets` comes to; `encoded` is a SentencePieceText."""
        ids = [piece.id for piece in encoded.pieces]
        spans = np.array([(piece.begin, piece.end) for piece in encoded.pieces], np.int32).reshape(
            -1, 2
        )  # in UTF-8 bytes
        for at in range(len(ids) - 2, -1, -1):  # of a character in bytes, the last one has it all
            if spans[at, 0] == spans[at, 1] and self._processor.is_byte(ids[at]):
                spans[at] = spans[at + 1]
        is_first_byte = np.frombuffer(normalized.encode(), np.uint8) & 0xC0 != 0x80
        spans = np.concatenate([[0], np.cumsum(is_first_byte)]).astype(np.int32)[spans]
        starts, ends = normalized_spans(text, lambda part: _normal_form(part, self.normalization))
        first, end = spans.T
        return ids, np.stack([starts[first], np.where(end > first, ends[end - 1], starts[first])], axis=1)

    def decode(self, ids: Sequence[int]) -> str:
        """The normalised text of `ids`; [PAD], [CLS], [SEP] and [MASK] vanish, [UNK] shows as " ⁇ "."""
        ids = [int(i) for i in ids]
        for i in ids:
            if not 0 <= i < self.num_pieces:
                raise ValueError(f"decode: got id {i}, expected 0 to {self.num_pieces - 1} (num_pieces - 1)")
        return self._processor.decode(ids)

    def pieces(self, text: str) -> list[str]:
        """The pieces of `text`, to look at; "▁" is a space."""
        return self._processor.encode(normalize_text(text, self.normalization), out_type=str)

    def vocabulary(self) -> list[str]:
        """The spelling of every id; "▁" is a space."""
        return [self._processor.id_to_piece(i) for i in range(self.num_pieces)]


def train_tokenizer(
    documents: Iterable[str],
    directory: str,
    *,
    vocab_size: int,
    model_type: str = "unigram",
    byte_fallback: bool = False,
    normalization: str = "nfkc",
    character_coverage: float = 0.9995,
    max_training_chars: int = 20_000_000,
) -> SentencePieceTokenizer:
    """Train on the first `max_training_chars` characters of `documents` and save to `directory`.

    The same text and options give the same bytes. The directory appears whole or not at all. One that already
    holds a tokenizer trained with the same options is returned as it is, without reading `documents`; one
    with other options is an error.
    """
    options = {
        "requested_vocab_size": vocab_size,
        "model_type": model_type,
        "byte_fallback": byte_fallback,
        "normalization": normalization,
        "character_coverage": character_coverage,
        "max_training_chars": max_training_chars,
    }
    _check_options(options)
    target = Path(directory)
    existing = _existing(target, options)
    if existing is not None:
        return existing
    model_bytes = _train_model(_training_lines(documents, normalization, max_training_chars), options)
    tokenizer = SentencePieceTokenizer(directory, model_bytes, normalization)
    meta = {
        "kind": KIND,
        **options,
        "num_pieces": tokenizer.num_pieces,
        "vocab_size": tokenizer.vocab_size,
        "special_ids": SPECIAL._asdict(),
        "fingerprint": tokenizer.fingerprint,
    }
    try:
        write_directory(target, {MODEL_FILES[KIND]: model_bytes, META_FILE: meta_bytes(meta)})
    except OSError:
        existing = _existing(target, options)  # another process may have finished first
        if existing is None:
            raise
        return existing
    return tokenizer


def _check_options(options: dict) -> None:
    """Raise for an option that SentencePiece would refuse with an internal message, or accept silently."""
    if options["normalization"] not in NORMALIZATIONS:
        raise ValueError(
            f"normalization: got {options['normalization']!r}, expected one of {', '.join(NORMALIZATIONS)}"
        )
    if options["model_type"] not in MODEL_TYPES:
        raise ValueError(
            f"model_type: got {options['model_type']!r}, expected one of {', '.join(MODEL_TYPES)}"
        )
    fewest = len(SPECIAL) + (256 if options["byte_fallback"] else 0) + 1
    if options["requested_vocab_size"] < fewest:
        raise ValueError(
            f"vocab_size: got {options['requested_vocab_size']}, expected at least {fewest} (special "
            f"pieces{', 256 bytes' if options['byte_fallback'] else ''} and one more)"
        )
    if not 0.98 <= options["character_coverage"] <= 1.0:
        raise ValueError(f"character_coverage: got {options['character_coverage']}, expected 0.98 to 1.0")
    if options["max_training_chars"] < 1:
        raise ValueError(f"max_training_chars: got {options['max_training_chars']}, expected at least 1")


def _existing(directory: Path, options: dict) -> SentencePieceTokenizer | None:
    """The tokenizer in `directory` if its options are these, None where there is nothing, else
    FileExistsError."""
    meta = read_meta(directory)
    if meta is None:
        check_free(directory)
        return None
    if kind_of(meta) != KIND:
        raise FileExistsError(
            f"{directory}: holds a tokenizer of kind {kind_of(meta)!r}, asked for {KIND!r}; choose another "
            "directory, or remove it"
        )
    differing = [
        f"{key} is {meta.get(key)!r}, asked for {value!r}"
        for key, value in options.items()
        if meta.get(key) != value
    ]
    if differing:
        raise FileExistsError(
            f"{directory}: holds a tokenizer trained with other options ({'; '.join(differing)}); "
            "choose another directory, or use the same options"
        )
    return SentencePieceTokenizer.load(str(directory))


def _fingerprint(model_bytes: bytes, normalization: str) -> str:
    return hashlib.sha256(model_bytes + b"\0" + normalization.encode()).hexdigest()


def _training_lines(documents: Iterable[str], normalization: str, max_chars: int) -> Iterator[str]:
    """Normalised lines of at most MAX_LINE_BYTES, in the documents' order, until `max_chars` characters were
    taken."""
    left = max_chars
    for document in documents:
        text = document[:left]
        left -= len(text)
        yield from _split_bytes(normalize_text(text, normalization), MAX_LINE_BYTES)
        if left <= 0:
            return


def _split_bytes(text: str, limit: int) -> Iterator[str]:
    """Pieces of at most `limit` UTF-8 bytes, cut at a space where there is one, else between two
    characters."""
    data = text.encode("utf-8", "replace")
    start = 0
    while start < len(data):
        end = min(start + limit, len(data))
        if end < len(data):
            space = data.rfind(b" ", start + 1, end + 1)
            if space > 0:
                end = space
            else:
                while data[end] & 0xC0 == 0x80:  # inside a character
                    end -= 1
        line = data[start:end].decode("utf-8").strip(" ")
        if line:
            yield line
        start = end


def _train_model(lines: Iterator[str], options: dict) -> bytes:
    """The serialised SentencePiece model."""
    first = next(lines, None)
    if first is None:
        raise ValueError("no text to train a tokenizer on: every document was empty; check the input files")
    model, raised = io.BytesIO(), []

    def guarded() -> Iterator[str]:  # SentencePiece takes an iterator that raises for one that ends
        yield first
        try:
            yield from lines
        except Exception as error:
            raised.append(error)

    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=guarded(),
            model_writer=model,
            vocab_size=options["requested_vocab_size"],
            model_type=options["model_type"],
            byte_fallback=options["byte_fallback"],
            character_coverage=options["character_coverage"],
            normalization_rule_name="identity",
            num_threads=TRAINING_THREADS,
            shuffle_input_sentence=False,
            input_sentence_size=0,
            pad_id=SPECIAL.pad,
            bos_id=SPECIAL.cls,
            eos_id=SPECIAL.sep,
            unk_id=SPECIAL.unk,
            pad_piece="[PAD]",
            bos_piece="[CLS]",
            eos_piece="[SEP]",
            unk_piece="[UNK]",
            control_symbols=["[MASK]"],
            minloglevel=2,
        )
    except RuntimeError as error:
        if raised:
            raise raised[0] from None
        _raise_vocabulary_error(error, options["requested_vocab_size"])
    if raised:
        raise raised[0]
    return _round_scores(model.getvalue()) if options["model_type"] == "unigram" else model.getvalue()


def _round_scores(model_bytes: bytes) -> bytes:
    """The model with scores, logarithms of probabilities, whose sums are exact in float32 up to 262,144: some
    30,000 tokens.

    SentencePiece adds scores in float32, other implementations in float64. Where two segmentations are
    equally good, "**" + "*" and "*" + "**", rounding would choose for the one, and the rule (the first found)
    for the others.
    """
    model = sentencepiece_model_pb2.ModelProto.FromString(model_bytes)
    for piece in model.pieces:
        piece.score = round(piece.score * SCORE_STEPS) / SCORE_STEPS
    return model.SerializeToString(deterministic=True)


def _raise_vocabulary_error(error: RuntimeError, vocab_size: int) -> None:
    """Turn SentencePiece's two complaints about the vocabulary size into errors that say what to do."""
    message = str(error)
    too_high = re.search(r"Vocabulary size too high.*value <= (\d+)", message)
    if too_high:
        raise ValueError(
            f"vocab_size: got {vocab_size}, but the text is too small for it: at most "
            f"{too_high[1]} pieces can be learnt; ask for {too_high[1]} or fewer, or give more "
            "text"
        ) from error
    too_small = re.search(r"smaller than required_chars. \d+ vs (\d+)", message)
    if too_small:
        raise ValueError(
            f"vocab_size: got {vocab_size}, but the text has so many different characters that at least "
            f"{too_small[1]} pieces are needed; ask for more, or lower character_coverage"
        ) from error
    raise error
