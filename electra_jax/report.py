"""Make one HTML page of a pre-training run, or of several to compare them.

    python -m electra_jax.report runs/small
    python -m electra_jax.report runs/small runs/other --out=page.html
    python -m electra_jax.report runs/small --texts=sentences.txt

The page needs no network: curves, events, evaluations, configuration and its difference to the recipe,
starts, datasets, and a token view: what the generator wrote into held-out sentences, and what the
discriminator believed, at several checkpoints. It may be made while the run is training. The page of one run
is its report.html unless --out is given; token views are kept in the run's token_views.json.

RUN is a directory of pretrain, `convert import` or soup, or the URL of a run in a bucket. What is missing or
damaged there, the page says.
"""

import argparse
import sys
from collections.abc import Sequence

from data_pipelines.command_errors import errors_on_the_terminal
from data_pipelines.command_parsers import command_parser
from data_pipelines.number_arguments import whole
from data_pipelines.path_flags import FILE, NEW_FILE, read_arguments
from electra_jax.configuration.process_setup import prepare_process
from electra_jax.distributed.stopping import leaving_at_once
from electra_jax.reports.command_line import MOST, check_flags, make_report
from electra_jax.reports.token_views import TokenSettings

PATHS = {"out": NEW_FILE, "texts": FILE, "json": NEW_FILE}


def make_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = command_parser("electra_jax.report", __doc__)
    add = parser.add_argument
    add("runs", nargs="+", metavar="RUN", help="run directory, or its URL in a bucket")
    add("--out", default="", metavar="FILE", help="page to write (default, of one run: RUN/report.html)")
    text = "a text on each line for the token view (default: held-out rows of the run's datasets)"
    add("--texts", default="", metavar="FILE", help=text)
    add("--sentences", type=whole(1, MOST), default=6, metavar="N", help="of the token view (default: 6)")
    text = "at which the token view is shown, the newest included; 0: no token view (default: 4)"
    add("--checkpoints", type=whole(0, MOST), default=4, metavar="N", help=text)
    text = "what computes token views (default: cpu, so that a run on the accelerator is not disturbed)"
    add("--device", choices=("cpu", "accelerator"), default="cpu", help=text)
    add("--json", default="", metavar="FILE", help="also write the figures as JSON")
    return parser


@errors_on_the_terminal(saves_result=True)
def main(argv: Sequence[str] | None = None) -> None:
    """Command line of this module."""
    flags = read_arguments(make_parser(), argv, PATHS, ("runs",))
    prepare_process()
    out = check_flags(flags)
    settings = TokenSettings(flags.texts, flags.sentences, flags.checkpoints)
    with leaving_at_once(""):
        size = make_report(flags.runs, out, settings, json_file=flags.json, device=flags.device)
    print(f"{out}: {size / 1e6:.1f} MB", file=sys.stderr)
    print(out)


if __name__ == "__main__":
    main()
