"""Train a SentencePiece or WordPiece tokenizer, adopt a vocabulary, or add words to one.

    python -m data_pipelines.tokenizer --input corpus.jsonl --out tokenizers/mine --vocab_size 8192
    python -m data_pipelines.tokenizer --kind wordpiece --input corpus.jsonl --out tokenizers/wordpiece \\
        --vocab_size 8192
    python -m data_pipelines.tokenizer --from vocab.txt --lowercase --out tokenizers/electra
    python -m data_pipelines.tokenizer --from tokenizer.json --out tokenizers/deberta
    python -m data_pipelines.tokenizer --from runs/imported/tokenizer --add_words 1000 --input domain.jsonl \\
        --out tokenizers/domain

The first two commands train on text. The others adopt: ELECTRA's own WordPiece vocabulary (or any vocab.txt),
a Hugging Face tokenizer.json, a directory that holds one of them, or the tokenizer directory of a dataset or
of a run; the last one also adds words of a text to a WordPiece vocabulary. Every later step, from building a
dataset to pre-training, uses the directory made here and its special ids.
"""

import argparse
import contextlib
import time
from collections.abc import Iterator, Sequence
from typing import Any

from data_pipelines.command_errors import errors_on_the_terminal, shorten
from data_pipelines.command_parsers import command_parser
from data_pipelines.directory_lock import only_maker
from data_pipelines.documents import (
    SOURCES_HELP,
    Piece,
    ReadReport,
    read_pieces,
    source_bytes,
)
from data_pipelines.number_arguments import share, whole
from data_pipelines.path_flags import NAME, NEW_DIRECTORY, read_arguments
from data_pipelines.progress import waiting
from data_pipelines.reading_flags import add_record_flags
from data_pipelines.tokenizers.add_words import MIN_PIECES, add_words, added_lines
from data_pipelines.tokenizers.adopt import LetterCaseError, adopt_tokenizer
from data_pipelines.tokenizers.load import Tokenizer, load_tokenizer
from data_pipelines.tokenizers.lost_marks import stripping_lines
from data_pipelines.tokenizers.report import (
    loss_lines,
    misfit_lines,
    normalization_lines,
    quality_lines,
    size_lines,
)
from data_pipelines.tokenizers.sentencepiece import NORMALIZATIONS
from data_pipelines.tokenizers.train import (
    CHARACTER_COVERAGE,
    MAX_TRAINING_CHARS,
    MODEL_TYPES,
    train_tokenizer,
)
from data_pipelines.tokenizers.train_wordpiece import CHARACTER_COVERAGE as WORDPIECE_COVERAGE
from data_pipelines.tokenizers.train_wordpiece import train_wordpiece
from data_pipelines.tokenizers.trained import READING, NamedDocuments, first_characters
from data_pipelines.tokenizers.watching import watched
from data_pipelines.tokenizers.wordpiece import BertText

PATHS = {"out": NEW_DIRECTORY, "source": NAME, "input": NAME}
SENTENCEPIECE, WORDPIECE = "sentencepiece", "wordpiece"
# Kind → the flags that only it has.
ONLY_OF = {
    SENTENCEPIECE: ("model_type", "byte_fallback", "normalization"),
    WORDPIECE: ("lowercase", "strip_accents", "tokenize_chinese_chars", "min_frequency"),
}
# Flags that go with --from, and those that go with it if it adds words.
WITH_SOURCE = ("out", "source", "lowercase", "add_words")
WITH_ADDED_WORDS = ("input", *READING, "max_training_chars")
MEASURING = "measuring the tokenizer on the text"
MIN_BYTES = 16 << 20  # read, so that they tell how many documents all sources have; they are read in blocks


@errors_on_the_terminal(saves_result=True)
def main(argv: Sequence[str] | None = None) -> None:
    """Train or adopt, then print the result."""
    args = _parse(argv)
    with only_maker(args.out):
        task = _train if args.source is None else _adopt if args.add_words is None else _add_words
        lines = task(args)
    print("\n".join(lines))


def _parser() -> argparse.ArgumentParser:
    parser = command_parser("data_pipelines.tokenizer", __doc__)
    parser.add_argument("--out", required=True, metavar="DIR", help="directory to create")
    adopting = parser.add_argument_group("to adopt a vocabulary")
    adopting.add_argument(
        "--from",
        dest="source",
        metavar="PATH",
        help="vocab.txt, tokenizer.json, or a directory with one of them or with a tokenizer made here",
    )
    adopting.add_argument(
        "--add_words",
        type=whole(1, 2**20),
        metavar="N",
        help="add the N words of --input that are the most frequent of those that the vocabulary cuts into "
        f"{MIN_PIECES} pieces or more; WordPiece only",
    )
    _add_training_flags(parser.add_argument_group("to train one"))
    _add_sentencepiece_flags(parser.add_argument_group("to train SentencePiece"))
    _add_wordpiece_flags(parser.add_argument_group("to train WordPiece"))
    return parser


def _add_training_flags(group: argparse._ArgumentGroup) -> None:
    add, default = group.add_argument, "(default: %(default)s)"
    add("--input", nargs="+", metavar="SRC", help=f"text: {SOURCES_HELP}; a blank line ends a .txt document")
    add("--vocab_size", type=whole(1, 2**24), metavar="N", help="pieces to learn, special ones included")
    add(
        "--kind",
        choices=(SENTENCEPIECE, WORDPIECE),
        default=SENTENCEPIECE,
        help=f"wordpiece is BERT's and ELECTRA's kind {default}",
    )
    add(
        "--character_coverage",
        type=share,
        metavar="SHARE",
        help="share of the text's characters that get a piece, the most frequent ones first (default: "
        f"{CHARACTER_COVERAGE}, of WordPiece {WORDPIECE_COVERAGE})",
    )
    add_record_flags(add)
    add(
        "--max_training_chars",
        type=whole(1, 10**12),
        default=MAX_TRAINING_CHARS,
        metavar="N",
        help=f"read the first N characters; the text behind them is not read {default}",
    )


def _add_sentencepiece_flags(group: argparse._ArgumentGroup) -> None:
    add, default = group.add_argument, "(default: %(default)s)"
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


def _add_wordpiece_flags(group: argparse._ArgumentGroup) -> None:
    add, switch = group.add_argument, argparse.BooleanOptionalAction
    add(
        "--lowercase",
        action=switch,
        help="whether text is lower-cased (default: yes); with --from, whether a vocab.txt is of such text: "
        "needed unless a tokenizer_config.json beside it specifies it",
    )
    add(
        "--strip_accents",
        action=switch,
        help="whether ä becomes a, é becomes e (default: as --lowercase, BERT's rule; many languages want "
        "--no-strip_accents)",
    )
    add(
        "--tokenize_chinese_chars",
        action=switch,
        help="whether each Chinese character is a word (default: yes)",
    )
    add(
        "--min_frequency",
        type=whole(1),
        default=2,
        metavar="N",
        help="two pieces become one if they are neighbours this often (default: %(default)s)",
    )


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Arguments to train or to adopt. Flags of another task would have no effect, so they are errors."""
    parser = _parser()
    args = read_arguments(parser, argv, PATHS)
    given = [name for name, value in vars(args).items() if value != parser.get_default(name)]
    if args.source is not None:
        _check_adoption(parser, args, given)
    elif args.add_words is not None:
        parser.error("--add_words adds to a vocabulary: give it with --from")
    elif args.input is None or args.vocab_size is None:
        parser.error("expected --input and --vocab_size to train a tokenizer, or --from to adopt one")
    elif args.kind == SENTENCEPIECE and args.lowercase is not None:
        parser.error(
            f"--lowercase goes with --from or --kind {WORDPIECE}; SentencePiece lowers case with "
            "--normalization nfkc_lowercase"
        )
    for kind, names in ONLY_OF.items():
        others = [name for name in given if name in names]
        if others and args.source is None and kind != args.kind:
            parser.error(f"--{', --'.join(others)}: only of --kind {kind}, got --kind {args.kind}")
    return args


def _check_adoption(parser: argparse.ArgumentParser, args: argparse.Namespace, given: list[str]) -> None:
    """Ends with an error for flags that do not go with --from."""
    allowed = WITH_SOURCE if args.add_words is None else WITH_SOURCE + WITH_ADDED_WORDS
    others = [name for name in given if name not in allowed]
    if others:
        parser.error(
            f"--from adopts a vocabulary, but --{', --'.join(others)} would train one; leave out either"
        )
    if args.add_words is not None and args.input is None:
        parser.error("--add_words reads the words from a text: give it with --input")


def _adopt(args: argparse.Namespace) -> list[str]:
    """Adopt a vocabulary; returns the lines to print."""
    with _letter_case_flags():
        adopt_tokenizer(args.source, args.out, lowercase=args.lowercase)
    tokenizer = load_tokenizer(args.out)
    return _adopted_lines(args, tokenizer) + stripping_lines(tokenizer)


@contextlib.contextmanager
def _letter_case_flags() -> Iterator[None]:
    """Context that names the flags for a vocab.txt of unknown letter case."""
    try:
        yield
    except LetterCaseError as error:
        raise ValueError(f"{error}, or pass --lowercase or --no-lowercase") from error


def _adopted_lines(args: argparse.Namespace, tokenizer: Tokenizer) -> list[str]:
    return [*size_lines(tokenizer), f"adopted from     {args.source}", *misfit_lines(tokenizer)]


def _add_words(args: argparse.Namespace) -> list[str]:
    """Adopt a vocabulary and add words of a text; returns the lines to print."""
    report, reached = ReadReport(), []
    documents = _noted(_read(args, report), reached)
    with (
        _letter_case_flags(),
        watched(
            documents, args.max_training_chars, report, source_bytes(args.input), "choosing words"
        ) as texts,
    ):
        added = add_words(
            args.source,
            args.out,
            texts,
            max_words=args.add_words,
            max_chars=args.max_training_chars,
            lowercase=args.lowercase,
        )
    read = _text_lines(args, report, reached[-1], "read             ")
    tokenizer = load_tokenizer(args.out)
    lines = _adopted_lines(args, tokenizer) + read + added_lines(added) + report.lines(args.on_invalid_utf8)
    with waiting(MEASURING):
        return lines + loss_lines(tokenizer, _read_again(args))


def _train(args: argparse.Namespace) -> list[str]:
    """Train a tokenizer; returns the lines to print."""
    report, reached, started = ReadReport(), [], time.monotonic()
    documents = _noted(_read(args, report), reached)
    with watched(documents, args.max_training_chars, report, source_bytes(args.input)) as texts:
        tokenizer = _trained(args, texts)
    lines = [*size_lines(tokenizer), *normalization_lines(tokenizer)]
    if report.documents:
        seconds = time.monotonic() - started
        lines += _text_lines(args, report, reached[-1], f"trained in       {seconds:.1f} s on ")
    else:
        lines.append(
            "trained in       already trained, with the same options and names of files: nothing was trained"
        )
    lines += report.lines(args.on_invalid_utf8)
    with waiting(MEASURING):
        return lines + quality_lines(tokenizer, _read_again(args))


def _read(args: argparse.Namespace, report: ReadReport) -> Iterator[Piece]:
    return read_pieces(args.input, report=report, **_reading(args))


def _read_again(args: argparse.Namespace) -> Iterator[str]:
    """The text that was trained on."""
    documents = (piece.text for piece in _read(args, ReadReport()))
    return first_characters(documents, args.max_training_chars)


def _reading(args: argparse.Namespace) -> dict[str, Any]:
    return {name: getattr(args, name) for name in READING}


def _noted(pieces: Iterator[Piece], reached: list[str]) -> Iterator[str]:
    """The texts of `pieces`; adds their sources to `reached`."""
    for piece in pieces:
        if reached[-1:] != [piece.source]:
            reached.append(piece.source)
        yield piece.text


def _trained(args: argparse.Namespace, documents: Iterator[str]) -> Tokenizer:
    """The tokenizer that the flags describe, trained if --out does not have it already."""
    documents = NamedDocuments(documents, args.input, _reading(args))
    options = {"vocab_size": args.vocab_size, "max_training_chars": args.max_training_chars}
    if args.character_coverage is not None:
        options["character_coverage"] = args.character_coverage
    if args.kind == SENTENCEPIECE:
        options |= {name: getattr(args, name) for name in ONLY_OF[SENTENCEPIECE]}
        return train_tokenizer(documents, args.out, **options)
    text = BertText(
        lowercase=args.lowercase is not False,
        strip_accents=args.strip_accents,
        tokenize_chinese_chars=args.tokenize_chinese_chars is not False,
    )
    return train_wordpiece(documents, args.out, text=text, min_frequency=args.min_frequency, **options)


def _text_lines(args: argparse.Namespace, report: ReadReport, last_source: str, label: str) -> list[str]:
    """How much of the text was read; the first line starts with `label`."""
    documents = f"{report.documents:,}"
    if report.characters <= args.max_training_chars:
        rest = f"{report.characters:,} characters, all of the text"
        return [f"{label}{documents} documents: {rest}"]
    total = source_bytes(args.input)
    if total and report.bytes_read >= MIN_BYTES:
        documents += f" of about {report.documents * total // report.bytes_read:,}"
    lines = [
        f"{label}{documents} documents: {args.max_training_chars:,} characters, the cap "
        f"--max_training_chars={args.max_training_chars}"
    ]
    unread = args.input[args.input.index(last_source) + 1 :]
    if unread:
        lines.append(
            f"not read         {shorten(unread)}: the cap ended the text before; if it is of another kind, "
            "raise the cap or mix the sources"
        )
    return lines


if __name__ == "__main__":
    main()
