"""Build a dataset: text → tokens → packed rows in a TFDS dataset of ArrayRecord files, split by document.

    python -m data_pipelines.corpus --train train.jsonl --validation valid.jsonl --tokenizer DIR \\
        --sequence_length 128 --packing documents --out DIR
    python -m data_pipelines.corpus --train 'dump.jsonl.zst' --validation_fraction 0.01 --tokenizer DIR \\
        --sequence_length 512 --packing contiguous --out DIR

The same text and settings give the same rows with any number of processes. The directory appears complete or
not at all, and holds a copy of its tokenizer. To resume an interrupted build, give the same command again:
finished files are kept in DIR.partial until then.

In .txt files a blank line ends a document, or what --document_separator names; elsewhere a record is a
document. Documents of more than --max_document_chars are cut first, at the end of a sentence or at white
space; the pieces count as documents, and all pieces of a document are in the same split.

The workers of an Apache Beam runner build a corpus that is too large for one machine, with the same rows
(data_pipelines/beam_runner.py):

    python -m data_pipelines.corpus … --runner FlinkRunner -- --flink_master=HOST:8081 --parallelism=64
"""

import argparse
import sys

from data_pipelines.command_errors import errors_on_the_terminal, resumable
from data_pipelines.command_parsers import DEFAULT, command_parser
from data_pipelines.corpus_builder import Workers, build_corpus, check_build
from data_pipelines.corpus_settings import CorpusSettings
from data_pipelines.documents import SOURCES_HELP, ReadReport
from data_pipelines.home_directory import expand_home_in
from data_pipelines.number_arguments import LARGEST_SEED, finite, points, share, whole
from data_pipelines.packing import PACKERS
from data_pipelines.path_flags import DIRECTORY, NAME, NEW_DIRECTORY, check_paths
from data_pipelines.preview import preview_lines
from data_pipelines.reading_flags import add_processes_flag, add_record_flags, add_separator_flag
from data_pipelines.selection import HIGHEST, LOWEST

PATHS = {"tokenizer": DIRECTORY, "train": NAME, "validation": NAME, "out": NEW_DIRECTORY}


@errors_on_the_terminal(saves_result=True)
def main() -> None:
    """Build the dataset, then print what it holds."""
    argv = expand_home_in(sys.argv[1:])
    cut = argv.index("--") if "--" in argv else len(argv)
    arguments = vars(_parser().parse_args(argv[:cut]))
    check_paths(arguments, PATHS, argv[:cut])
    out, dry_run, start_over = (arguments.pop(key) for key in ("out", "dry_run", "start_over"))
    workers = Workers(arguments.pop("num_processes"), arguments.pop("runner"), argv[cut + 1 :])
    settings, report = CorpusSettings(**arguments), ReadReport()  # whose fields are the other flags
    if dry_run:
        check_build(out, settings, workers, start_over=start_over)
        print("\n".join(preview_lines(settings, workers.num_processes)))
        return
    with resumable():
        info = build_corpus(out, settings, workers, start_over=start_over, report=report)
    if not report.documents:
        print(f"{out} holds this dataset already; nothing was read. If a source changed, give another --out.")
    print("\n".join([*report.lines(settings.on_invalid_utf8), *info.split_lines()]))
    for line in info.unknown_lines():
        print(line, file=sys.stderr)


def _parser() -> argparse.ArgumentParser:
    parser = command_parser("data_pipelines.corpus", __doc__)
    add = parser.add_argument
    add("--tokenizer", required=True, metavar="DIR", help="directory made by data_pipelines.tokenizer")
    add("--sequence_length", type=whole(3, 2**20), required=True, help="ids in a row, special ones included")
    add(
        "--packing",
        choices=sorted(PACKERS),
        required=True,
        help="electra: the paper's two segments of one document, drops what does not fit; contiguous: the "
        "text as one stream, cut; documents: whole documents share a row, attention stays inside each",
    )
    add(
        "--seed",
        type=whole(0, LARGEST_SEED),
        default=CorpusSettings.seed,
        help=f"random seed of --packing electra and of --copies {DEFAULT}",
    )
    _add_text_flags(parser.add_argument_group("the text"))
    _add_score_flags(parser.add_argument_group("which training documents, by a number that each has"))
    _add_build_flags(parser.add_argument_group("the build"))
    return parser


def _add_text_flags(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add(
        "--train",
        nargs="+",
        required=True,
        metavar="SRC",
        help=f"{SOURCES_HELP}; a blank line ends a .txt document, see --document_separator",
    )
    add("--validation", nargs="+", default=(), metavar="SRC", help="held-out documents, as --train")
    add(
        "--validation_fraction",
        type=share,
        default=CorpusSettings.validation_fraction,
        metavar="F",
        help="instead of --validation: hold out this share of the --train documents, by a hash of their text",
    )
    add_record_flags(add)
    add_separator_flag(add)
    add(
        "--deduplicate",
        action="store_true",
        help="leave out documents whose whole text occurred before, in train or validation; on one machine",
    )
    add(
        "--max_document_chars",
        type=int,
        default=CorpusSettings.max_document_chars,
        metavar="N",
        help=f"cut longer documents, at the end of a sentence where possible {DEFAULT}",
    )


def _add_score_flags(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add(
        "--score_field",
        default=CorpusSettings.score_field,
        metavar="NAME",
        help="field of JSON lines, Parquet and TFDS documents that holds the number, as of "
        "data_pipelines.score; documents without one are left out. Held-out text is not chosen by it",
    )
    add("--min_score", type=finite, metavar="X", help="leave out documents with a smaller number")
    add("--max_score", type=finite, metavar="X", help="leave out documents with a larger number")
    add(
        "--keep_fraction",
        type=share,
        default=CorpusSettings.keep_fraction,
        metavar="F",
        help="instead of bounds: keep this share of the documents, the best ones; all numbers are read first",
    )
    add(
        "--best",
        choices=(HIGHEST, LOWEST),
        default=CorpusSettings.best,
        help=f"which numbers are the best; of losses the lowest {DEFAULT}",
    )
    add(
        "--copies",
        type=points,
        default=CorpusSettings.copies,
        metavar="X:N,X:N",
        help="pack each of the kept documents N times, by its number X: straight between the points, level "
        "beyond them, fractions by chance. 0.2:0,0.9:4 leaves out 0.2 and below, and packs 0.9 and above "
        "four times. If the first X is negative, write =: --copies=-1:4,2:0",
    )


def _add_build_flags(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add("--out", required=True, metavar="DIR", help="directory to create")
    add(
        "--dry_run",
        action="store_true",
        help="write nothing: show some rows of the first documents, decoded and masked, and how many rows "
        "there will be",
    )
    add_processes_flag(add)
    add(
        "--start_over",
        action="store_true",
        help="remove the finished files of an interrupted build of --out, for one with other settings",
    )
    add(
        "--runner",
        default="",
        metavar="NAME",
        help="use the workers of this Apache Beam runner, not --num_processes; flags after -- go to Beam",
    )


if __name__ == "__main__":
    main()
