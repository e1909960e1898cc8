"""Average the parameters of several checkpoints, of one run or of several.

    python -m electra_jax.soup --runs=runs/a,runs/b,runs/c --workdir=runs/soup
    python -m electra_jax.soup --runs=runs/a:900000,runs/a:950000,runs/a --workdir=runs/late
    python -m electra_jax.soup --runs=runs/a,runs/b,runs/c --workdir=runs/soup \\
        --method=greedy --score=probe_finetuned_accuracy

The result is a run directory at step 0: fine-tune it, evaluate it, export it, or continue training from it
with configs/continued.py:run=DIR. It takes its settings from the first run of --runs. Its soup.json lists the
ingredients, their weights and the averages that were tried. The runs must have the same model, tokenizer and
initial parameters; data, objective, learning rate and number of steps may differ. If a run keeps a moving
average (config.train.ema_decay), that is averaged.

--method=uniform averages all checkpoints. --method=greedy sorts them by --score and adds one at a time if
that does not make the average's score worse (Wortsman et al., Model soups, ICML 2022, GreedySoup). A score is
a metric of summary.json, measured with the settings of the first run: on held-out text (heldout_mlm_loss
measures the generator only; heldout_rtd_auc depends on the average's own generator, and a worse generator is
easier to detect), or on the task of config.probe (probe_frozen_accuracy, probe_finetuned_accuracy;
--probe=KEY=VALUE sets another task). The score used for choosing is optimistic: report another metric.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from data_pipelines.command_errors import errors_on_the_terminal
from data_pipelines.command_parsers import command_parser
from data_pipelines.path_flags import DIRECTORY, NAME, NEW_DIRECTORY, read_arguments
from electra_jax.configuration.flags import split_words
from electra_jax.configuration.process_setup import prepare_devices
from electra_jax.distributed.stopping import leaving_at_once
from electra_jax.soups.averaging import METHODS, SoupOptions, make_soup

PATHS = {"runs": NAME, "workdir": NEW_DIRECTORY, "datasets": DIRECTORY}


def make_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = command_parser("electra_jax.soup", __doc__)
    add = parser.add_argument
    runs_help = "checkpoints to average: run directories, each with the step to take (default: its newest)"
    add("--runs", required=True, type=split_words, metavar="DIR[:STEP],…", help=runs_help)
    add("--workdir", required=True, type=Path, metavar="OUT", help="run directory to create")
    add("--method", choices=METHODS, default="uniform", help="default: uniform")
    add("--score", metavar="NAME", help="metric by which greedy chooses; with uniform it is only reported")
    datasets_help = "datasets whose held-out rows --score=heldout_… scores (default: those of the first run)"
    add("--datasets", type=split_words, default=[], metavar="DIR,…", help=datasets_help)
    probe_help = (
        "a value that replaces config.probe.KEY of the first run (train=FILE, validation=FILE, "
        "config=configs/finetune.py:task=…), for --score=probe_…; may be given several times"
    )
    add("--probe", action="append", type=_key_and_value, default=[], metavar="KEY=VALUE", help=probe_help)
    add("--different_starts", action="store_true", help="accept runs that started from different parameters")
    return parser


def _key_and_value(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not equals:
        raise argparse.ArgumentTypeError(f"got {text!r}, expected KEY=VALUE")
    return key, value


@errors_on_the_terminal(saves_result=True)
def main(argv: Sequence[str] | None = None) -> None:
    """Command line of this module."""
    flags = read_arguments(make_parser(), argv, PATHS, ("datasets",))
    prepare_devices()
    chosen = SoupOptions(flags.method, flags.score, flags.datasets, dict(flags.probe), flags.different_starts)
    with leaving_at_once(""):
        record = make_soup(flags.runs, flags.workdir, chosen)
    for one in record["ingredients"]:
        print(f"{one['weight']:.3f}  {one['workdir']}:{one['step']}")
    if record["score"]:
        print(f"{record['score']['name']} of the soup: {record['score']['value']}")
    print(flags.workdir)


if __name__ == "__main__":
    main()
