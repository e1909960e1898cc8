"""Fine-tune encoders on a task and compare them: `python -m electra_jax.finetune
--config=configs/finetune.py:task=sst2 …`.

    python -m electra_jax.finetune --config=configs/finetune.py:task=trec6 --workdir=runs/trec6 --seeds=5 \\
        --init_from=runs/debug,random:runs/debug --sweep=optimizer.learning_rate=1e-4,3e-4,1e-3

--init_from names one or more starts: run directories, fine-tuned models, Hugging Face directories, or
random:DIR for a directory's shapes and tokenizer with fresh weights; "{seed}" in a name stands for the seed.
Each is fine-tuned from every seed, with every combination of the values of --sweep. results.json is written
as each is done, and the same command again goes on where it stopped; more seeds, starts or values may be
asked for then. Then come a table of medians with the paired difference to the first start, a plot, every
run's predictions, and of each start the best model, to export or to fine-tune further.
"""

import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from absl import app, flags

from data_pipelines.sample.trec_questions import with_files
from data_pipelines.tasks.load import load_task
from electra_jax.configuration import flags as command_line
from electra_jax.configuration.checks import check_values
from electra_jax.configuration.flags import define_flags, parse_flags
from electra_jax.distributed.mesh import make_mesh
from electra_jax.distributed.stopping import leaving_at_once
from electra_jax.finetuning.encoders import PretrainedEncoder, load_encoder
from electra_jax.finetuning.model_files import save_model
from electra_jax.finetuning.predictions import write_predictions
from electra_jax.finetuning.results import Result, plot, table, to_json
from electra_jax.finetuning.sweep import apply_settings, best_settings, by_setting, parse_sweep, spell
from electra_jax.finetuning.task_finetuner import TaskFinetuner
from electra_jax.pretrain import silence_libraries
from electra_jax.runs.directory import check_run_directory, write_json

RESULTS_FILE, MODELS = "results.json", "models"
SEED = "{seed}"


class Plan(NamedTuple):
    """What to fine-tune: starts, with SEED in them for pre-trainings of their own; seeds; settings (see
    `parse_sweep`)."""

    starts: Sequence[str]
    seeds: Sequence[int]
    sweep: Sequence[dict[str, Any]] = ({},)


def run(config: dict[str, Any], workdir: Path, plan: Plan) -> list[Result]:
    """Every result of the plan that is not there yet; all of them, in its order. A result's model is the
    start as in the plan.

    Raises: ValueError, OSError: the task, a start or the settings do not fit together; see `load_task`,
      `load_encoder`. FloatingPointError: a run diverged.
    """
    task = config["task"] | {key: tuple(config["task"][key]) for key in ("labels", "metrics")}
    config = config | {"task": task}
    check_run_directory(workdir, {"config": config})
    data = load_task(with_files(task, workdir / "data"))
    for note in data.notes:
        print(note, file=sys.stderr)
    mesh = make_mesh(config["mesh"])
    for settings in plan.sweep:
        check_values(apply_settings(config, settings))
        batch_size = apply_settings(config, settings)["train"]["batch_size"]
        if batch_size % mesh.size:
            raise ValueError(
                f"config.train.batch_size: got {batch_size}, expected a multiple of the {mesh.size} devices. "
                "Change it, or config.mesh."
            )
    bench = TaskFinetuner(config, data, mesh)
    workdir.mkdir(parents=True, exist_ok=True)
    write_json(workdir / "config.json", {"config": config})
    results = _read_results(workdir)
    wanted = [
        (start, settings, seed) for start in plan.starts for settings in plan.sweep for seed in plan.seeds
    ]
    identity = lambda result: (result.model, result.settings, result.seed)
    initial: PretrainedEncoder | None = None
    for start, settings, seed in wanted:
        if (start, settings, seed) not in map(identity, results):
            path = start.replace(SEED, str(seed))
            if initial is None or initial.name != path:
                initial = load_encoder(path, workdir / "tokenizers" / _slug(path))
            results.append(_finetune(bench, initial, start, settings, seed, results, workdir))
            write_json(workdir / RESULTS_FILE, to_json(results))  # whole or not at all
    return sorted(
        (result for result in results if identity(result) in wanted),
        key=lambda one: wanted.index(identity(one)),
    )


def _finetune(
    bench: TaskFinetuner,
    initial: PretrainedEncoder,
    name: str,
    settings: dict[str, Any],
    seed: int,
    others: Sequence[Result],
    workdir: Path,
) -> Result:
    """One run: its result, after its predictions and, if none of `others` with its name is as good, its model
    are kept."""
    task, data = bench.config["task"], bench.data
    tuned = bench.finetune(initial, settings, seed)
    result = Result(name, seed, tuned.metrics, settings)
    directory = workdir / "predictions" / _slug(name) / _slug(spell(settings)) / f"seed_{seed}"
    for split, predictions in tuned.predictions.items():
        write_predictions(directory, bench.kind, task, data, split, predictions)
    metric = next(iter(result.metrics))
    if all(other.metrics[metric] < result.metrics[metric] for other in others if other.model == name):
        description = {
            "task": task,
            "labels": data.labels,
            "config": apply_settings(bench.config, settings),
            "start": initial.name,
            "seed": seed,
            "settings": settings,
            "metrics": result.metrics,
        }
        save_model(
            workdir / MODELS / _slug(name), tuned.encoder, description, initial.tokenizer, tuned.params
        )
    return result


def _read_results(workdir: Path) -> list[Result]:
    path = workdir / RESULTS_FILE
    return [Result(**one) for one in json.loads(path.read_text())] if path.is_file() else []


def _slug(start: str) -> str:
    """A start as the name of a folder; "" stays."""
    return "".join(letter if letter.isalnum() or letter in "-._=" else "_" for letter in start)


def report(results: Sequence[Result], metrics: Sequence[str], workdir: Path) -> Iterator[str]:
    """Lines for people, after the plot is drawn: every combination of a sweep, then each start with its
    best."""
    shown = [metric for metric in results[0].metrics if metric.rpartition("/")[2] in metrics]
    if any(result.settings for result in results):
        plot(by_setting(results), shown[:1], workdir / "plots" / "sweep.png")
        yield from table(by_setting(results), shown, with_differences=False)
        results = best_settings(results, shown[0])
        yield f"\nOf each the setting with the best median {shown[0]}, chosen on the very split that it is reported on:\n"
        for model, settings in {result.model: spell(result.settings) for result in results}.items():
            yield f"{model}: {settings}"
    plot(results, shown[:1], workdir / "plots" / "results.png")
    yield from table(results, shown)


def main(argv: list[str]) -> None:
    """Command line of this module."""
    del argv
    silence_libraries()
    workdir, config = Path(flags.FLAGS.workdir), flags.FLAGS.config.to_dict()
    try:
        if not flags.FLAGS.init_from:
            raise ValueError("--init_from is missing: the directory of a run or of a Hugging Face model.")
        plan = Plan(flags.FLAGS.init_from, range(flags.FLAGS.seeds), parse_sweep(flags.FLAGS.sweep, config))
        with leaving_at_once():
            results = run(config, workdir, plan)
    except (ValueError, OSError, ImportError, FloatingPointError) as error:
        sys.exit(f"{type(error).__name__}: {error}")
    print("\n".join(report(results, config["task"]["metrics"], workdir)))
    print(workdir / MODELS)
    print(workdir / RESULTS_FILE)


if __name__ == "__main__":
    define_flags()
    # Here and not above, since importing a command must not define its flags.
    flags.DEFINE_list("init_from", None, "Starts to compare: DIR, or random:DIR, with commas between.")
    flags.DEFINE_integer("seeds", 1, "Runs of each start.", lower_bound=1)
    flags.DEFINE_multi_string(
        "sweep", [], "KEY=VALUE,VALUE,…: values of the configuration to try; several flags are combined."
    )
    flags.adopt_module_key_flags(command_line)  # so that --help shows them
    app.run(main, flags_parser=parse_flags)
