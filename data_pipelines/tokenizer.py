"""Train a SentencePiece tokenizer, or adopt an existing vocabulary.

    python -m data_pipelines.tokenizer --input corpus.jsonl --out tokenizers/mine --vocab_size 8192
    python -m data_pipelines.tokenizer --from vocab.txt --lowercase --out tokenizers/electra
    python -m data_pipelines.tokenizer --from tokenizer.json --out tokenizers/deberta

The first command trains on text. The others adopt: ELECTRA's own WordPiece vocabulary (or any vocab.txt), a
Hugging Face tokenizer.json, a directory that holds one of them, or the tokenizer directory of a dataset or of
a run. Every later step, from building a dataset to pre-training, uses the directory made here and its special
ids.
"""

import argparse
import itertools
import time
from collections.abc import Iterator, Sequence

from data_pipelines.bucket_flags import check_urls
from data_pipelines.command_errors import errors_on_the_terminal
from data_pipelines.documents import ON_INVALID_UTF8, SOURCES_HELP, ReadReport, read_documents
from data_pipelines.home_directory import parse_arguments
from data_pipelines.tokenizers.adopt import LetterCaseError, adopt_tokenizer
from data_pipelines.tokenizers.load import load_tokenizer
from data_pipelines.tokenizers.report import misfit_lines, quality_lines, size_lines
from data_pipelines.tokenizers.sentencepiece import NORMALIZATIONS
from data_pipelines.tokenizers.train import MODEL_TYPES, train_tokenizer

SAMPLE_DOCUMENTS = 200  # that the printed figures are measured on


@errors_on_the_terminal()
def main(argv: Sequence[str] | None = None) -> None:
    """Train or adopt, then print the result."""
    args = _parse(argv)
    check_urls(vars(args))
    print("\n".join(_train(args) if args.source is None else _adopt(args)))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m data_pipelines.tokenizer",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--out", required=True, metavar="DIR", help="directory to create")
    adopting = parser.add_argument_group("to adopt a vocabulary")
    add = adopting.add_argument
    add(
        "--from",
        dest="source",
        metavar="PATH",
        help="vocab.txt, tokenizer.json, or a directory with one of them or with a tokenizer made here",
    )
    add(
        "--lowercase",
        action=argparse.BooleanOptionalAction,
        help="whether a vocab.txt is uncased; needed unless a tokenizer_config.json beside it specifies it",
    )
    training = parser.add_argument_group("to train one")
    add = training.add_argument
    add("--input", nargs="+", metavar="SRC", help=f"text: {SOURCES_HELP}")
    add("--vocab_size", type=int, metavar="N", help="pieces to learn, special ones included")
    default = "(default: %(default)s)"
    add("--model_type", choices=MODEL_TYPES, default="unigram", help=f"segmentation algorithm {default}")
    add(
        "--byte_fallback",
        action="store_true",
        help="spell unseen characters as bytes instead of [UNK]; takes 256 pieces",
    )
    add(
        "--normalization",
        choices=NORMALIZATIONS,
        default="nfkc",
        help="text normalisation; nfkc_visible also removes soft hyphens, zero-width spaces and other "
        f"invisible characters, which otherwise split words {default}",
    )
    add(
        "--on_invalid_utf8",
        choices=ON_INVALID_UTF8,
        default="error",
        help=f"treatment of lines that are not UTF-8 {default}",
    )
    add("--text_field", default="text", help=f"field of .jsonl, .parquet and tfds sources {default}")
    add(
        "--max_training_chars",
        type=int,
        default=20_000_000,
        metavar="N",
        help=f"characters to train on {default}",
    )
    return parser


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Arguments to train or to adopt. Flags of the other task would have no effect, so they are errors."""
    parser = _parser()
    args = parse_arguments(parser, argv)
    if args.source is not None:
        others = [
            name
            for name, value in vars(args).items()
            if name not in ("out", "source", "lowercase") and value != parser.get_default(name)
        ]
        if others:
            parser.error(
                f"--from adopts a vocabulary, but --{', --'.join(others)} would train one; leave out either"
            )
    elif args.input is None or args.vocab_size is None:
        parser.error("expected --input and --vocab_size to train a tokenizer, or --from to adopt one")
    elif args.lowercase is not None:
        parser.error(
            "--lowercase goes with --from; a trained tokenizer lowers case with --normalization "
            "nfkc_lowercase"
        )
    return args


def _adopt(args: argparse.Namespace) -> list[str]:
    """Adopt a vocabulary; returns the lines to print."""
    try:
        adopt_tokenizer(args.source, args.out, lowercase=args.lowercase)
    except LetterCaseError as error:
        raise ValueError(f"{error}, or pass --lowercase or --no-lowercase") from error
    tokenizer = load_tokenizer(args.out)
    return [*size_lines(tokenizer), f"adopted from     {args.source}", *misfit_lines(tokenizer)]


def _train(args: argparse.Namespace) -> list[str]:
    """Train a tokenizer; returns the lines to print."""
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
    lines = size_lines(tokenizer)
    if report.documents:
        lines.append(f"trained in       {seconds:.1f} s on {report.documents} documents")
    else:
        lines.append("trained in       already trained with the same options: nothing was trained")
    lines += report.lines(args.on_invalid_utf8)
    sample = itertools.islice(read(ReadReport()), SAMPLE_DOCUMENTS)
    return lines + quality_lines(tokenizer, list(sample))


if __name__ == "__main__":
    main()
