"""What pre-training is worth downstream: objectives pre-trained with equal FLOPs, each fine-tuned on several
tasks beside a random start, in one table.

    python -m electra_jax.evaluate --config=configs/evaluate.py:data=DIR --workdir=runs/evaluate --seeds=3
    python -m electra_jax.evaluate --config=configs/evaluate.py:data=DIR --workdir=runs/other --init_from=MODEL,random:MODEL

The first pre-trains, and --pretrainings says how often from different seeds; the second compares starts that
are there. With --sweep=optimizer.learning_rate=1e-3,3e-3 every start is shown with its best setting of each
task. Under --workdir each pre-training and each task has a directory of its own, as the commands for them
would make it; the same command again goes on where it stopped. evaluation.json holds the table's figures,
finetuning/TASK/results.json all of them.
"""

import itertools
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
from absl import app, flags
from ml_collections import config_dict

from data_pipelines.json_files import write_json
from data_pipelines.sample.prepare import PREFIX as SAMPLE_PREFIX
from data_pipelines.sample.prepare import prepare_sample
from electra_jax import finetune
from electra_jax.configuration import flags as command_line
from electra_jax.configuration.flags import define_flags, parse_flags, silence_libraries
from electra_jax.configuration.objectives import apply_objective
from electra_jax.distributed.stopping import leaving_at_once
from electra_jax.finetune import Plan
from electra_jax.finetuning.encoders import RANDOM
from electra_jax.finetuning.results import Result, plot, table, to_json
from electra_jax.finetuning.sweep import Settings, best_settings, parse_sweep, spell
from electra_jax.models.config import make_pretraining_config
from electra_jax.objectives.registry import forward_flops
from electra_jax.runs.pretraining import pretrain
from electra_jax.training.loop import NonFiniteLossError


def pretrain_objectives(
    config: dict[str, Any], objectives: Sequence[str], workdir: Path, seeds: Sequence[int]
) -> dict[str, Path]:
    """Pre-train every objective from every seed, or go on where that stopped; objective → directory of its
    runs.

    The configuration's own objective takes its train.num_steps; the others as many as cost the same FLOPs.

    Raises:
      ValueError, OSError, NonFiniteLossError: see `pretrain`.
    """
    datasets = [
        prepare_sample(path, workdir / "sample", sequence_length=config["data"]["sequence_length"])
        if path.startswith(SAMPLE_PREFIX)
        else path
        for path in config["data"]["datasets"]
    ]
    for objective, seed in itertools.product(objectives, seeds):
        directory = workdir / "pretraining" / objective / f"seed_{seed}"
        print(f"pre-training: {objective}, seed {seed}", file=sys.stderr)
        chosen = with_objective(config, objective)
        pretrain(
            chosen
            | {
                "data": config["data"] | {"datasets": tuple(datasets), "seed": seed},
                "train": config["train"] | {"seed": seed, "num_steps": equal_steps(config, chosen)},
            },
            directory,
        )
        jax.clear_caches()  # every run compiles its own step, and they would add up
    return {objective: workdir / "pretraining" / objective for objective in objectives}


def with_objective(config: dict[str, Any], name: str) -> dict[str, Any]:
    """`config` with another objective."""
    changed = config_dict.ConfigDict(config)
    apply_objective(changed, name)
    return changed.to_dict()


def equal_steps(config: dict[str, Any], *others: dict[str, Any]) -> int:
    """Steps of each of the configurations `others`, one after the other, that together cost as many FLOPs as
    those of `config`.

    Raises:
      ValueError: it has stages.
    """
    if config["stages"]:
        raise ValueError(
            f"config.stages: got {config['stages']!r}, expected (): runs of different numbers of steps "
            "would not have the same stages."
        )
    own, *theirs = (
        forward_flops(one, make_pretraining_config(one["model"])) * one["train"]["batch_size"]
        for one in (config, *others)
    )
    return round(config["train"]["num_steps"] * own / sum(theirs))


class Evaluation(NamedTuple):
    """A result a start and seed, with metrics "task metric"; and task → start → which settings of the sweep
    they are."""

    results: list[Result]
    chosen: dict[str, dict[str, Settings]]


def evaluate(
    config: dict[str, Any],
    workdir: Path,
    starts: dict[str, str],
    seeds: Sequence[int],
    sweep: Sequence[str] = (),
) -> Evaluation:
    """Fine-tune every start on every task from every seed, with every combination of `sweep` (see
    `parse_sweep`).

    Of a sweep each start has on each task the settings with the best median of the task's first metric.

    Raises:
      ValueError, OSError, FloatingPointError: see `finetune.run`, `parse_sweep`.
    """
    metrics: dict[tuple[str, int], dict[str, float]] = {}
    chosen: dict[str, dict[str, Settings]] = {}
    names = {path: name for name, path in starts.items()}
    plans = {
        task: Plan(list(names), seeds, parse_sweep(sweep, settings))
        for task, settings in config["tasks"].items()
    }
    for task, plan in plans.items():
        print(f"fine-tuning: {task}", file=sys.stderr)
        settings = config["tasks"][task]
        results = finetune.run(settings, workdir / "finetuning" / task, plan)
        shown = [
            metric
            for metric in results[0].metrics
            if metric.rpartition("/")[2] in settings["task"]["metrics"]
        ]
        for result in best_settings(results, shown[0]):
            name = names[result.model]
            values = {f"{task} {metric}": result.metrics[metric] for metric in shown}
            metrics[name, result.seed] = metrics.get((name, result.seed), {}) | values
            chosen.setdefault(task, {})[name] = dict(result.settings)
    return Evaluation([Result(name, seed, values) for (name, seed), values in metrics.items()], chosen)


def pretrained_starts(
    config: dict[str, Any], workdir: Path, num_pretrainings: int, num_seeds: int
) -> dict[str, str]:
    """Pre-train by every objective; name → start for fine-tuning, a random one first.

    Raises:
      ValueError: neither one pre-training of each nor one a seed. See `pretrain_objectives`.
    """
    if num_pretrainings not in (1, num_seeds):
        raise ValueError(f"--pretrainings: got {num_pretrainings}, expected 1 or --seeds={num_seeds}.")
    runs = pretrain_objectives(config["pretraining"], config["objectives"], workdir, range(num_pretrainings))
    each = "seed_0" if num_pretrainings == 1 else f"seed_{finetune.SEED}"
    return {
        "random": f"{RANDOM}{runs[config['pretraining']['objective']['name']]}/seed_0",
        **{objective: f"{directory}/{each}" for objective, directory in runs.items()},
    }


def main(argv: list[str]) -> None:
    """Command line of this module."""
    del argv
    silence_libraries()
    workdir, config, seeds = Path(flags.FLAGS.workdir), flags.FLAGS.config.to_dict(), range(flags.FLAGS.seeds)
    try:
        with leaving_at_once():
            if flags.FLAGS.init_from:
                starts = {name: name for name in flags.FLAGS.init_from}
            else:
                starts = pretrained_starts(config, workdir, flags.FLAGS.pretrainings, len(seeds))
            results, chosen = evaluate(config, workdir, starts, seeds, flags.FLAGS.sweep)
    except (ValueError, OSError, ImportError, FloatingPointError, NonFiniteLossError) as error:
        sys.exit(f"{type(error).__name__}: {error}")
    write_json(
        workdir / "evaluation.json",
        {"config": config, "starts": starts, "settings": chosen, "results": to_json(results)},
    )
    metrics = list(results[0].metrics)
    for metric in metrics:
        plot(results, [metric], workdir / "plots" / f"{metric.replace(' ', '_').replace('/', '_')}.png")
    print("\n".join(table(results, metrics)))
    if flags.FLAGS.sweep:
        print(
            "\nThe settings of each, chosen by the first metric of the very split that it is reported on:\n"
        )
        for task, settings in chosen.items():
            print(f"{task}: " + "; ".join(f"{name} {spell(values)}" for name, values in settings.items()))
    print(workdir / "evaluation.json")


if __name__ == "__main__":
    define_flags()
    # Here and not above, since importing a command must not define its flags.
    flags.DEFINE_integer("seeds", 3, "Fine-tuning runs of each start on each task.", lower_bound=1)
    flags.DEFINE_integer(
        "pretrainings",
        1,
        "Pre-training runs of each objective: 1, or as many as --seeds, each then fine-tuned once.",
        lower_bound=1,
    )
    flags.DEFINE_multi_string(
        "sweep",
        [],
        "KEY=VALUE,VALUE,…: values of every task's configuration to try; several flags are combined.",
    )
    flags.DEFINE_list(
        "init_from",
        None,
        "Starts to compare instead of pre-training: DIR, or random:DIR, with commas between.",
    )
    flags.adopt_module_key_flags(command_line)  # so that --help shows them
    app.run(main, flags_parser=parse_flags)
