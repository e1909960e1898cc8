"""Clean text before it is tokenised: JSON lines of the documents worth training on, the others with a reason.

    python -m data_pipelines.clean --input 'crawl-1.jsonl.zst' crawl-2.parquet --out data/clean
    python -m data_pipelines.clean --input crawl.jsonl --out data/clean --repair_unicode --unicode_form NFC \\
        --languages en --decontaminate test.jsonl --evaluation_fields question context --mask email ip phone
    python -m data_pipelines.clean --input books.txt --out data/clean --rules gopher_repetition \\
        --set gopher_max_top_2gram_chars=0.25 gopher_max_duplicate_lines=off

Every document goes through these filters, each only if its option is on: repair and normal form of Unicode,
language, the rules of Gopher and C4 with their published bounds, evaluation text, personal data. Then exact
and near duplicates are found over all files; of each group the first stays.

    DIR/kept-00000.jsonl …            {"text", "source", "document", "record"}: give these to
                                      data_pipelines.corpus; of pieces of a long document also "piece_of"
    DIR/dropped-00000.jsonl …         the same with "reason" and "value"
    DIR/removed_lines-00000.jsonl …   lines that C4's rules removed from kept documents
    DIR/report.md, DIR/cleaning.json  counts for every reason, with examples; counts and settings

The same files and settings give the same bytes with any number of processes. The directory appears complete
or not at all. To resume an interrupted cleaning, give the same command again: its finished pieces are kept in
DIR.partial until then. data_pipelines/cleaning/README.md has all rules, with their sources.
"""

import os
from collections.abc import Sequence
from typing import Any

from data_pipelines.cleaning.builder import REPORT_FILE, clean
from data_pipelines.cleaning.masking import KINDS
from data_pipelines.cleaning.report import report_lines
from data_pipelines.cleaning.rules import GROUPS, RULES
from data_pipelines.cleaning.settings import DUPLICATES, UNICODE_FORMS, CleaningSettings
from data_pipelines.command_errors import errors_on_the_terminal, resumable
from data_pipelines.command_parsers import DEFAULT, command_parser
from data_pipelines.documents import SOURCES_HELP, ReadReport
from data_pipelines.number_arguments import share, whole
from data_pipelines.path_flags import FILE, NAME, NEW_DIRECTORY, read_arguments
from data_pipelines.reading_flags import add_processes_flag, add_record_flags, add_separator_flag

PATHS = {"input": NAME, "decontaminate": NAME, "bad_words": FILE, "out": NEW_DIRECTORY}


@errors_on_the_terminal(saves_result=True)
def main(argv: Sequence[str] | None = None) -> None:
    """Clean, then print what was dropped."""
    arguments: dict[str, Any] = vars(read_arguments(_parser(), argv, PATHS))
    out, num_processes, start_over = (arguments.pop(name) for name in ("out", "num_processes", "start_over"))
    settings, report = CleaningSettings(**arguments), ReadReport()  # whose fields are the other flags
    with resumable():
        counts = clean(out, settings, num_processes, start_over=start_over, report=report)
    if not report.documents:
        print(
            f"{out} holds this cleaning already; nothing was read. If the input has changed, remove it first."
        )
    print("\n".join([*report.lines(settings.on_invalid_utf8), *report_lines(counts, settings)]))
    print(f"kept: {os.path.join(out, 'kept-*.jsonl')}   report: {os.path.join(out, REPORT_FILE)}")


def _parser():
    parser = command_parser("data_pipelines.clean", __doc__)
    add = parser.add_argument
    add("--input", nargs="+", required=True, metavar="SRC", help=SOURCES_HELP)
    add("--out", required=True, metavar="DIR", help="directory to create")
    add_processes_flag(add)
    add(
        "--start_over",
        action="store_true",
        help="remove the finished pieces of an interrupted cleaning into --out, for one with other settings",
    )
    reading = parser.add_argument_group("the text").add_argument
    add_record_flags(reading)
    add_separator_flag(reading)
    _add_change_flags(parser.add_argument_group("what is changed").add_argument)
    _add_filter_flags(parser.add_argument_group("what is dropped").add_argument)
    _add_comparing_flags(parser.add_argument_group("what is dropped, by comparing").add_argument)
    return parser


def _add_change_flags(add) -> None:
    add(
        "--repair_unicode",
        action="store_true",
        help="repair wrongly decoded text (“schÃ¶n”), HTML's entities and control characters, with ftfy",
    )
    add(
        "--unicode_form",
        choices=UNICODE_FORMS,
        default=CleaningSettings.unicode_form,
        help=f"bring the text to this normal form of Unicode {DEFAULT}",
    )
    add(
        "--mask",
        nargs="+",
        choices=KINDS,
        default=(),
        help="replace personal data by names such as |||EMAIL_ADDRESS|||",
    )
    add(
        "--phone_regions",
        nargs="+",
        default=(),
        metavar="XX",
        help="countries, such as US DE, whose telephone numbers are masked without their prefix, too",
    )


def _add_filter_flags(add) -> None:
    add(
        "--languages",
        nargs="+",
        default=(),
        metavar="XX",
        help="keep documents in these languages, as ISO 639 codes: en de (default: any language)",
    )
    add(
        "--language_threshold",
        type=share,
        default=CleaningSettings.language_threshold,
        metavar="P",
        help=f"least probability of the language {DEFAULT}",
    )
    add(
        "--rules",
        nargs="+",
        choices=("none", *GROUPS),
        default=GROUPS,
        help=f"published rules that are applied (default {' '.join(GROUPS)})",
    )
    add(
        "--set",
        nargs="+",
        default=(),
        metavar="NAME=BOUND",
        help=f"another bound for a rule, or off. The rules: {', '.join(RULES)}",
    )
    add(
        "--bad_words",
        default="",
        metavar="FILE",
        help="a word or phrase a line: documents that hold one are dropped, as C4 does with its own list",
    )


def _add_comparing_flags(add) -> None:
    add(
        "--duplicates",
        choices=DUPLICATES,
        default=CleaningSettings.duplicates,
        help=f"which are dropped; near ones include exact ones {DEFAULT}",
    )
    add(
        "--similarity",
        type=share,
        default=CleaningSettings.similarity,
        metavar="S",
        help="share of common five-word sequences (Jaccard similarity, as MinHash estimates it) from which "
        f"documents are near duplicates {DEFAULT}",
    )
    add(
        "--decontaminate",
        nargs="+",
        default=(),
        metavar="SRC",
        help="files with evaluation text: documents that share --shared_words words in a row with it go",
    )
    add(
        "--evaluation_fields",
        nargs="+",
        default=("text",),
        metavar="FIELD",
        help="fields that hold text, of each evaluation file those that it has (default text)",
    )
    add(
        "--shared_words",
        type=whole(1, 1000),
        default=CleaningSettings.shared_words,
        metavar="N",
        help=f"words in a row {DEFAULT}; of evaluation texts with fewer all, but at least 8",
    )
    add(
        "--min_shared",
        type=whole(1),
        default=CleaningSettings.min_shared,
        metavar="N",
        help="drop a document with this many such places or more; a whole evaluation text of fewer words "
        f"always counts {DEFAULT}",
    )


if __name__ == "__main__":
    main()
