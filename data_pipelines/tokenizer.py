"""Tokenizers: load one, train a SentencePiece model, or adopt a vocabulary that exists.

    python -m data_pipelines.tokenizer --input corpus.jsonl --out tokenizers/mine --vocab_size 8192
    python -m data_pipelines.tokenizer --from vocab.txt --lowercase --out tokenizers/electra
    python -m data_pipelines.tokenizer --from tokenizer.json --out tokenizers/deberta

The first trains on text. The others adopt: ELECTRA's own WordPiece vocabulary (or any vocab.txt), a Hugging
Face tokenizer.json, a directory that holds one of them, or the tokenizer directory of a dataset or of a run.
Everything that follows, from building a dataset to pre-training, takes the directory made here and its
special ids.
"""

import argparse
import itertools
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from data_pipelines.documents import ReadReport, read_documents
from data_pipelines.tokenizers.directory import SpecialIds, kind_of, load_meta
from data_pipelines.tokenizers.huggingface import HuggingFaceTokenizer, adopt_tokenizer
from data_pipelines.tokenizers.sentencepiece import (
    MODEL_TYPES,
    NORMALIZATIONS,
    SentencePieceTokenizer,
    train_tokenizer,
)


class Tokenizer(Protocol):
    """What the pipeline needs of a tokenizer.

    `num_pieces` is one more than the highest id that text can have, `vocab_size` the number of embedding rows
    that a model needs for it; `fingerprint` changes with anything that changes ids.
    """

    directory: str
    fingerprint: str
    num_pieces: int
    vocab_size: int
    special: SpecialIds

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids of each text, without special tokens; text that spells one of them gets ordinary pieces."""

    def encode_with_offsets(self, texts: Sequence[str]) -> list[tuple[list[int], np.ndarray]]:
        """The same ids, and int32 [n, 2] with each: where in the text as given, not as normalised, a piece
        starts and ends.

        White space before a piece is not part of its span; a piece that is nothing else has an empty one.
        Starts never go back, nor do ends. Spans can overlap: pieces of one character all have that
        character's.
        """

    def decode(self, ids: Sequence[int]) -> str:
        """The normalised text of `ids`; special tokens vanish, except for the unknown one."""

    def pieces(self, text: str) -> list[str]:
        """The pieces of `text`, to look at."""

    def vocabulary(self) -> list[str]:
        """The spelling of every id, special ones included; "" for an id that nothing has."""


KINDS = {"sentencepiece": SentencePieceTokenizer, "tokenizers": HuggingFaceTokenizer}


def load_tokenizer(directory: str) -> Tokenizer:
    """The tokenizer in `directory`, after checking that its files belong together.

    Raises:
      FileNotFoundError: no tokenizer, or a file of it is missing. ValueError: a file was changed.
    """
    return KINDS[kind_of(load_meta(Path(directory)))].load(directory)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m data_pipelines.tokenizer",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--out", required=True, metavar="DIR", help="directory to create")
    adopting = parser.add_argument_group("to adopt a vocabulary")
    adopting.add_argument(
        "--from",
        dest="source",
        metavar="PATH",
        help="vocab.txt, tokenizer.json, or a directory with one of them or with a tokenizer made here",
    )
    adopting.add_argument(
        "--lowercase",
        action=argparse.BooleanOptionalAction,
        help="whether a vocab.txt is uncased; needed unless a tokenizer_config.json beside it says so",
    )
    training = parser.add_argument_group("to train one")
    training.add_argument(
        "--input",
        nargs="+",
        metavar="SRC",
        help="text: .txt, .jsonl (both also .gz or .zst), .parquet, or tfds:NAME[@SPLIT]",
    )
    training.add_argument(
        "--vocab_size", type=int, metavar="N", help="pieces to learn, special ones included"
    )
    training.add_argument(
        "--model_type",
        choices=MODEL_TYPES,
        default="unigram",
        help="segmentation algorithm (default: %(default)s)",
    )
    training.add_argument(
        "--byte_fallback",
        action="store_true",
        help="spell unseen characters as bytes instead of [UNK]; takes 256 pieces",
    )
    training.add_argument(
        "--normalization",
        choices=NORMALIZATIONS,
        default="nfkc",
        help="what is done to text first (default: %(default)s)",
    )
    training.add_argument(
        "--on_invalid_utf8",
        choices=("error", "skip", "replace"),
        default="error",
        help="what to do with a line that is not UTF-8 (default: %(default)s)",
    )
    training.add_argument(
        "--text_field",
        default="text",
        help="field of .jsonl, .parquet and tfds sources (default: %(default)s)",
    )
    training.add_argument(
        "--max_training_chars",
        type=int,
        default=20_000_000,
        metavar="N",
        help="characters to train on (default: %(default)s)",
    )
    return parser


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Arguments of one of the two tasks; those of the other would have no effect, so they are errors."""
    parser = _parser()
    args = parser.parse_args(argv)
    if args.source is not None:
        others = [
            name
            for name, value in vars(args).items()
            if name not in ("out", "source", "lowercase") and value != parser.get_default(name)
        ]
        if others:
            parser.error(
                f"--from takes a vocabulary as it is, but --{', --'.join(others)} would train one; leave "
                "out either"
            )
    elif args.input is None or args.vocab_size is None:
        parser.error("expected --input and --vocab_size to train a tokenizer, or --from to adopt one")
    elif args.lowercase is not None:
        parser.error(
            "--lowercase goes with --from; a trained tokenizer lowers case with --normalization "
            "nfkc_lowercase"
        )
    return args


def main(argv: Sequence[str] | None = None) -> int:
    """Command line: train or adopt, then print what came out."""
    args = _parse(argv)
    try:
        for line in _adopt(args) if args.source is not None else _train(args):
            print(line)
    except (ValueError, OSError, ImportError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def _adopt(args: argparse.Namespace) -> list[str]:
    """Adopt, and the lines to print."""
    adopt_tokenizer(args.source, args.out, lowercase=args.lowercase)
    tokenizer = load_tokenizer(args.out)
    return [*_sizes(tokenizer), f"adopted from     {args.source}"]


def _train(args: argparse.Namespace) -> list[str]:
    """Train, and the lines to print."""
    report = ReadReport()

    def read(into: ReadReport) -> Iterator[str]:
        return read_documents(
            args.input, text_field=args.text_field, on_invalid_utf8=args.on_invalid_utf8, report=into
        )

    started = time.monotonic()
    tokenizer = train_tokenizer(
        read(report),
        args.out,
        vocab_size=args.vocab_size,
        model_type=args.model_type,
        byte_fallback=args.byte_fallback,
        normalization=args.normalization,
        max_training_chars=args.max_training_chars,
    )
    seconds = time.monotonic() - started
    lines = _sizes(tokenizer)
    if report.documents:
        lines.append(f"trained in       {seconds:.1f} s on {report.documents} documents")
    else:
        lines.append("trained in       already there with the same options: nothing was trained")
    if report.invalid_utf8:
        lines.append(f"invalid UTF-8    {report.invalid_utf8} lines, the first at {report.first_invalid}")
    return lines + _describe(tokenizer, list(itertools.islice(read(ReadReport()), 200)))


def _sizes(tokenizer: Tokenizer) -> list[str]:
    return [
        f"tokenizer        {tokenizer.directory}",
        f"vocabulary       {tokenizer.num_pieces} pieces, {tokenizer.vocab_size} embedding rows",
        "special ids      "
        f"{', '.join(f'{role} {number}' for role, number in tokenizer.special._asdict().items())}",
    ]


def _describe(tokenizer: Tokenizer, texts: list[str]) -> list[str]:
    """Lines that tell whether the tokenizer is sensible, measured on `texts`."""
    words = sum(len(text.split()) for text in texts)
    ids = [i for row in tokenizer.encode_batch(texts) for i in row]
    if not ids:
        return []
    sample = next(text for text in texts if text.strip())[:120]
    return [
        f"pieces per word  {len(ids) / max(words, 1):.3f}   ({len(texts)} documents)",
        f"unknown pieces   {ids.count(tokenizer.special.unk) / len(ids):.4%}",
        f"sample           {' '.join(tokenizer.pieces(sample))}",
    ]


if __name__ == "__main__":
    sys.exit(main())
