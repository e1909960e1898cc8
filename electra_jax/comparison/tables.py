"""What `compare` and `evaluate` write and print: figures as JSON, plots, and tables for the terminal."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ml_collections import config_dict

from data_pipelines.json_files import write_json
from electra_jax.comparison.downstream import FOLDER, Evaluation
from electra_jax.comparison.pairs import PAIRS
from electra_jax.comparison.pretraining import DivergedRun, suite_runs
from electra_jax.comparison.reference_curves import REFERENCE_FILE, write_reference
from electra_jax.comparison.suites import SUITES, Suite
from electra_jax.finetuning.encoder_shapes import num_encoder_parameters
from electra_jax.finetuning.figures import plot
from electra_jax.finetuning.results import Result, models_of, to_json
from electra_jax.finetuning.sweep import format_settings, split_note
from electra_jax.finetuning.tables import results_table
from electra_jax.models.config import make_pretraining_config
from electra_jax.runs.result_places import Results

COMPARISON_FILE, EVALUATION_FILE = "comparison.json", "evaluation.json"
PICTURE, PLOTS = "comparison.png", "plots"
COMPARISON_RESULTS = Results((COMPARISON_FILE, PICTURE, REFERENCE_FILE), (FOLDER, PAIRS))
EVALUATION_RESULTS = Results((EVALUATION_FILE,), (PLOTS, FOLDER))


def write_comparison(
    suite_name: str,
    config: config_dict.ConfigDict,
    results: Sequence[Result],
    workdir: Path,
    diverged: Sequence[DivergedRun] = (),
    diverged_on_tasks: Sequence[str] = (),
) -> Iterator[str]:
    """Write comparison.json and comparison.png; yield the lines for the terminal.

    Args:
      diverged: pre-training runs without a result. With one of them no reference curves are written, which
        have all seeds.
      diverged_on_tasks: `Evaluation.diverged`.
    """
    suite = SUITES[suite_name]
    runs = runs_of(suite, config, results, workdir)
    sizes = {name: _encoder_size(*variant.values()) for name, variant in runs.items()}
    contents = {"suite": suite_name, "config": config.to_dict(), "results": to_json(results)}
    contents |= {"encoder_parameters": sizes} | diverged_entry(diverged, diverged_on_tasks)
    write_json(workdir / COMPARISON_FILE, contents)
    metrics = list(dict.fromkeys(metric for result in results for metric in result.metrics))
    plot(results, metrics, workdir / PICTURE)
    num_seeds = len({result.seed for result in results})
    seeds = "1 seed" if num_seeds == 1 else f"{num_seeds} seeds"
    yield f"{suite_name}: median (lowest–highest) of {seeds}, equal FLOPs"
    yield from length_lines(runs, workdir)
    yield from _sizes_of(sizes)
    yield from results_table(results, metrics)
    if suite.keeps_curves and not diverged:
        name = next(iter(suite.variants))
        seeds = {result.seed: workdir / name / f"seed_{result.seed}" for result in results}
        yield f"{write_reference(seeds, workdir)}"


def runs_of(
    suite: Suite, config: config_dict.ConfigDict, results: Sequence[Result], workdir: Path
) -> dict[str, dict[Path, dict[str, Any]]]:
    """Variant with results → its runs with seed 0 as in `suite_runs`, in the order of the suite."""
    models = models_of(results)
    return {name: suite_runs(suite, config, name, 0, workdir) for name in suite.variants if name in models}


def lengths_of(runs: Mapping[str, Mapping[Path, dict[str, Any]]]) -> dict[str, dict[str, int]]:
    """Variant → the steps of all its runs together, and their tokens, padding included.

    Args:
      runs: as from `runs_of`.
    """
    return {
        name: {
            "num_steps": sum(variant["train"]["num_steps"] for variant in variants.values()),
            "tokens": sum(map(_num_tokens, variants.values())),
        }
        for name, variants in runs.items()
    }


def length_lines(runs: Mapping[str, Mapping[Path, dict[str, Any]]], workdir: Path) -> Iterator[str]:
    """Lines for the terminal: steps, tokens and warm-up of each run of `runs_of`."""
    for variants in runs.values():
        for directory, variant in variants.items():
            run = directory.parent.relative_to(workdir)
            warmup = f"{variant['optimizer']['warmup_steps']:,} steps of warm-up"
            tokens = f"{_num_tokens(variant) / 1e6:.1f} M tokens a run"
            yield f"{run}: {variant['train']['num_steps']:,} steps, {tokens}, {warmup}"


def _num_tokens(variant: dict[str, Any]) -> int:
    train = variant["train"]
    return train["num_steps"] * train["batch_size"] * variant["data"]["sequence_length"]


def diverged_entry(diverged: Sequence[DivergedRun], on_tasks: Sequence[str]) -> dict[str, Any]:
    """What the JSON files have of runs without a result, of pre-training and as in `Evaluation.diverged`; {}
    without any."""
    entry = {"diverged": [run._asdict() for run in diverged], "diverged_on_tasks": list(on_tasks)}
    return {name: runs for name, runs in entry.items() if runs}


def diverged_lines(diverged: Sequence[DivergedRun]) -> Iterator[str]:
    """The line for the terminal that names runs without a result, if there are any."""
    if diverged:
        yield f"not in the table: {', '.join(run.name for run in diverged)}, which diverged"


def _encoder_size(*variants: dict[str, Any]) -> int:
    """Parameters of the encoder that the last run of a variant gives."""
    return num_encoder_parameters(make_pretraining_config(variants[-1]["model"]).discriminator)


def _sizes_of(sizes: dict[str, int]) -> Iterator[str]:
    """The sizes of encoders, of the first variant and of each that differs from it."""
    first, *others = sizes
    for name in (name for name in others if sizes[name] != sizes[first]):
        share = sizes[name] / sizes[first] - 1
        yield f"{name}: {sizes[name]:,} parameters ({share:+.2%}) in the encoder, {first} {sizes[first]:,}"


def write_evaluation(
    config: dict[str, Any],
    inits: dict[str, str],
    evaluation: Evaluation,
    workdir: Path,
    json: str = "",
    diverged: Sequence[DivergedRun] = (),
) -> Iterator[str]:
    """Write evaluation.json, the same to `json` if it is not "", and one plot per metric; yield the lines for
    the terminal.

    Args:
      diverged: pre-training runs without a result.
    """
    results, settings = evaluation.results, evaluation.settings
    starts = {"starts": inits, "start_steps": evaluation.steps}
    contents = {"config": config, **starts, "settings": settings, "results": to_json(results)}
    contents |= diverged_entry(diverged, evaluation.diverged)
    for path in filter(None, (workdir / EVALUATION_FILE, json)):
        write_json(Path(path), contents, makes_directories=True)
    metrics = list(dict.fromkeys(metric for result in results for metric in result.metrics))
    for metric in metrics:
        name = metric.replace(" ", "_").replace("/", "_")
        plot(results, [metric], workdir / PLOTS / f"{name}.png")
    yield from results_table(results, metrics)
    if any(chosen for by_encoder in settings.values() for chosen in by_encoder.values()):
        yield f"\nThe best settings of each, by the task's first metric{split_note(metrics)}:\n"
        for task, by_encoder in settings.items():
            words = [f"{name} {format_settings(chosen)}" for name, chosen in by_encoder.items()]
            yield f"{task}: {'; '.join(words)}"
    yield from diverged_lines(diverged)
