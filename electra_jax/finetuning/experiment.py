"""An experiment on one task: every encoder is fine-tuned with every combination of settings from every seed.

Its directory:

    config.json        the configuration
    results.json       one entry per run: model, seed, settings, metrics; rewritten after each run
    predictions/       MODEL/SETTINGS/seed_SEED/SPLIT.tsv, and submission files of GLUE and SQuAD
    models/            the best model of each encoder, by the first metric
    plots/             results.png; with several settings sweep.png
"""

import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from jax.sharding import Mesh

from data_pipelines.json_files import write_json
from data_pipelines.sample.trec_questions import with_files
from data_pipelines.tasks.load import load_task
from data_pipelines.tasks.words import word_separator
from electra_jax.configuration.checks import check_values
from electra_jax.configuration.extras import require_extra
from electra_jax.distributed.mesh import make_mesh
from electra_jax.finetuning.encoders import PretrainedEncoder, load_encoder
from electra_jax.finetuning.figures import plot
from electra_jax.finetuning.folders import folder_names
from electra_jax.finetuning.model_files import save_model
from electra_jax.finetuning.predictions import write_predictions
from electra_jax.finetuning.results import Result, from_json, models_of, reported_metrics, to_json
from electra_jax.finetuning.sweep import (
    Settings,
    apply_settings,
    best_settings,
    by_setting,
    format_settings,
)
from electra_jax.finetuning.tables import results_table
from electra_jax.finetuning.task_files import fingerprint_files
from electra_jax.finetuning.task_finetuner import Finetuned, TaskFinetuner
from electra_jax.runs.directory import check_run_directory

RESULTS_FILE, MODELS = "results.json", "models"
SEED = "{seed}"  # in a name of --init_from: stands for the seed


class Plan(NamedTuple):
    """What to fine-tune: every combination of an init, settings and a seed."""

    inits: Sequence[str]  # as in --init_from; with SEED in it each seed has another encoder
    seeds: Sequence[int]
    sweep: Sequence[Settings] = ({},)  # see `parse_sweep`


class Run(NamedTuple):
    """One run of a plan."""

    init: str
    settings: Settings
    seed: int

    @property
    def encoder(self) -> str:
        """The name of its encoder, see `load_encoder`."""
        return self.init.replace(SEED, str(self.seed))


def finetune(config: dict[str, Any], workdir: Path, plan: Plan) -> list[Result]:
    """Do the planned runs that `workdir` lacks; return the results of all planned runs, in plan order.

    A result's model is the init as the plan names it.

    Raises:
      ValueError, OSError: the task, an encoder or the settings do not fit together; see `load_task` and
        `load_encoder`.
      FloatingPointError: a run diverged.
      ImportError: the packages of the extra "finetune" are not installed.
    """
    require_extra("finetune", "fine-tuning")
    finetuner, description = open_task(config, workdir, plan.sweep)
    for note in finetuner.notes:
        print(note, file=sys.stderr)
    workdir.mkdir(parents=True, exist_ok=True)
    results = read_results(workdir)
    runs = [
        Run(init, settings, seed) for init in plan.inits for settings in plan.sweep for seed in plan.seeds
    ]
    # Earlier runs first, so that each keeps its folders when others are added.
    known = [*map(_run_of, results), *runs]
    folders = folder_names(run.init for run in known)
    caches = folder_names(run.encoder for run in known)
    encoder: PretrainedEncoder | None = None
    for run in runs:
        if run in map(_run_of, results):
            continue
        if encoder is None or encoder.name != run.encoder:
            encoder = load_encoder(run.encoder, workdir / "tokenizers" / caches[run.encoder])
            finetuner.check_schedules(plan.sweep, encoder)
            write_json(workdir / "config.json", description)
        results.append(_finetune_once(finetuner, encoder, run, results, workdir, folders[run.init]))
        write_json(workdir / RESULTS_FILE, to_json(results))
    planned = [result for result in results if _run_of(result) in runs]
    return sorted(planned, key=lambda result: runs.index(_run_of(result)))


def open_task(
    config: dict[str, Any], workdir: Path, sweep: Sequence[Settings]
) -> tuple[TaskFinetuner, dict[str, Any]]:
    """Read the task and check everything that does not depend on an encoder; only files of a sample are
    written.

    Returns:
      The task, and what config.json holds: "config" and the fingerprints of "files", which decide whether a
      directory belongs to an experiment.

    Raises:
      ValueError, OSError: see `finetune`.
    """
    task = config["task"] | {key: tuple(config["task"][key]) for key in ("labels", "metrics")}
    config = config | {"task": task}
    description = {"config": config, "files": fingerprint_files(task)}
    check_run_directory(workdir, description)
    data = load_task(with_files(task, workdir / "data"))
    mesh = make_mesh(config["mesh"])
    _check_settings(config, sweep, mesh)
    finetuner = TaskFinetuner(config, data, mesh)
    finetuner.check_schedules(sweep)
    return finetuner, description


def _run_of(result: Result) -> Run:
    return Run(result.model, result.settings, result.seed)


def _check_settings(config: dict[str, Any], sweep: Sequence[Settings], mesh: Mesh) -> None:
    for settings in sweep:
        applied = apply_settings(config, settings)
        check_values(applied)
        batch_size = applied["train"]["batch_size"]
        if batch_size % mesh.size:
            raise ValueError(
                f"config.train.batch_size: got {batch_size}, expected a multiple of the {mesh.size} devices. "
                "Change it, or config.mesh."
            )


def _finetune_once(
    finetuner: TaskFinetuner,
    encoder: PretrainedEncoder,
    run: Run,
    others: Sequence[Result],
    workdir: Path,
    folder: str,
) -> Result:
    """Do one run and write its predictions to `folder`; save its model there, too, if it beats every earlier
    result of the same init."""
    finetuned = finetuner.finetune(encoder, run.settings, run.seed)
    result = Result(run.init, run.seed, finetuned.metrics, run.settings)
    settings = format_settings(run.settings)
    folders = folder, *folder_names([settings]).values(), f"seed_{run.seed}"
    directory = workdir.joinpath("predictions", *folders)
    task = finetuner.config["task"]
    for split, predictions in finetuned.predictions.items():
        write_predictions(directory, finetuner.task_type, task, finetuner.data, split, predictions)
    metric = next(iter(result.metrics))
    best_so_far = [other.metrics[metric] for other in others if other.model == run.init]
    if all(value < result.metrics[metric] for value in best_so_far):
        _save(finetuner, encoder, run, finetuned, workdir / MODELS / folder)
    return result


def _save(
    finetuner: TaskFinetuner, encoder: PretrainedEncoder, run: Run, finetuned: Finetuned, directory: Path
) -> None:
    description = {
        "task": finetuner.config["task"],
        "labels": finetuner.data.labels,
        "config": apply_settings(finetuner.config, run.settings),
        "start": encoder.name,
        "seed": run.seed,
        "settings": run.settings,
        "metrics": finetuned.metrics,
    }
    if finetuner.task_type.name == "tagging":
        description["word_separator"] = word_separator(encoder.tokenizer)
    save_model(directory, finetuned.encoder, description, encoder.tokenizer, finetuned.params)


def read_results(workdir: Path) -> list[Result]:
    """The results that the experiment in `workdir` has so far."""
    path = workdir / RESULTS_FILE
    return from_json(json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else []


def write_report(results: Sequence[Result], metrics: Sequence[str], workdir: Path) -> Iterator[str]:
    """Draw the plots and yield the lines for the terminal: with several settings a table of all of them, then
    a table of each model with its best."""
    shown = reported_metrics(results, metrics)
    if any(result.settings for result in results):
        every = by_setting(results)
        plot(every, shown[:1], workdir / "plots" / "sweep.png")
        yield from results_table(every, shown, with_differences=False)
        results = best_settings(results, shown[0])
        yield f"\nThe best settings of each, by the median {shown[0]} on the split that is reported:\n"
        for model in models_of(results):
            settings = next(result.settings for result in results if result.model == model)
            yield f"{model}: {format_settings(settings)}"
    plot(results, shown[:1], workdir / "plots" / "results.png")
    yield from results_table(results, shown)
