"""Pre-trains the variants of a comparison with equal FLOPs, from several seeds."""

import itertools
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
from ml_collections import config_dict

from data_pipelines.sample.prepare import PREFIX as SAMPLE_PREFIX
from data_pipelines.sample.prepare import prepare_sample
from electra_jax.comparison.equal_flops import equal_flops_runs
from electra_jax.comparison.suites import Suite, objective, setting
from electra_jax.configuration.checks import check_values
from electra_jax.configuration.resolve import resolve
from electra_jax.finetuning.results import Result
from electra_jax.runs.data_sizes import with_data_values
from electra_jax.runs.directory import is_evaluation
from electra_jax.runs.pretraining import pretrain
from electra_jax.runs.trained import read_description
from electra_jax.soups.averaging import SoupOptions, make_soup
from electra_jax.training.writers import read_metrics

UNIFORM_SOUP = SoupOptions("uniform", None, (), {}, different_starts=False)


class DivergedRun(NamedTuple):
    """A pre-training run without a result."""

    model: str  # its variant or objective
    seed: int
    cause: str

    @property
    def name(self) -> str:
        return f"{self.model}/seed_{self.seed}"


def suite_runs(
    suite: Suite, config: config_dict.ConfigDict, name: str, seed: int, workdir: Path
) -> dict[Path, dict[str, Any]]:
    """The runs of one variant of a suite: run directory → configuration; see `equal_flops_runs`."""
    (reference,) = next(iter(suite.variants.values()))
    return equal_flops_runs(config, reference, suite.variants[name], workdir / name, seed)


def plan_suite(
    suite: Suite, config: config_dict.ConfigDict, workdir: Path, num_seeds: int, variants: Sequence[str]
) -> list[tuple[int, str, dict[Path, dict[str, Any]]]]:
    """(seed, variant, its runs as in `suite_runs`), in the order of training; see `pretrain_suite`.

    Raises:
      ValueError: an unknown variant, a configuration that does not resolve, or runs in `workdir` that were
        evaluated by other settings.
    """
    suite.check_variants(variants)
    # Seed by seed, so that an early look shows every variant.
    plan = [
        (seed, name, suite_runs(suite, config, name, seed, workdir))
        for seed, name in itertools.product(range(num_seeds), variants or suite.variants)
    ]
    check_runs(runs for *_, runs in plan)
    for *_, runs in plan:
        _check_evaluation(*list(runs.items())[-1])
    return plan


def pretrain_suite(
    suite: Suite,
    config: config_dict.ConfigDict,
    workdir: Path,
    num_seeds: int,
    variants: Sequence[str] = (),
) -> tuple[list[Result], list[DivergedRun]]:
    """Pre-train every variant from every seed, make the soups, and measure all; finished runs are kept.

    Runs that diverge do not stop the others, and have no result. The next call tries them again.

    Args:
      variants: names of some; (): all. Soups are made of those that have all their ingredients.

    Raises:
      ValueError, OSError: see `plan_suite`, `pretrain`, `make_soup`.
    """
    results, diverged = [], []
    variants = tuple(dict.fromkeys(variants)) or tuple(suite.variants)
    plan = plan_suite(suite, config, workdir, num_seeds, variants)
    for index, (seed, name, runs) in enumerate(plan):
        try:
            summary = pretrain_runs(runs, f"[{index + 1}/{len(plan)}]")
        except FloatingPointError as error:
            diverged.append(_diverged(name, seed, error))
            continue
        results.append(Result(name, seed, suite.measure(workdir / name / f"seed_{seed}", summary)))
    trained = {(result.model, result.seed) for result in results}
    soups = {name: parts for name, parts in suite.soups.items() if set(parts) <= set(variants)}
    for seed, (name, ingredients) in itertools.product(range(num_seeds), soups.items()):
        if not all((ingredient, seed) in trained for ingredient in ingredients):
            continue
        directory = workdir / name / f"seed_{seed}"
        if not directory.exists():
            runs = [str(workdir / ingredient / f"seed_{seed}") for ingredient in ingredients]
            make_soup(runs, directory, UNIFORM_SOUP)
        results.append(Result(name, seed, suite.measure_soup(directory)))
    return results, diverged


def _diverged(model: str, seed: int, error: FloatingPointError) -> DivergedRun:
    run = DivergedRun(model, seed, str(error))
    print(f"{run.name}: {run.cause} The other runs follow.", file=sys.stderr)
    return run


def with_values_of_data(config: dict[str, Any], parent: Path) -> dict[str, Any]:
    """`with_data_values` for a comparison, whose variants have their runs in NAME/seed_SEED below `parent`:
    equal FLOPs depend on sizes and steps.

    Raises:
      ValueError, OSError: see `with_data_values`.
    """
    check_values(config)  # before a sample is prepared
    return with_data_values(config, sorted(parent.glob("*/seed_*")), parent)


def check_runs(variants: Iterable[Mapping[Path, dict[str, Any]]]) -> None:
    """Raises ValueError, before the first run, if a configuration of any run does not resolve."""
    for directory, config in itertools.chain.from_iterable(runs.items() for runs in variants):
        try:
            resolve(config, has_begun=(directory / "config.json").is_file())
        except ValueError as error:
            raise ValueError(f"{directory}: {error}") from error


def _check_evaluation(directory: Path, config: dict[str, Any]) -> None:
    """Raises ValueError if a run was evaluated by other settings than those of `config`. `pretrain` lets them
    change, but evaluates nothing again: tables and curves would mix figures of different rows."""
    if not any(map(is_evaluation, read_metrics(directory))):
        return
    old, new = read_description(directory)["config"]["eval"], config["eval"]
    lines = [
        f"  config.eval.{key}: the run has {old.get(key)!r}, you gave {value!r}"
        for key, value in new.items()
        if key != "every" and old.get(key) != value
    ]
    if lines:
        raise ValueError(
            "\n".join([f"{directory} was evaluated by other settings:", *lines])
            + "\nIts figures could not be compared with those of other runs. Give its settings, or use "
            "another --workdir."
        )


def pretrain_runs(runs: Mapping[Path, dict[str, Any]], progress: str) -> dict[str, Any]:
    """Pre-train one run after the other, or resume; the summary of the last one.

    Raises:
      FloatingPointError: one diverged. ValueError, OSError: see `pretrain`.
    """
    summary = {}
    for directory, config in runs.items():
        print(f"{progress} {directory}: {config['train']['num_steps']:,} steps", file=sys.stderr)
        try:
            summary = pretrain(config, directory)
        finally:
            jax.clear_caches()  # each run compiles its own step, which would accumulate
    return summary


def pretrain_objectives(
    config: dict[str, Any], objectives: Sequence[str], workdir: Path, num_seeds: int
) -> tuple[dict[str, Path], list[DivergedRun]]:
    """Pre-train with every objective from every seed; objective → directory of its runs seed_0, seed_1, ….

    The configuration's own objective takes its train.num_steps, the others as many as cost the same FLOPs.
    Finished runs are kept. Runs that diverge do not stop the others; the next call tries them again.

    Raises:
      ValueError, OSError: see `pretrain`.
    """
    config = with_values_of_data(config, workdir / "pretraining")
    datasets = []
    for path in config["data"]["datasets"]:
        if path.startswith(SAMPLE_PREFIX):  # prepared once for all runs
            length = config["data"]["sequence_length"]
            path = prepare_sample(path, workdir / "sample", sequence_length=length)
        datasets.append(path)
    recipe = config_dict.ConfigDict(config)
    recipe.data.datasets = tuple(datasets)
    unchanged = setting({})
    directories = {name: workdir / "pretraining" / name for name in objectives}
    plan = {
        (seed, name): equal_flops_runs(recipe, unchanged, [objective(name)], directories[name], seed)
        for seed, name in itertools.product(range(num_seeds), objectives)
    }
    check_runs(plan.values())
    diverged = []
    for index, ((seed, name), runs) in enumerate(plan.items()):
        try:
            pretrain_runs(runs, f"[{index + 1}/{len(plan)}]")
        except FloatingPointError as error:
            diverged.append(_diverged(name, seed, error))
    return directories, diverged
