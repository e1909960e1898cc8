"""An experiment on one task: every encoder is fine-tuned with every combination of settings from every seed.

Its directory:

    config.json        the configuration
    results.json       one entry per run: model, seed, settings, metrics; rewritten after each run
    predictions/       MODEL/SETTINGS/seed_SEED/SPLIT.tsv, and submission files of GLUE and SQuAD;
                       training.json has the scores while it was trained
    models/            the best model of each encoder, by the first metric
    plots/             results.png; with several settings sweep.png
    tokenizers/        those of models of Hugging Face, as this project reads them
"""

import hashlib
import json
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from jax.sharding import Mesh

from data_pipelines.sample.trec_questions import with_files
from data_pipelines.tasks.load import load_task
from electra_jax.configuration.checks import check_values
from electra_jax.configuration.extras import require_extra
from electra_jax.distributed.mesh import make_mesh
from electra_jax.distributed.processes import barrier, exchange, is_main_process
from electra_jax.finetuning.bm25 import bm25_notes
from electra_jax.finetuning.data_checks import commonest_class_notes
from electra_jax.finetuning.due_runs import runs_of_missing_models, start_steps
from electra_jax.finetuning.experiment_directory import (
    FINE_TUNING,
    RESULTS_PLOT,
    SWEEP_PLOT,
    check_directory,
    check_order,
    held_out_order,
    is_claimed,
    read_results,
    with_recorded_metrics,
)
from electra_jax.finetuning.experiment_runs import Run, RunsOfPlan, run_of
from electra_jax.finetuning.figures import plot
from electra_jax.finetuning.metrics import check_metric_names
from electra_jax.finetuning.results import Result, models_of, reported_metrics
from electra_jax.finetuning.sweep import (
    Settings,
    apply_settings,
    best_settings,
    by_setting,
    format_settings,
    split_note,
)
from electra_jax.finetuning.tables import results_table
from electra_jax.finetuning.task_files import fingerprint_files, same_files
from electra_jax.finetuning.task_finetuner import TaskFinetuner
from electra_jax.runs.compilation_cache import compilation_cache
from electra_jax.runs.only_writer import Check, only_writer


class Plan(NamedTuple):
    """What to fine-tune: every combination of an init, settings and a seed."""

    inits: Sequence[str]  # as in --init_from; with SEED in it each seed has another encoder
    seeds: Sequence[int]
    sweep: Sequence[Settings] = ({},)  # see `parse_sweep`
    steps: Mapping[str, int] = MappingProxyType({})  # encoder → the step to begin from, see `start_steps`
    without: Collection[tuple[str, int]] = ()  # (init, seed): no run, since it has no such encoder


class DivergedError(FloatingPointError):
    """Some runs of a plan diverged, as `summary` says. The others are done: `results`, in plan order."""

    def __init__(self, causes: Sequence[str], num_runs: int, results: list[Result]):
        self.results = results
        self.summary = "\n".join([f"{len(causes)} of {num_runs} runs diverged and have no result:", *causes])
        advice = "The other runs are kept. Add settings with --sweep, or use another --workdir."
        super().__init__(f"{self.summary}\n{advice}")


def finetune(config: dict[str, Any], workdir: Path, plan: Plan) -> list[Result]:
    """Do the planned runs that `workdir` lacks; return the results of all planned runs, in plan order.

    A result's model is the init as the plan names it. If the best model of an init is gone, the run that made
    it is done again.

    Raises:
      ValueError, OSError: the task, an encoder or the settings do not fit together; see `load_task` and
        `load_encoder`.
      HeldError: another process writes `workdir`; nothing has been written then.
      DivergedError: a run diverged; raised after all others are done.
      ImportError: the packages of the extra "finetune" are not installed.
    """
    require_extra("finetune", "fine-tuning")
    with only_writer(workdir, FINE_TUNING) as check:
        return _finetune(config, workdir, plan, check)


def _finetune(config: dict[str, Any], workdir: Path, plan: Plan, check: Check) -> list[Result]:
    finetuner, description = open_task(config, workdir, plan.sweep)
    _check_same(description)
    results = read_results(workdir)
    runs = [
        Run(init, settings, seed)
        for init in plan.inits
        for settings in plan.sweep
        for seed in plan.seeds
        if (init, seed) not in plan.without
    ]
    done = [run_of(result) for result in results]
    missing = runs_of_missing_models(workdir, results, runs)
    # A shared file system may show the hosts different files; what process 0 sees holds for all.
    due = [index for index, run in enumerate(runs) if run not in done]
    due, again = exchange([due, list(missing.values())])[0]
    again = [Run(*one) for one in again]
    work = runs + [run for run in again if run not in runs]
    indices = [index for index, run in enumerate(work) if index in due or run in again]
    steps = start_steps((work[index].encoder for index in indices), results, plan.steps, workdir)
    if is_main_process():
        for note in (*finetuner.notes, *bm25_notes(finetuner.task_type, finetuner.data)):
            print(note, file=sys.stderr)
        for directory, run in missing.items():
            print(f"{directory} is gone: {run.title} is done again, which made it.", file=sys.stderr)
        if 0 < len(due) < len(runs):
            print(f"{len(runs) - len(due)} of {len(runs)} runs are done already.", file=sys.stderr)
        workdir.mkdir(parents=True, exist_ok=True)
    with compilation_cache(config["train"]["compilation_cache"], str(workdir)) as programs:

        def check_and_keep() -> None:
            check()
            programs.publish()

        runs_of_plan = RunsOfPlan(finetuner, description, workdir, results, work, steps, check_and_keep)
        causes = runs_of_plan.do(indices)
    barrier("fine-tuning")  # a process that exits earlier would wait for process 0, but not as long
    planned = [result for result in results if run_of(result) in runs]
    planned = sorted(planned, key=lambda result: runs.index(run_of(result)))
    if causes:
        raise DivergedError(causes, len(runs), planned)
    return planned


def _check_same(description: dict[str, Any]) -> None:
    """Raises ValueError if the processes have other settings or files of the task."""
    text = json.dumps(description, sort_keys=True, default=str)
    digests = exchange(hashlib.sha256(text.encode()).hexdigest())
    if len(set(digests)) > 1:
        raise ValueError(
            f"the {len(digests)} processes have different settings or files of the task, expected the same "
            "command on all hosts, and files that all of them see."
        )


def open_task(
    config: dict[str, Any], workdir: Path, sweep: Sequence[Settings]
) -> tuple[TaskFinetuner, dict[str, Any]]:
    """Read the task and check everything that does not depend on an encoder; only files of a sample are
    written.

    Returns:
      The task, and what config.json holds: "config", and in "files" the fingerprints of the files and the
      order of the held-out examples, which decide whether a directory belongs to an experiment.

    Raises:
      ValueError, OSError: see `finetune`.
    """
    for settings in sweep:
        check_values(apply_settings(config, settings))
    task = config["task"] | {key: tuple(config["task"][key]) for key in ("labels", "metrics")}
    task |= {"matryoshka": tuple(map(int, task["matryoshka"]))}  # words of the command line
    check_metric_names(task["kind"], task["metrics"])
    config = with_recorded_metrics(config | {"task": task}, workdir)
    files = {"files": fingerprint_files(task)}
    check_directory(workdir, {"config": config} | files)
    data = load_task(with_files(config["task"], workdir / "data"))
    order = held_out_order(data)
    check_order(workdir, order)
    mesh = make_mesh(config["mesh"])
    _check_batches(config, sweep, mesh)
    finetuner = TaskFinetuner(config, data, mesh)
    # An experiment with results is continued: earlier versions took settings that they did not read.
    finetuner.check_sweep(sweep, has_begun=is_claimed(workdir))
    finetuner.notes += [
        # Numbers of pairs are read from files to evaluate on alone.
        *same_files(files["files"], can_hold_out=not (task["kind"] == "embedding" and task["label"])),
        *commonest_class_notes(finetuner.task_type, finetuner.data),
    ]
    return finetuner, {"config": finetuner.config} | {"files": files["files"] | order}


def _check_batches(config: dict[str, Any], sweep: Sequence[Settings], mesh: Mesh) -> None:
    for settings in sweep:
        batch_size = apply_settings(config, settings)["train"]["batch_size"]
        if batch_size % mesh.size:
            raise ValueError(
                f"config.train.batch_size: got {batch_size}, expected a multiple of the {mesh.size} devices. "
                "Change it, or config.mesh."
            )


def write_report(results: Sequence[Result], metrics: Sequence[str], workdir: Path) -> Iterator[str]:
    """Draw the plots and yield the lines for the terminal: with several settings a table of all of them, then
    a table of each model with its best."""
    shown = reported_metrics(results, metrics)
    if any(result.settings for result in results):
        every = by_setting(results)
        plot(every, shown[:1], workdir / SWEEP_PLOT)
        yield from results_table(every, shown, with_differences=False)
        results = best_settings(results, shown[0])
        yield f"\nThe best settings of each, by the median {shown[0]}{split_note(shown[:1])}:\n"
        for model in models_of(results):
            settings = next(result.settings for result in results if result.model == model)
            yield f"{model}: {format_settings(settings)}"
    plot(results, shown[:1], workdir / RESULTS_PLOT)
    yield from results_table(results, shown)
