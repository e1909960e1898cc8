"""A comparison of a suite's variants with one number of FLOPs."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from ml_collections import config_dict

from electra_jax.comparison.downstream import raise_diverged, with_first_seed
from electra_jax.comparison.judging import Judges
from electra_jax.comparison.pretraining import pretrain_suite
from electra_jax.comparison.suites import SUITES
from electra_jax.comparison.tables import COMPARISON_FILE, diverged_lines, write_comparison
from electra_jax.runs.only_writer import Check


def compare(
    suite_name: str,
    config: config_dict.ConfigDict,
    num_seeds: int,
    variants: Sequence[str],
    judges: Judges,
    workdir: Path,
    check: Check,
) -> Iterator[str]:
    """Train and judge the variants, write comparison.json and its picture; yield the lines for the terminal.

    Args:
      config: the recipe, with sizes and steps.
      variants: names of some; (): all.

    Raises:
      ValueError, OSError, FloatingPointError: see `pretrain_suite`, `Judges`.
      FloatingPointError: after the last line, if runs diverged; with no line and no file if all did.
    """
    suite = SUITES[suite_name]
    results, diverged = pretrain_suite(suite, config, workdir, num_seeds, variants)
    if not results:
        raise_diverged((), diverged)
    random_starts = suite.random_starts(with_first_seed(results))
    results, notes = judges.on_pairs(results, workdir, check)
    results, diverged_on_tasks = judges.on_tasks(results, workdir, num_seeds, random_starts)
    check()
    yield from write_comparison(suite_name, config, results, workdir, diverged, diverged_on_tasks)
    yield from notes
    yield from diverged_lines(diverged)
    yield f"{workdir / COMPARISON_FILE}"
    raise_diverged(diverged_on_tasks, diverged)
