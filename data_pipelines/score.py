"""Give every document a score by a classifier that learns from examples: how much it is like good text.

    python -m data_pipelines.score --input data/clean/kept-00000.jsonl data/clean/kept-00001.jsonl \\
        --positive good.jsonl --negative web.jsonl --field quality --out data/scored.jsonl
    python -m data_pipelines.corpus --train data/scored.jsonl --score_field quality --keep_fraction 0.1 \\
        --validation_fraction 0.01 --tokenizer DIR --sequence_length 128 --packing documents --out data/best

A linear classifier on hashed n-grams of words learns to distinguish the examples, and a document's score is
its probability of being a positive one, with as many positive as negative ones. A tenth of the examples is
held out: the AUC printed is the share of pairs of a positive and a negative one that have the right order.

Predictive data selection finds the examples by the losses of several models, whose scores downstream are
known: positive ones are documents on which the better of any two models has the smaller loss.

    python -m data_pipelines.score --input web.jsonl --examples losses.jsonl \\
        --losses loss_small=71.2 loss_base=78.4 loss_large=81.0 --field predictive --out data/scored.jsonl

FILE has a line for each document, in order. A JSON line keeps its fields; documents of other sources get
"source", "document", their number, and "record", that of the row or example; pieces of a long document get
"piece_of", which names it. The same files and settings give
the same bytes with any number of processes. The file appears whole or not at all; an interrupted scoring
restarts.

The loss of a pre-trained model is another score: `python -m electra_jax.predict --loss_field=NAME …`.
data_pipelines/scoring/README.md has the sources of both, and how to choose by them.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from data_pipelines.command_errors import errors_on_the_terminal
from data_pipelines.command_parsers import DEFAULT, command_parser
from data_pipelines.documents import SOURCES_HELP, ReadReport
from data_pipelines.number_arguments import named, share, whole
from data_pipelines.path_flags import NAME, NEW_FILE, read_arguments
from data_pipelines.reading_flags import add_processes_flag, add_record_flags, add_separator_flag
from data_pipelines.scoring.scorer import Scored, score_files
from data_pipelines.scoring.settings import ScoringSettings
from data_pipelines.scoring.strength import Found

PATHS = {"input": NAME, "positive": NAME, "negative": NAME, "examples": NAME, "out": NEW_FILE}
SHARES = (0.01, 0.1, 0.25, 0.5, 0.75, 0.9, 0.99)  # of the documents, for the table of scores


@errors_on_the_terminal(saves_result=True)
def main(argv: Sequence[str] | None = None) -> None:
    """Score, then print how well the classifier does and how the scores are distributed."""
    arguments: dict[str, Any] = vars(read_arguments(_parser(), argv, PATHS))
    out, num_processes = (arguments.pop(name) for name in ("out", "num_processes"))
    settings, report = ScoringSettings(**arguments), ReadReport()  # whose fields are the other flags
    scored = score_files(out, settings, num_processes, report)
    print("\n".join([*report.lines(settings.on_invalid_utf8), *_lines(scored, settings.field)]))
    print(f"written: {out}")


def _lines(scored: Scored, field: str) -> list[str]:
    lines = _strength_lines(scored.found) if scored.found else []
    lines += [
        f"{name:9s} {len(side.trained):,} examples trained on, {len(side.held_out):,} held out, of "
        f"{side.num_read:,} different ones"
        for name, side in (("positive", scored.positive), ("negative", scored.negative))
    ]
    lines.append(f"AUC       {scored.auc:.4f} of the held-out examples")
    values = np.quantile(scored.scores, [1 - part for part in SHARES], method="inverted_cdf")
    lines.append(f"{len(scored.scores):,} documents; of the best … have {field} of … or more:")
    lines.append("  ".join(f"{part:.0%} {value:.3g}" for part, value in zip(SHARES, values, strict=True)))
    return lines


def _strength_lines(found: Found) -> list[str]:
    values = found.strengths
    return [
        f"strength  mean {values.mean():.3f} of {len(values):,} documents, 0.5 by chance; "
        f"{(values == 1).sum():,} order all models as their scores do; {found.num_without:,} documents "
        "lack a loss"
    ]


def _parser():
    parser = command_parser("data_pipelines.score", __doc__)
    add = parser.add_argument
    add("--input", nargs="+", required=True, metavar="SRC", help=SOURCES_HELP)
    add("--out", required=True, metavar="FILE", help="file to write, which ends in .jsonl")
    add(
        "--field",
        default=ScoringSettings.field,
        metavar="NAME",
        help=f"field that has the score {DEFAULT}",
    )
    add_processes_flag(add)
    examples = parser.add_argument_group("the examples").add_argument
    examples("--positive", nargs="+", default=(), metavar="SRC", help="documents that should score high")
    examples("--negative", nargs="+", default=(), metavar="SRC", help="documents that should score low")
    examples(
        "--examples",
        nargs="+",
        default=(),
        metavar="SRC",
        help="instead of both: documents that have the losses of several models, to choose examples from",
    )
    examples(
        "--losses",
        nargs="+",
        type=named,
        default=(),
        metavar="NAME=X",
        help="of --examples, for each model the field with its losses and its score downstream, of which "
        "larger ones are better; all models with the same tokenizer",
    )
    examples(
        "--example_share",
        type=share,
        default=ScoringSettings.example_share,
        metavar="F",
        help="of --examples, this share is positive, the documents whose losses order most pairs of models "
        "as their scores do, and as many are negative; 0: positive are those that order all (default: 0)",
    )
    examples(
        "--ngrams",
        type=whole(1, 5),
        default=ScoringSettings.ngrams,
        metavar="N",
        help=f"words of the longest n-gram {DEFAULT}",
    )
    examples(
        "--max_training_chars",
        type=whole(1),
        default=ScoringSettings.max_training_chars,
        metavar="N",
        help=f"characters of the examples of each side, a sample of larger files {DEFAULT}",
    )
    reading = parser.add_argument_group("the text").add_argument
    add_record_flags(reading)
    add_separator_flag(reading)
    return parser


if __name__ == "__main__":
    main()
