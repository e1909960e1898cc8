"""The flags of `python -m electra_jax.predict`, and the options that they set."""

import argparse

from data_pipelines.number_arguments import LARGEST_SEED, whole
from data_pipelines.tasks.unlabelled import ENDINGS, STANDARD_INPUT
from electra_jax.prediction.stream import FORMATS, Options


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags of the model, of the input, and of the output."""
    flag = parser.add_argument
    flag(
        "--model",
        required=True,
        metavar="DIR[:STEP]",
        help="a run (its newest checkpoint, or that of a step), a fine-tuning, an export, or its URL in a "
        "bucket",
    )
    flag("--step", type=whole(0), help="checkpoint of a pre-training run (default: the newest)")
    flag(
        "--input",
        default=STANDARD_INPUT,
        metavar="FILE",
        help="- (default): standard input; .gz is read, too",
    )
    text = "default: as --input ends; for standard input text, with an input on each line"
    flag("--input_format", default="", choices=ENDINGS, help=text)
    text = "column of the text or the question (default: as in the fine-tuning, else text or question)"
    flag("--text_column", default="", metavar="NAME", help=text)
    text = "column of the second text of a pair, or of a question's context"
    flag("--pair_column", default="", metavar="NAME", help=text)
    text = "file to write, whole or not at all, not compressed (default: standard output)"
    flag("--out", default="", metavar="FILE", help=text)
    flag("--format", default="", choices=FORMATS, help="of the output (default: as --out ends, else jsonl)")
    flag("--top", type=whole(1, 10_000), default=5, metavar="N", help="fillings of each [MASK] (default: 5)")
    flag("--demo", action="store_true", help="mask, fill in and judge, for people to read")
    text = "instead: give each text, in this field, the mean loss of the 15 %% of its tokens that are masked"
    flag("--loss_field", default="", metavar="NAME", help=text)
    text = "times that other tokens of each row are masked; with 7 almost all tokens are (default: 1)"
    flag("--masked_copies", type=whole(1, 7), default=1, metavar="N", help=text)
    text = "of embeddings: their first N dimensions (default: all; see config.task.matryoshka)"
    flag("--width", type=whole(1, 2**16), default=0, metavar="N", help=text)
    flag("--normalize", action="store_true", help="of embeddings: divide each by its length")
    flag(
        "--seed",
        type=whole(0, LARGEST_SEED),
        default=0,
        help="of --demo and --loss_field: which tokens are masked and drawn (default: 0)",
    )
    text = "inputs computed at once; with 1, each is answered before the next is read (default: 32)"
    flag("--batch_size", type=whole(1, 2**20), default=32, help=text)


def predict_options(flags: argparse.Namespace) -> Options:
    """The options of a prediction, from its flags."""
    return Options(**{name: getattr(flags, name) for name in Options._fields})
