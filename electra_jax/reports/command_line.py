"""From the flags of `python -m electra_jax.report` to its files."""

import argparse
from collections.abc import Sequence
from pathlib import Path

import jax

from data_pipelines.buckets import is_bucket
from data_pipelines.json_files import write_json
from data_pipelines.path_flags import NEW_FILE, check_paths
from data_pipelines.whole_files import write_text
from electra_jax.configuration.extras import require_extra
from electra_jax.distributed.platforms import check_platforms
from electra_jax.reports.overview import name_runs, report_values
from electra_jax.reports.page import Page, render
from electra_jax.reports.run_view import read_run
from electra_jax.reports.token_views import TokenSettings, token_views

PAGE = "report.html"  # in the directory of one run
MOST = 1000  # sentences, and checkpoints, of a page


def check_flags(flags: argparse.Namespace) -> Path:
    """The page to write. Flags that are paths have been checked (`check_paths`).

    Raises:
      ValueError, FileNotFoundError: a wrong flag, or the page of a run cannot be written in it.
      ImportError: the extra is not installed.
    """
    require_extra("report", "electra_jax.report")
    if len(set(flags.runs)) < len(flags.runs):
        raise ValueError(f"RUN: got {' '.join(flags.runs)}, expected each run once.")
    if flags.texts and not Path(flags.texts).is_file():
        raise FileNotFoundError(f"--texts: {flags.texts} is not a file, expected a text on each line.")
    if not flags.out and (len(flags.runs) > 1 or is_bucket(flags.runs[0])):
        what = "a run in a bucket" if len(flags.runs) == 1 else f"{len(flags.runs)} runs"
        raise ValueError(f"--out is missing: a page of {what} has no place of its own. Give --out=FILE.html.")
    if flags.out:
        return Path(flags.out)
    page = Path(flags.runs[0], PAGE)
    if page.parent.is_dir():  # `read_run` tells what else a run may be
        check_paths({"out": page}, {"out": NEW_FILE})
    return page


def make_report(
    places: Sequence[str], out: Path, settings: TokenSettings, *, json_file: str = "", device: str = "cpu"
) -> int:
    """Write the page of some runs, and with `json_file` its figures; returns the bytes of the page.
    Directories above them are made.

    Raises:
      FileNotFoundError, ValueError: a place is no pre-training run, or the texts cannot be read.
      OSError: a file cannot be written.
    """
    if device == "cpu":
        jax.config.update("jax_platforms", "cpu")
    check_platforms()
    runs = name_runs([read_run(place) for place in places])
    tokens = {name: token_views(run, settings, run.problems) for name, run in runs.items()}
    page = render(Page(runs, tokens))
    out.parent.mkdir(parents=True, exist_ok=True)
    write_text(out, page)
    if json_file:
        write_json(Path(json_file), report_values(runs), makes_directories=True)
    return out.stat().st_size
