"""Tokenizers in the format of the Hugging Face library `tokenizers`, one tokenizer.json each.

`adopt_tokenizer` (data_pipelines/tokenizers/adopt.py) makes their directories. The library `tokenizers`
encodes text as the file specifies, with two exceptions: nothing is added, truncated or padded, and text that
spells a special token ("[MASK]") gets ordinary pieces.
"""

import contextlib
import hashlib
import json
import secrets
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import tokenizers

from data_pipelines.json_files import Maybe, parse_json
from data_pipelines.tokenizers.directory import (
    META_FILE,
    MODEL_FILES,
    SpecialIds,
    check_fingerprint,
    load_meta,
    read_model,
)

FORMAT = "tokenizers"
HIDDEN = secrets.token_hex(16)  # before the names of special tokens, which text must not spell
# Of a tokenizer.json, for `read_json`: what this module reads itself.
TOKENIZER_FORM = {
    "model": {"vocab": (dict, list), "unk_token": Maybe((str, type(None)))},
    "added_tokens": Maybe([{"id": int, "content": str, "special": bool}]),
}
SPACE_MARKS = ("▁", "Ġ")  # how a piece spells a space: in SentencePiece, and in byte-level BPE


class HuggingFaceTokenizer:
    """A tokenizer.json loaded from its directory; see `Tokenizer` for the methods.

    `vocab_size` equals `num_pieces`, the highest id plus one: published checkpoints have exactly that many
    embedding rows. `fingerprint` covers the file's bytes and the special ids, nothing else.
    """

    def __init__(self, directory: str, model_bytes: bytes, special: SpecialIds):
        self.directory = str(directory)
        self.special = special
        self.fingerprint = fingerprint_of(model_bytes, special._asdict())
        self._encoder = _make_encoder(model_bytes, special)
        self.normalizer = self._encoder.normalizer  # None: text is unchanged
        self.pre_tokenizer = self._encoder.pre_tokenizer  # None: text is not cut into words
        self.inside_mark = getattr(self._encoder.model, "continuing_subword_prefix", None) or ""
        # Of WordPiece: characters of the longest word that is not unknown; None: no limit.
        self.longest_word = getattr(self._encoder.model, "max_input_chars_per_word", None)
        self.num_pieces = self.vocab_size = num_ids(self._encoder)

    @classmethod
    def load(cls, directory: str) -> "HuggingFaceTokenizer":
        """The tokenizer in `directory`, after checking that its two files belong together.

        Raises:
          FileNotFoundError: a file is missing. ValueError: one was changed.
        """
        path = Path(directory)
        meta = load_meta(path, ("special_ids", "fingerprint"))
        model_bytes = read_model(path, FORMAT)
        computed = fingerprint_of(model_bytes, meta["special_ids"])
        check_fingerprint(path, FORMAT, computed, meta["fingerprint"])
        special = SpecialIds(**{role: meta["special_ids"][role] for role in SpecialIds._fields})
        with tokenizer_errors(str(path / MODEL_FILES[FORMAT])):
            tokenizer = cls(directory, model_bytes, special)
        ids = range(tokenizer.num_pieces)
        beyond = {role: number for role, number in special._asdict().items() if number not in ids}
        if beyond:
            raise ValueError(
                f"{path / META_FILE}: got special ids {beyond}, expected 0 to {tokenizer.num_pieces - 1}. "
                "Restore the file or make the tokenizer again."
            )
        return tokenizer

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids of each text, without [CLS] or [SEP]; an empty text gives an empty list."""
        encodings = self._encoder.encode_batch_fast(list(texts), add_special_tokens=False)
        return [encoding.ids for encoding in encodings]

    def encode_with_offsets(self, texts: Sequence[str]) -> list[tuple[list[int], np.ndarray]]:
        """Ids as by `encode_batch`, with int32 [n, 2]: start and end of each piece in the original text.

        A span excludes the white space before its piece, so that of "▁" alone is empty. It includes combining
        marks that have no piece of their own. Pieces that are bytes have the span of their character.
        """
        encodings = self._encoder.encode_batch(list(texts), add_special_tokens=False)
        return [
            (encoding.ids, _spans(text, encoding)) for text, encoding in zip(texts, encodings, strict=True)
        ]

    def decode(self, ids: Sequence[int]) -> str:
        """The normalised text of `ids`, without [PAD], [CLS], [SEP] and [MASK]; [UNK] keeps its spelling."""
        ids = [int(i) for i in ids]
        for i in ids:
            if not 0 <= i < self.num_pieces:
                raise ValueError(f"decode: got id {i}, expected 0 to {self.num_pieces - 1} (num_pieces - 1)")
        left_out = set(self.special) - {self.special.unk}
        text = self._encoder.decode([i for i in ids if i not in left_out], skip_special_tokens=False)
        return text.replace(HIDDEN, "")  # of other special tokens

    def normalize(self, text: str) -> str:
        """The text as the file's normaliser changes it, before it is cut into pieces."""
        return text if self.normalizer is None else self.normalizer.normalize_str(text)

    def pieces(self, text: str) -> list[str]:
        """The pieces of `text`, for people to read."""
        return self._encoder.encode(text, add_special_tokens=False).tokens

    def vocabulary(self) -> list[str]:
        """The spelling of every id, "" for an id without a piece."""
        vocabulary = self._encoder.get_vocab(with_added_tokens=True)
        spellings = {number: piece.removeprefix(HIDDEN) for piece, number in vocabulary.items()}
        return [spellings.get(number, "") for number in range(self.num_pieces)]


@contextlib.contextmanager
def tokenizer_errors(where: str) -> Iterator[None]:
    """Context of work of the library `tokenizers` on a file: whatever it raises becomes a ValueError.

    Its errors are plain Exceptions, and of some damaged files pyo3's PanicException, a BaseException.
    """
    try:
        yield
    except ValueError:
        raise
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt | SystemExit | GeneratorExit):
            raise
        raise ValueError(
            f"{where}: not a tokenizer.json of the library tokenizers {tokenizers.__version__} "
            f"({str(error)[:200]}); check the path, or install a newer version of the library"
        ) from error


def num_ids(tokenizer: tokenizers.Tokenizer) -> int:
    """The highest id plus one."""
    return max(tokenizer.get_vocab(with_added_tokens=True).values()) + 1


def fingerprint_of(model_bytes: bytes, special_ids: Mapping[str, int]) -> str:
    """SHA-256 of a tokenizer.json and its special ids, role → id."""
    return hashlib.sha256(model_bytes + b"\0" + json.dumps(special_ids, sort_keys=True).encode()).hexdigest()


def _spans(text: str, encoding: tokenizers.Encoding) -> np.ndarray:
    """int32 [n, 2]: the spans in `text` of an encoding's pieces, without the white space before them."""
    spans = []
    for piece, (start, end) in zip(encoding.tokens, encoding.offsets, strict=True):
        covered = text[start:end]
        start += len(covered) - len(covered.lstrip())
        # A space that the tokenizer puts before the text, where it is a separate piece, claims the first
        # character of the first word.
        spans.append((start, start if piece in SPACE_MARKS and covered != piece else end))
    array = np.array(spans, np.int32).reshape(-1, 2)
    if text.isascii() or not spans:
        return array
    # Where the normaliser of the file makes a word of several ("ﷺ"), the library's offsets may go backwards.
    array = np.maximum.accumulate(array, axis=0)
    return np.maximum.accumulate(_with_marks(text, array), axis=0)


def _with_marks(text: str, spans: np.ndarray) -> np.ndarray:
    """Spans that include the combining marks behind them, which the library leaves out where a normaliser
    composes or strips them; a mark with a piece of its own is left to that. `spans` never decrease."""
    starts, ends = spans.T
    after = np.searchsorted(starts, ends)  # the next piece that lies beyond, for spans that are not empty
    limits = np.append(starts, len(text))[after]
    for number in np.flatnonzero((starts < ends) & (ends < limits)):
        end, limit = int(ends[number]), int(limits[number])
        while end < limit and _is_mark(text[end]):
            end += 1
        spans[number, 1] = end
    return spans


def _is_mark(character: str) -> bool:
    """Whether a character is written onto the one before it: an accent, or the rest of a Korean syllable."""
    return (
        unicodedata.combining(character) > 0
        or unicodedata.category(character) == "Mn"
        or "\u1160" <= character <= "\u11ff"
    )


def _make_encoder(model_bytes: bytes, special: SpecialIds) -> tokenizers.Tokenizer:
    """The tokenizer of a tokenizer.json that neither truncates nor pads, and keeps special ids out of text.

    `encode_special_tokens` alone is not enough: it only stops the search for special tokens that precedes the
    model. A model with "[CLS]" among its own pieces (Unigram as in DeBERTaV3) still finds it. So the names of
    special tokens start with HIDDEN, which no text can know. A model looks its unknown piece up by name; that
    one stays.
    """
    described = parse_json(model_bytes, TOKENIZER_FORM, MODEL_FILES[FORMAT])
    described |= {"truncation": None, "padding": None, "post_processor": None}
    described.setdefault("added_tokens", [])
    model = described["model"]
    if "dropout" in model:  # chance in training by others; the same text must have the same ids here
        model["dropout"] = None
    hidden = {token["id"] for token in described["added_tokens"] if token["special"]} | set(special)
    if model.get("unk_token") is not None:  # Unigram refers to it by number
        hidden.discard(special.unk)
    for token in described["added_tokens"]:
        if token["id"] in hidden:
            token |= {"content": HIDDEN + token["content"], "normalized": False}
    if isinstance(model["vocab"], dict):
        model["vocab"] = {
            HIDDEN + piece if number in hidden else piece: number for piece, number in model["vocab"].items()
        }
    else:
        model["vocab"] = [
            [HIDDEN + piece if number in hidden else piece, score]
            for number, (piece, score) in enumerate(model["vocab"])
        ]
    encoder = tokenizers.Tokenizer.from_str(json.dumps(described))
    encoder.encode_special_tokens = True  # for the unknown piece
    return encoder
