"""Build a dataset: text → tokens → packed rows in a TFDS dataset of ArrayRecord files, split by document.

    python -m data_pipelines.corpus --train train.jsonl --validation valid.jsonl --tokenizer DIR \\
        --sequence_length 128 --packing documents --out DIR
    python -m data_pipelines.corpus --train 'dump.jsonl.zst' --validation_fraction 0.01 --tokenizer DIR \\
        --sequence_length 512 --packing contiguous --out DIR

The same text and settings give the same rows with any number of processes. The directory appears complete or
not at all, and holds a copy of its tokenizer. To resume an interrupted build, give the same command again:
finished files are kept in DIR.partial until then. Documents of more than a million characters are cut at
white space first; the pieces count as documents, and all pieces of a document are in the same split.

The workers of an Apache Beam runner build a corpus that is too large for one machine, with the same rows
(data_pipelines/beam_runner.py):

    python -m data_pipelines.corpus … --runner FlinkRunner -- --flink_master=HOST:8081 --parallelism=64
"""

import argparse
import os
import sys

from data_pipelines.bucket_flags import check_urls
from data_pipelines.command_errors import errors_on_the_terminal
from data_pipelines.corpus_builder import build_corpus, check_build
from data_pipelines.corpus_settings import CorpusSettings
from data_pipelines.documents import ON_INVALID_UTF8, SOURCES_HELP, ReadReport
from data_pipelines.home_directory import expand_home_in
from data_pipelines.packing import PACKERS
from data_pipelines.preview import preview_lines

BUILD_FLAGS = ("num_processes", "runner", "start_over")  # the others are fields of CorpusSettings


@errors_on_the_terminal()
def main() -> None:
    """Build the dataset, then print what it holds."""
    argv = expand_home_in(sys.argv[1:])
    cut = argv.index("--") if "--" in argv else len(argv)
    arguments = vars(_parser().parse_args(argv[:cut]))
    check_urls(arguments)
    out, dry_run = arguments.pop("out"), arguments.pop("dry_run")
    workers = {key: arguments.pop(key) for key in BUILD_FLAGS}
    settings, report = CorpusSettings(**arguments), ReadReport()
    if dry_run:
        check_build(out, settings, **workers, beam_options=argv[cut + 1 :])
        print("\n".join(preview_lines(settings, workers["num_processes"])))
        return
    info = build_corpus(out, settings, **workers, beam_options=argv[cut + 1 :], report=report)
    print("\n".join([*report.lines(settings.on_invalid_utf8), *info.split_lines()]))
    for line in info.unknown_lines():
        print(line, file=sys.stderr)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m data_pipelines.corpus",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add, default = parser.add_argument, "(default %(default)s)"
    add("--train", nargs="+", required=True, metavar="SRC", help=SOURCES_HELP)
    add("--validation", nargs="+", default=(), metavar="SRC", help="held-out documents, as --train")
    add(
        "--validation_fraction",
        type=float,
        default=CorpusSettings.validation_fraction,
        metavar="F",
        help="instead of --validation: hold out this share of the --train documents, by a hash of their text",
    )
    add("--tokenizer", required=True, metavar="DIR", help="directory made by data_pipelines.tokenizer")
    add("--sequence_length", type=int, required=True, help="ids in a row, special ones included")
    add(
        "--packing",
        choices=sorted(PACKERS),
        required=True,
        help="electra: the paper's two segments of one document, drops what does not fit; contiguous: the "
        "text as one stream, cut; documents: whole documents share a row, attention stays inside each",
    )
    add("--out", required=True, metavar="DIR", help="directory to create")
    add("--num_processes", type=int, default=os.cpu_count(), help="worker processes (default: all cores)")
    add(
        "--start_over",
        action="store_true",
        help="remove the finished files of an interrupted build of --out, for one with other settings",
    )
    add(
        "--dry_run",
        action="store_true",
        help="write nothing: show some rows of the first documents, decoded and masked, and how many rows "
        "there will be",
    )
    add("--seed", type=int, default=CorpusSettings.seed, help=f"random seed of --packing electra {default}")
    add(
        "--text_field",
        default=CorpusSettings.text_field,
        help=f"field of JSONL, Parquet and TFDS documents {default}",
    )
    add(
        "--on_invalid_utf8",
        choices=ON_INVALID_UTF8,
        default=CorpusSettings.on_invalid_utf8,
        help=f"stop, skip the line, or replace the invalid bytes by U+FFFD {default}",
    )
    add(
        "--runner",
        default="",
        metavar="NAME",
        help="use the workers of this Apache Beam runner, not --num_processes; flags after -- go to Beam",
    )
    return parser


if __name__ == "__main__":
    main()
