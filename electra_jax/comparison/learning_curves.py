"""Learning curves: the variants of a suite, trained with several numbers of tokens.

Every point is a whole run, with the whole schedule of its learning rate. A checkpoint on the way of a longer
run would be worse than a run that ends there, since its rate has not come down.

The directory of the curves:

    curves.json                  results of every run; rewritten after each number of tokens
    curves.png                   a panel for each metric over the number of tokens
    tokens_N/VARIANT/seed_SEED/  one run per directory
    tokens_N/minimal_pairs/      the pairs of these runs
    finetuning/TASK/             one experiment for all numbers of tokens
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ml_collections import config_dict

from data_pipelines.json_files import write_json
from electra_jax.comparison.budgets import Budget, with_budget
from electra_jax.comparison.curve_plots import plot_curves
from electra_jax.comparison.downstream import FOLDER, raise_diverged, with_first_seed
from electra_jax.comparison.judging import Judges
from electra_jax.comparison.pretraining import DivergedRun, plan_suite, pretrain_suite
from electra_jax.comparison.suites import SUITES
from electra_jax.comparison.tables import diverged_entry, diverged_lines, length_lines, lengths_of, runs_of
from electra_jax.finetuning.results import Result, to_json
from electra_jax.finetuning.tables import results_table
from electra_jax.runs.only_writer import Check
from electra_jax.runs.result_places import Results

CURVES_FILE, CURVES_PICTURE = "curves.json", "curves.png"
CURVES_RESULTS = Results((CURVES_FILE, CURVES_PICTURE), (FOLDER,))


def learning_curves(
    suite_name: str,
    config: config_dict.ConfigDict,
    budgets: Sequence[Budget],
    variants: Sequence[str],
    judges: Judges,
    workdir: Path,
    check: Check,
) -> Iterator[str]:
    """Train, judge, and write curves.json after each number of tokens; yield the lines for the terminal.

    The first variant of the suite has these numbers of tokens, the others as many as cost the same FLOPs.

    Args:
      config: the recipe. Its train.num_steps is the run whose warm-up it has.
      budgets: the smallest first.
      variants: names of some; (): all.

    Raises:
      ValueError, OSError, FloatingPointError: see `pretrain_suite`, `Judges`.
      FloatingPointError: after the last line, if runs diverged; with no line and no file if all did.
    """
    suite, points, random, starts = SUITES[suite_name], {}, {}, {}
    notes: list[str] = []
    diverged: list[DivergedRun] = []
    diverged_on_tasks: list[str] = []
    for budget in budgets:  # what is wrong with any of them is found before any training
        plan_suite(suite, with_budget(config, budget.tokens), workdir / budget.folder, budget.seeds, variants)
    for budget in budgets:
        sized = with_budget(config, budget.tokens)
        runs = workdir / budget.folder
        trained, without_result = pretrain_suite(suite, sized, runs, budget.seeds, variants)
        diverged += [run._replace(model=f"{budget.folder}/{run.model}") for run in without_result]
        trained, more_notes = judges.on_pairs(trained, runs, check)
        notes += more_notes
        placed = [result._replace(model=f"{budget.folder}/{result.model}") for result in trained]
        # New weights know no number of tokens: those of the first one are used for all.
        found = suite.random_starts(with_first_seed(trained))
        starts = {name: f"{budget.folder}/{variant}" for name, variant in found.items()} | starts
        judged, causes = judges.on_tasks(placed, workdir, budget.seeds, starts)
        diverged_on_tasks += causes
        results = [
            result._replace(model=result.model.removeprefix(f"{budget.folder}/"))
            for result in judged[: len(placed)]
        ]
        if results:
            points[budget] = _Point(results, runs_of(suite, sized, trained, runs))
        random |= {(result.model, result.seed): result for result in judged[len(placed) :]}
        check()
        if points:
            entry = diverged_entry(diverged, diverged_on_tasks)
            _write(suite_name, config, points, [*random.values()], entry, workdir)
    if not points:
        raise_diverged(diverged_on_tasks, diverged)
    yield f"{suite_name}: median (lowest–highest) over seeds, equal FLOPs, tokens of {_reference(suite_name)}"
    for point in points.values():
        yield from length_lines(point.runs, workdir)
    yield from _tables({budget: point.results for budget, point in points.items()}, [*random.values()])
    yield from dict.fromkeys(notes)
    yield from diverged_lines(diverged)
    yield f"{workdir / CURVES_FILE}"
    raise_diverged(diverged_on_tasks, diverged)


class _Point(NamedTuple):
    """The runs with one number of tokens."""

    results: list[Result]
    runs: dict[str, dict[Path, dict[str, Any]]]  # see `runs_of`


def _reference(suite_name: str) -> str:
    """The variant that has the numbers of tokens."""
    return next(iter(SUITES[suite_name].variants))


def _write(
    suite_name: str,
    config: config_dict.ConfigDict,
    points: Mapping[Budget, _Point],
    random: Sequence[Result],
    without_result: Mapping[str, Any],
    workdir: Path,
) -> None:
    """Write curves.json and the picture.

    Args:
      without_result: the runs that have none, as from `diverged_entry`.
    """
    lines = [
        {"tokens": budget.tokens, "lengths": lengths_of(point.runs), "results": to_json(point.results)}
        for budget, point in points.items()
    ]
    contents = {"suite": suite_name, "config": config.to_dict(), "points": lines, "random": to_json(random)}
    write_json(workdir / CURVES_FILE, contents | without_result)
    curves = {budget: point.results for budget, point in points.items()}
    plot_curves(curves, random, _reference(suite_name), workdir / CURVES_PICTURE)


def _tables(curves: dict[Budget, list[Result]], random: Sequence[Result]) -> Iterator[str]:
    """One table of what random weights do not have, and one of tasks with differences to them."""
    named = [
        result._replace(model=f"{budget.title} tokens, {result.model}")
        for budget, results in curves.items()
        for result in results
    ]
    on_tasks = list(dict.fromkeys(metric for result in random for metric in result.metrics))
    every = list(dict.fromkeys(metric for result in named for metric in result.metrics))
    others = [metric for metric in every if metric not in on_tasks]
    yield from results_table(named, others, with_differences=False)
    if on_tasks:
        yield ""
        yield from results_table([*random, *named], on_tasks)
