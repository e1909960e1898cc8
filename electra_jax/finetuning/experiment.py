"""An experiment on one task: every encoder is fine-tuned with every combination of settings from every seed.

Its directory:

    config.json        the configuration
    results.json       one entry per run: model, seed, settings, metrics; rewritten after each run
    predictions/       MODEL/SETTINGS/seed_SEED/SPLIT.tsv, and submission files of GLUE and SQuAD;
                       training.json has the scores while it was trained
    models/            the best model of each encoder, by the first metric
    plots/             results.png; with several settings sweep.png
"""

import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from jax.sharding import Mesh

from data_pipelines.sample.trec_questions import with_files
from data_pipelines.tasks.load import load_task
from data_pipelines.tasks.words import word_separator
from electra_jax.configuration.checks import check_values
from electra_jax.configuration.extras import require_extra
from electra_jax.distributed.mesh import make_mesh
from electra_jax.finetuning.encoders import PretrainedEncoder, check_start, load_encoder
from electra_jax.finetuning.experiment_directory import (
    MODELS,
    check_directory,
    read_results,
    with_recorded_metrics,
    write_description,
    write_results,
)
from electra_jax.finetuning.figures import plot
from electra_jax.finetuning.folders import folder_names
from electra_jax.finetuning.metrics import check_metric_names
from electra_jax.finetuning.model_files import save_model
from electra_jax.finetuning.predictions import write_predictions, write_scores
from electra_jax.finetuning.results import Result, models_of, reported_metrics
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

    @property
    def title(self) -> str:
        """For its user: start, seed and settings."""
        words = [self.encoder, f"seed {self.seed}", format_settings(self.settings)]
        return ", ".join(word for word in words if word)


class Places(NamedTuple):
    """Where a run writes."""

    predictions: Path
    model: Path


class DivergedError(FloatingPointError):
    """Some runs of a plan diverged. The others are done: `results`, in plan order."""

    def __init__(self, causes: Sequence[str], num_runs: int, results: list[Result]):
        self.results = results
        super().__init__(
            "\n".join([f"{len(causes)} of {num_runs} runs diverged and have no result:", *causes])
            + "\nThe other runs are kept. Add settings with --sweep, or use another --workdir."
        )


def finetune(config: dict[str, Any], workdir: Path, plan: Plan) -> list[Result]:
    """Do the planned runs that `workdir` lacks; return the results of all planned runs, in plan order.

    A result's model is the init as the plan names it.

    Raises:
      ValueError, OSError: the task, an encoder or the settings do not fit together; see `load_task` and
        `load_encoder`.
      DivergedError: a run diverged; raised after all others are done.
      ImportError: the packages of the extra "finetune" are not installed.
    """
    require_extra("finetune", "fine-tuning")
    finetuner, description = open_task(config, workdir, plan.sweep)
    for note in finetuner.notes:
        print(note, file=sys.stderr)
    results = read_results(workdir)
    runs = [
        Run(init, settings, seed) for init in plan.inits for settings in plan.sweep for seed in plan.seeds
    ]
    done = [_run_of(result) for result in results]
    missing = [run for run in runs if run not in done]
    for name in dict.fromkeys(run.encoder for run in missing):
        check_start(name)
    workdir.mkdir(parents=True, exist_ok=True)
    if missing and len(missing) < len(runs):
        print(f"{len(runs) - len(missing)} of {len(runs)} runs are done already.", file=sys.stderr)
    # Earlier runs first, so that each keeps its folders when others are added.
    folders = folder_names(run.init for run in [*done, *runs])
    caches = folder_names(run.encoder for run in [*done, *runs])
    encoder: PretrainedEncoder | None = None
    causes = []
    for run in missing:
        title = f"run {runs.index(run) + 1} of {len(runs)}, {run.title}"
        if encoder is None or encoder.name != run.encoder:
            encoder = load_encoder(run.encoder, workdir / "tokenizers" / caches[run.encoder])
            finetuner.check_schedules(plan.sweep, encoder)
            write_description(workdir, description)
        try:
            places = _places(workdir, folders[run.init], run)
            results.append(_finetune_once(finetuner, encoder, run, results, places, title))
        except FloatingPointError as error:
            causes.append(f"{title}: {error}")
            if run is not missing[-1]:
                print(f"{causes[-1]} The other runs follow.", file=sys.stderr)
            continue
        write_results(workdir, results)
    planned = [result for result in results if _run_of(result) in runs]
    planned = sorted(planned, key=lambda result: runs.index(_run_of(result)))
    if causes:
        raise DivergedError(causes, len(runs), planned)
    return planned


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
    check_metric_names(task["kind"], task["metrics"])
    config = with_recorded_metrics(config | {"task": task}, workdir)
    files = {"files": fingerprint_files(task)}
    check_directory(workdir, {"config": config} | files)
    data = load_task(with_files(config["task"], workdir / "data"))
    mesh = make_mesh(config["mesh"])
    _check_settings(config, sweep, mesh)
    finetuner = TaskFinetuner(config, data, mesh)
    finetuner.check_sweep(sweep)
    return finetuner, {"config": finetuner.config} | files


def _run_of(result: Result) -> Run:
    return Run(result.model, result.settings, result.seed)


def _places(workdir: Path, folder: str, run: Run) -> Places:
    settings = folder_names([format_settings(run.settings)]).values()
    predictions = workdir.joinpath("predictions", folder, *settings, f"seed_{run.seed}")
    return Places(predictions, workdir / MODELS / folder)


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
    places: Places,
    title: str,
) -> Result:
    """Do one run and write its predictions; save its model, too, if it beats every earlier result of the same
    init."""
    began = time.monotonic()
    finetuned = finetuner.finetune(encoder, run.settings, run.seed, title)
    result = Result(run.init, run.seed, finetuned.metrics, run.settings)
    task = finetuner.config["task"]
    for split, predictions in finetuned.predictions.items():
        write_predictions(places.predictions, finetuner.task_type, task, finetuner.data, split, predictions)
    if finetuned.scores:
        write_scores(places.predictions, finetuned)
    metric = next(iter(result.metrics))
    best_so_far = [other.metrics[metric] for other in others if other.model == run.init]
    if all(value < result.metrics[metric] for value in best_so_far):
        _save(finetuner, encoder, run, finetuned, places.model)
    if finetuner.config["log"]["progress"]:
        _print_score(title, finetuned, finetuner.task_type.metrics, time.monotonic() - began)
    return result


def _print_score(title: str, finetuned: Finetuned, metrics: Sequence[str], seconds: float) -> None:
    shown = [name for name in finetuned.metrics if name.rpartition("/")[2] in metrics]
    words = [f"{name} {finetuned.metrics[name]:.3f}" for name in shown]
    if finetuned.kept_step is not None:
        words.append(f"(of step {finetuned.kept_step}, the best)")
    print(f"{title}: {'  '.join(words)}, {seconds:.0f} s", file=sys.stderr)


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
