"""What encoders are worth downstream: each is fine-tuned on several tasks from several seeds."""

import sys
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from electra_jax.comparison.pretraining import DivergedRun, pretrain_objectives
from electra_jax.configuration.checks import of_task
from electra_jax.configuration.extras import require_extra
from electra_jax.configuration.recipes import EVALUATION, check_kind, load_config
from electra_jax.finetuning.encoders import RANDOM
from electra_jax.finetuning.experiment import DivergedError, Plan, finetune, open_task
from electra_jax.finetuning.experiment_directory import read_results, recorded_metrics
from electra_jax.finetuning.experiment_runs import SEED, run_of
from electra_jax.finetuning.results import Result, models_of, reported_metrics
from electra_jax.finetuning.sweep import Settings, best_settings, parse_sweep

PRETRAINING_ADVICE = (
    "Pre-training: config.trouble (of evaluate: config.pretraining.trouble) has ways past such steps, as "
    '.on_nonfinite="skip". compare also leaves variants out with --variants, and seeds with fewer --seeds.'
)
TASK_ADVICE = (
    "Tasks: give the task other settings in another --workdir. compare has them in the recipe of --tasks, "
    "evaluate in --config.tasks, and takes more values with --sweep, also in this --workdir."
)
FOLDER = "finetuning"  # of the workdir: holds a folder for each task


class Evaluation(NamedTuple):
    """Encoders on several tasks."""

    # One per encoder and seed, with metrics "task metric"; those of runs that diverged are missing.
    results: list[Result]
    settings: dict[str, dict[str, Settings]]  # task → encoder → its best settings of the sweep
    steps: dict[str, int]  # encoder → the step of the checkpoint that it comes from
    diverged: tuple[str, ...] = ()  # for each task with runs that diverged, which and why


def load_tasks(recipe: str | None) -> dict[str, dict[str, Any]]:
    """The tasks of --tasks: name → configuration of fine-tuning; none without that flag.

    Raises:
      ValueError, ModuleNotFoundError, OSError: there is no such recipe, it has no tasks, or a library is
        missing.
    """
    if not recipe:
        return {}
    require_extra("finetune", "--tasks")
    config = load_config(recipe)
    check_kind(config, EVALUATION, f"--tasks={recipe}: got a configuration")
    return config.tasks.to_dict()


def check_tasks(tasks: Mapping[str, dict[str, Any]], workdir: Path, sweep: Sequence[str] = ()) -> None:
    """Read every task and check its settings, before any training: what is wrong with the last one is then
    not found after days.

    Raises:
      ValueError, OSError: names the task; see `open_task`, `parse_sweep`.
    """
    for name, config in tasks.items():
        try:
            open_task(config, workdir / FOLDER / name, parse_sweep(sweep, config))
        except ValueError as error:
            raise ValueError(of_task(name, error)) from error
        except OSError as error:
            raise OSError(of_task(name, error)) from error


def evaluate_on_tasks(
    tasks: Mapping[str, dict[str, Any]],
    workdir: Path,
    inits: Mapping[str, str],
    seeds: Sequence[int],
    sweep: Sequence[str] = (),
    without: Collection[tuple[str, int]] = (),
) -> Evaluation:
    """Fine-tune every encoder on every task from every seed, with every combination of `sweep`.

    Each encoder has on each task the settings with the best median of the task's first metric; see
    `best_settings`. The runs of a task are in finetuning/TASK of `workdir`; finished ones are kept. Runs that
    diverge stop neither the others nor other tasks: `Evaluation.diverged` names them.

    Args:
      tasks: name → configuration of fine-tuning.
      inits: name of an encoder → its init, as in --init_from of `finetune`.
      sweep: words for `parse_sweep`.
      without: (name of an encoder, seed) that do not exist, since their pre-training diverged.

    Raises:
      ValueError, OSError: see `finetune`, `parse_sweep`.
    """
    metrics: dict[tuple[str, int], dict[str, float]] = {
        (name, seed): {} for name in inits for seed in seeds if (name, seed) not in without
    }
    chosen: dict[str, dict[str, Settings]] = {}
    diverged: list[str] = []
    names = {init: name for name, init in inits.items()}
    missing = {(inits[name], seed) for name, seed in without if name in inits}
    plans = {
        task: Plan(list(names), seeds, parse_sweep(sweep, config), without=missing)
        for task, config in tasks.items()
    }
    steps: dict[str, int] = {}  # one for all tasks, also if an encoder is trained further meanwhile
    for task in tasks:
        steps = _steps_of(read_results(workdir / FOLDER / task)) | steps
    for task, plan in plans.items():
        print(f"fine-tuning: {task}", file=sys.stderr)
        try:
            results = finetune(tasks[task], workdir / FOLDER / task, plan._replace(steps=steps))
        except DivergedError as error:
            results = error.results
            diverged.append(f"task {task}: {error.summary}")
        if not results:
            continue
        steps = _steps_of(results) | steps
        shown = reported_metrics(results, recorded_metrics(workdir / FOLDER / task))
        for result in best_settings(results, shown[0]):
            name = names[result.model]
            values = {f"{task} {metric}": result.metrics[metric] for metric in shown}
            metrics[name, result.seed] |= values
            chosen.setdefault(task, {})[name] = dict(result.settings)
    evaluated = [Result(name, seed, values) for (name, seed), values in metrics.items()]
    return Evaluation(evaluated, chosen, steps, tuple(diverged))


def _steps_of(results: Sequence[Result]) -> dict[str, int]:
    """Encoder → the step of the checkpoint that its results began from."""
    return {run_of(result).encoder: result.step for result in results if result.step is not None}


def pretrained_inits(
    config: dict[str, Any], workdir: Path, num_pretrainings: int, num_seeds: int
) -> tuple[dict[str, str], list[DivergedRun]]:
    """Pre-train with every objective; name of an encoder → its init, a randomly initialised one first.

    Objectives and seeds whose runs diverged are missing: the inits lack an objective without any run, and
    newly initialised weights if no run has their shapes.

    Args:
      config: a configuration such as configs/evaluate.py.
      num_pretrainings: of each objective; one, or one per seed of fine-tuning.

    Raises:
      ValueError: another number of pre-trainings. See also `pretrain_objectives`.
      FloatingPointError: all runs diverged.
    """
    if num_pretrainings not in (1, num_seeds):
        raise ValueError(f"--pretrainings: got {num_pretrainings}, expected 1 or --seeds={num_seeds}.")
    pretraining = config["pretraining"]
    directories, diverged = pretrain_objectives(pretraining, config["objectives"], workdir, num_pretrainings)
    lost = [(run.model, run.seed) for run in diverged]
    seeds = {
        objective: [seed for seed in range(num_pretrainings) if (objective, seed) not in lost]
        for objective in directories
    }
    if not any(seeds.values()):
        raise_diverged((), diverged)
    own = pretraining["objective"]["name"]
    inits = {"random": f"{RANDOM}{directories[own]}/seed_{seeds[own][0]}"} if seeds[own] else {}
    run = "seed_0" if num_pretrainings == 1 else f"seed_{SEED}"
    inits |= {name: f"{directory}/{run}" for name, directory in directories.items() if seeds[name]}
    return inits, diverged


def add_downstream_metrics(
    results: Sequence[Result],
    tasks: Mapping[str, dict[str, Any]],
    workdir: Path,
    num_seeds: int,
    random_starts: Mapping[str, str],
) -> tuple[list[Result], tuple[str, ...]]:
    """The results of a suite's runs with their metrics on tasks, then those of random initialisations; and
    `Evaluation.diverged`.

    Seed s of the fine-tuning starts from the run of seed s; without a result of it there is none.

    Args:
      random_starts: name of newly initialised weights → the variant whose shapes they have, with seed 0.

    Raises:
      ValueError, OSError: see `evaluate_on_tasks`.
    """
    names = models_of(results)
    inits = {name: f"{workdir}/{name}/seed_{SEED}" for name in names}
    inits |= {random: f"{RANDOM}{workdir}/{name}/seed_0" for random, name in random_starts.items()}
    known = {(result.model, result.seed) for result in results}
    lost = {(name, seed) for name in names for seed in range(num_seeds)} - known
    evaluation = evaluate_on_tasks(tasks, workdir, inits, range(num_seeds), without=lost)
    downstream = {(result.model, result.seed): result.metrics for result in evaluation.results}
    extended = []
    for result in results:
        metrics = result.metrics | downstream.pop((result.model, result.seed))
        extended.append(result._replace(metrics=metrics))
    random = [Result(name, seed, metrics) for (name, seed), metrics in downstream.items()]
    return extended + random, evaluation.diverged


def with_first_seed(results: Sequence[Result]) -> list[str]:
    """Names of the models that have a result of seed 0: from its run new weights can take their shapes."""
    return models_of([result for result in results if result.seed == 0])


def raise_diverged(tasks: Sequence[str], runs: Sequence[DivergedRun] = ()) -> None:
    """Raises FloatingPointError with the causes, if there are any.

    Args:
      tasks: of `Evaluation.diverged`.
      runs: of pre-training.
    """
    if not tasks and not runs:
        return
    lines = []
    if runs:
        count = "1 pre-training run" if len(runs) == 1 else f"{len(runs)} pre-training runs"
        lines += [f"{count} diverged and {'has' if len(runs) == 1 else 'have'} no result:"]
        lines += [f"{run.name}: {run.cause}" for run in runs]
    lines += [*tasks, "All other runs are kept, and the same command tries these again."]
    if runs:
        lines += [PRETRAINING_ADVICE]
    if tasks:
        lines += [TASK_ADVICE]
    raise FloatingPointError("\n".join(lines))
