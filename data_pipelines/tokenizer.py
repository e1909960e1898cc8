"""Train, save and use the tokenizer: a SentencePiece model, a text normalisation, and a fingerprint of both.

The five special ids are the same in every tokenizer of this project. They are control symbols of the model, so no text
ever encodes to one of them (a document that spells out "[MASK]" gets ordinary pieces), except [UNK] for characters the
model has not seen.

Train one from the shell:

    python -m data_pipelines.tokenizer --input corpus.jsonl --out tokenizers/mine --vocab_size 8192
"""

import argparse
import hashlib
import io
import itertools
import json
import os
import re
import shutil
import sys
import tempfile
import time
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import sentencepiece

from data_pipelines.documents import ReadReport, read_documents

PAD_ID, CLS_ID, SEP_ID, UNK_ID, MASK_ID = 0, 1, 2, 3, 4
SPECIAL_PIECES = {"[PAD]": PAD_ID, "[CLS]": CLS_ID, "[SEP]": SEP_ID, "[UNK]": UNK_ID, "[MASK]": MASK_ID}
NORMALIZATIONS = ("nfkc", "nfkc_lowercase", "identity")
MODEL_TYPES = ("unigram", "bpe")
MODEL_FILE = "spm.model"
META_FILE = "tokenizer_meta.json"
VOCAB_MULTIPLE = 128  # embedding rows are padded to it; ids from num_pieces on are never produced
MAX_LINE_BYTES = 4000  # SentencePiece silently drops training lines above 4192 bytes
TRAINING_THREADS = 4  # part of the model's bytes: the same text and options give the same file on any machine


def normalize_text(text: str, normalization: str) -> str:
    """The text the model sees: Unicode normal form and case by `normalization`, every run of whitespace one space."""
    if normalization not in NORMALIZATIONS:
        raise ValueError(f"normalization: got {normalization!r}, expected one of {', '.join(NORMALIZATIONS)}")
    if normalization != "identity":
        text = unicodedata.normalize("NFKC", text)
    if normalization == "nfkc_lowercase":
        text = unicodedata.normalize("NFKC", text.lower())
    return " ".join(text.split())


class Tokenizer:
    """A tokenizer loaded from its directory.

    `num_pieces` is how many pieces the model has; `vocab_size` is that rounded up to a multiple of 128, the number of
    embedding rows. `fingerprint` changes with the model's bytes or the normalisation, and with nothing else.
    """

    def __init__(self, directory: str, model_bytes: bytes, normalization: str):
        self.directory = str(directory)
        self.normalization = normalization
        self.fingerprint = _fingerprint(model_bytes, normalization)
        self._processor = sentencepiece.SentencePieceProcessor(model_proto=model_bytes)
        self.num_pieces = self._processor.get_piece_size()
        self.vocab_size = -(-self.num_pieces // VOCAB_MULTIPLE) * VOCAB_MULTIPLE

    @classmethod
    def load(cls, directory: str) -> "Tokenizer":
        """The tokenizer in `directory`, after checking that its two files belong together."""
        meta = _read_meta(Path(directory))
        if meta is None:
            raise FileNotFoundError(f"{directory}: no tokenizer here, expected {META_FILE} and {MODEL_FILE}; train one "
                                    "with `python -m data_pipelines.tokenizer`")
        model_path = Path(directory, MODEL_FILE)
        if not model_path.is_file():
            raise FileNotFoundError(f"{model_path}: missing, though {META_FILE} is there; copy the directory again")
        model_bytes = model_path.read_bytes()
        if _fingerprint(model_bytes, meta["normalization"]) != meta["fingerprint"]:
            raise ValueError(f"{model_path}: fingerprint {_fingerprint(model_bytes, meta['normalization'])} but "
                             f"{META_FILE} records {meta['fingerprint']}; one of the two files was changed or damaged, "
                             "restore both from one copy or train again")
        return cls(directory, model_bytes, meta["normalization"])

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids of each text, without [CLS] or [SEP]; an empty text gives an empty list."""
        return self._processor.encode([normalize_text(text, self.normalization) for text in texts], out_type=int)

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


def train_tokenizer(documents: Iterable[str], directory: str, *, vocab_size: int, model_type: str = "unigram",
                    byte_fallback: bool = False, normalization: str = "nfkc", character_coverage: float = 0.9995,
                    max_training_chars: int = 20_000_000) -> Tokenizer:
    """Train on the first `max_training_chars` characters of `documents` and save to `directory`.

    The same text and options give the same bytes. The directory appears whole or not at all. One that already holds a
    tokenizer trained with the same options is returned as it is, without reading `documents`; one with other options
    is an error.
    """
    options = {"requested_vocab_size": vocab_size, "model_type": model_type, "byte_fallback": byte_fallback,
               "normalization": normalization, "character_coverage": character_coverage,
               "max_training_chars": max_training_chars}
    _check_options(options)
    target = Path(directory)
    existing = _existing(target, options)
    if existing is not None:
        return existing
    model_bytes = _train_model(_training_lines(documents, normalization, max_training_chars), options)
    tokenizer = Tokenizer(directory, model_bytes, normalization)
    meta = {**options, "num_pieces": tokenizer.num_pieces, "vocab_size": tokenizer.vocab_size,
            "special_ids": SPECIAL_PIECES, "fingerprint": tokenizer.fingerprint}
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    try:
        temporary.chmod(0o755)
        (temporary / MODEL_FILE).write_bytes(model_bytes)
        (temporary / META_FILE).write_text(json.dumps(meta, indent=1) + "\n", encoding="utf-8")
        os.rename(temporary, target)
    except OSError:
        existing = _existing(target, options)  # another process may have finished first
        if existing is None:
            raise
        return existing
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return tokenizer


def _check_options(options: dict) -> None:
    """Raise for an option that SentencePiece would refuse with an internal message, or accept silently."""
    if options["normalization"] not in NORMALIZATIONS:
        raise ValueError(f"normalization: got {options['normalization']!r}, "
                         f"expected one of {', '.join(NORMALIZATIONS)}")
    if options["model_type"] not in MODEL_TYPES:
        raise ValueError(f"model_type: got {options['model_type']!r}, expected one of {', '.join(MODEL_TYPES)}")
    fewest = len(SPECIAL_PIECES) + (256 if options["byte_fallback"] else 0) + 1
    if options["requested_vocab_size"] < fewest:
        raise ValueError(f"vocab_size: got {options['requested_vocab_size']}, expected at least {fewest} (special "
                         f"pieces{', 256 bytes' if options['byte_fallback'] else ''} and one more)")
    if not 0.98 <= options["character_coverage"] <= 1.0:
        raise ValueError(f"character_coverage: got {options['character_coverage']}, expected 0.98 to 1.0")
    if options["max_training_chars"] < 1:
        raise ValueError(f"max_training_chars: got {options['max_training_chars']}, expected at least 1")


def _existing(directory: Path, options: dict) -> Tokenizer | None:
    """The tokenizer in `directory` if its options are these, None where there is nothing, else FileExistsError."""
    meta = _read_meta(directory)
    if meta is None:
        if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
            raise FileExistsError(f"{directory}: exists and holds no tokenizer; choose another directory or remove it")
        return None
    differing = [f"{key} is {meta.get(key)!r}, asked for {value!r}" for key, value in options.items()
                 if meta.get(key) != value]
    if differing:
        raise FileExistsError(f"{directory}: holds a tokenizer trained with other options ({'; '.join(differing)}); "
                              "choose another directory, or use the same options")
    return Tokenizer.load(str(directory))


def _read_meta(directory: Path) -> dict | None:
    """The contents of the directory's meta file, None if it has none."""
    path = directory / META_FILE
    if not path.is_file():
        return None
    try:
        meta = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path}: not valid JSON ({error}); restore the file or train again") from error
    missing = [key for key in ("normalization", "fingerprint") if key not in meta]
    if missing:
        raise ValueError(f"{path}: no {' and no '.join(missing)}, found {sorted(meta)}; restore it or train again")
    return meta


def _fingerprint(model_bytes: bytes, normalization: str) -> str:
    return hashlib.sha256(model_bytes + b"\0" + normalization.encode()).hexdigest()


def _training_lines(documents: Iterable[str], normalization: str, max_chars: int) -> Iterator[str]:
    """Normalised lines of at most MAX_LINE_BYTES, in the documents' order, until `max_chars` characters were taken."""
    left = max_chars
    for document in documents:
        text = document[:left]
        left -= len(text)
        yield from _split_bytes(normalize_text(text, normalization), MAX_LINE_BYTES)
        if left <= 0:
            return


def _split_bytes(text: str, limit: int) -> Iterator[str]:
    """Pieces of at most `limit` UTF-8 bytes, cut at a space where there is one, else between two characters."""
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
            sentence_iterator=guarded(), model_writer=model,
            vocab_size=options["requested_vocab_size"], model_type=options["model_type"],
            byte_fallback=options["byte_fallback"], character_coverage=options["character_coverage"],
            normalization_rule_name="identity", num_threads=TRAINING_THREADS, shuffle_input_sentence=False,
            input_sentence_size=0, pad_id=PAD_ID, bos_id=CLS_ID, eos_id=SEP_ID, unk_id=UNK_ID, pad_piece="[PAD]",
            bos_piece="[CLS]", eos_piece="[SEP]", unk_piece="[UNK]", control_symbols=["[MASK]"], minloglevel=2)
    except RuntimeError as error:
        if raised:
            raise raised[0] from None
        _raise_vocabulary_error(error, options["requested_vocab_size"])
    if raised:
        raise raised[0]
    return model.getvalue()


def _raise_vocabulary_error(error: RuntimeError, vocab_size: int) -> None:
    """Turn SentencePiece's two complaints about the vocabulary size into errors that say what to do."""
    message = str(error)
    too_high = re.search(r"Vocabulary size too high.*value <= (\d+)", message)
    if too_high:
        raise ValueError(f"vocab_size: got {vocab_size}, but the text is too small for it: at most "
                         f"{too_high[1]} pieces can be learnt; ask for {too_high[1]} or fewer, or give more "
                         "text") from error
    too_small = re.search(r"smaller than required_chars. \d+ vs (\d+)", message)
    if too_small:
        raise ValueError(f"vocab_size: got {vocab_size}, but the text has so many different characters that at least "
                         f"{too_small[1]} pieces are needed; ask for more, or lower character_coverage") from error
    raise error


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m data_pipelines.tokenizer", description="Train a SentencePiece tokenizer for pre-training.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--input", nargs="+", required=True, metavar="SRC",
                        help="text: .txt, .jsonl (both also .gz or .zst), .parquet, or tfds:NAME[@SPLIT]")
    parser.add_argument("--out", required=True, metavar="DIR", help="directory to create")
    parser.add_argument("--vocab_size", type=int, required=True, help="pieces to learn, special ones included")
    parser.add_argument("--model_type", choices=MODEL_TYPES, default="unigram", help="segmentation algorithm")
    parser.add_argument("--byte_fallback", action="store_true",
                        help="spell unseen characters as bytes instead of [UNK]; takes 256 pieces")
    parser.add_argument("--normalization", choices=NORMALIZATIONS, default="nfkc", help="what is done to text first")
    parser.add_argument("--on_invalid_utf8", choices=("error", "skip", "replace"), default="error",
                        help="what to do with a line that is not UTF-8")
    parser.add_argument("--text_field", default="text", help="field of .jsonl, .parquet and tfds sources")
    parser.add_argument("--max_training_chars", type=int, default=20_000_000, help="characters to train on")
    return parser


def _describe(tokenizer: Tokenizer, texts: list[str]) -> list[str]:
    """Lines that tell whether the tokenizer is sensible, measured on `texts`."""
    words = sum(len(text.split()) for text in texts)
    ids = [i for row in tokenizer.encode_batch(texts) for i in row]
    if not ids:
        return []
    sample = next(text for text in texts if text.strip())[:120]
    return [f"pieces per word  {len(ids) / max(words, 1):.3f}   ({len(texts)} documents)",
            f"unknown pieces   {ids.count(UNK_ID) / len(ids):.4%}",
            f"sample           {' '.join(tokenizer.pieces(sample))}"]


def main(argv: Sequence[str] | None = None) -> int:
    """Command line: train, then print what came out."""
    args = _parser().parse_args(argv)
    report = ReadReport()

    def read(into: ReadReport) -> Iterator[str]:
        return read_documents(args.input, text_field=args.text_field, on_invalid_utf8=args.on_invalid_utf8, report=into)

    started = time.monotonic()
    try:
        tokenizer = train_tokenizer(read(report), args.out, vocab_size=args.vocab_size, model_type=args.model_type,
                                    byte_fallback=args.byte_fallback, normalization=args.normalization,
                                    max_training_chars=args.max_training_chars)
        seconds = time.monotonic() - started
        texts = list(itertools.islice(read(ReadReport()), 200))
    except (ValueError, OSError, ImportError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"tokenizer        {args.out}")
    print(f"vocabulary       {tokenizer.num_pieces} pieces, {tokenizer.vocab_size} embedding rows")
    if report.documents:
        print(f"trained in       {seconds:.1f} s on {report.documents} documents")
    else:
        print("trained in       already there with the same options: nothing was trained")
    if report.invalid_utf8:
        print(f"invalid UTF-8    {report.invalid_utf8} lines, the first at {report.first_invalid}")
    for line in _describe(tokenizer, texts):
        print(line)
    return 0


if __name__ == "__main__":
    sys.exit(main())
