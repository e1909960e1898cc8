"""Train variants of a recipe on the same data from several seeds, with equal FLOPs, and put what came out
into one table:

    python -m electra_jax.compare --suite=embedding_sharing --config=configs/debug.py:model=deberta_v3 --workdir=runs/sharing
    python -m electra_jax.compare --suite=courses --config=configs/debug.py:model=mcl --workdir=runs/courses
    python -m electra_jax.compare --suite=ablations --config=configs/debug.py --workdir=runs/ablations \\
        --tasks=configs/evaluate.py:data=DIR,tasks=ud+squad

ablations           ELECTRA beside masked language modelling and what lies between the two (ELECTRA §3.2 and
                    §3.5; the names are those of configs/electra.py; bert: 80 % [MASK], 10 % random tokens;
                    unigram and uniform: no model as generator). Held-out figures are of each one's own
                    generator and corruption: --tasks compares them.
courses             MCL, one course after the other: RTD alone, which is ELECTRA; with swapped tokens; with
                    inserted ones, too; with the corrections; and the average of those four models
                    (`electra_jax.soup`).
embedding_sharing   The same model with embeddings tied (ES), separate (NES) and gradient-disentangled (GDES),
                    as in DeBERTaV3 §3.3; also the average cosine similarity of two different words'
                    embeddings in each encoder.

The first variant takes config.train.num_steps, the others as many steps as cost the same FLOPs. Every run is
measured on held-out text; with --tasks it is fine-tuned on the tasks of that configuration, too, beside a
random start, as `electra_jax.evaluate` does it, from as many seeds. Each run has a directory of its own under
--workdir; the same command again goes on where it stopped. The table is printed, and comparison.json holds
every run's figures, comparison.png shows them.
"""

import itertools
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
from absl import app, flags
from ml_collections import config_dict

from data_pipelines.json_files import write_json
from electra_jax.comparison.suites import SUITES, Change, Suite
from electra_jax.configuration import flags as command_line
from electra_jax.configuration.flags import define_flags, load_config, parse_flags, silence_libraries
from electra_jax.distributed.stopping import leaving_at_once
from electra_jax.evaluate import equal_steps, evaluate
from electra_jax.finetune import SEED
from electra_jax.finetuning.encoders import RANDOM
from electra_jax.finetuning.results import Result, plot, table, to_json
from electra_jax.runs.pretraining import pretrain
from electra_jax.soups.averaging import SoupOptions, make_soup
from electra_jax.training.loop import NonFiniteLossError


def compare(suite: Suite, config: config_dict.ConfigDict, workdir: Path, num_seeds: int) -> list[Result]:
    """Train every variant from every seed, or go on where that stopped; the figures of each.

    A seed decides the start, the masks and the order of the data.

    Raises:
      ValueError, OSError, NonFiniteLossError: see `pretrain`, `make_soup`.
    """
    results = []
    plan = list(
        itertools.product(range(num_seeds), suite.variants)
    )  # by seed: an early look shows every variant
    for index, (seed, name) in enumerate(plan):
        runs = variant_runs(suite, config, name, seed, workdir)
        for directory, variant in runs.items():
            print(
                f"[{index + 1}/{len(plan)}] {directory}: {variant['train']['num_steps']:,} steps",
                file=sys.stderr,
            )
            summary = pretrain(variant, directory)
            jax.clear_caches()  # every run compiles its own step, and they would add up
        results.append(Result(name, seed, suite.measure(directory, summary)))
    for seed, (name, ingredients) in itertools.product(range(num_seeds), suite.soups.items()):
        directory = workdir / name / f"seed_{seed}"
        if not directory.exists():
            make_soup(
                [str(workdir / one / f"seed_{seed}") for one in ingredients],
                directory,
                SoupOptions("uniform", None, (), {}, different_starts=False),
            )
        results.append(Result(name, seed, suite.measure_soup(directory)))
    return results


def variant_runs(
    suite: Suite, config: config_dict.ConfigDict, name: str, seed: int, workdir: Path
) -> dict[Path, dict[str, Any]]:
    """The runs of a variant, one after the other, directory → configuration; together they cost the FLOPs of
    the first variant.

    Raises:
      ValueError: see `equal_steps`.
    """

    def changed(change: Change) -> dict[str, Any]:
        variant = config.copy_and_resolve_references()
        variant.update_from_flattened_dict({"train.seed": seed, "data.seed": seed})
        change(variant)
        return variant.to_dict()

    (first,) = map(changed, next(iter(suite.variants.values())))
    variants = list(map(changed, suite.variants[name]))
    num_steps = equal_steps(first, *variants)
    runs, start = {}, config.checkpoint.init_from
    for stage, variant in enumerate(variants, start=1):
        directory = workdir / name / (f"stage_{stage}" if stage < len(variants) else "") / f"seed_{seed}"
        runs[directory] = variant | {
            "train": variant["train"] | {"num_steps": num_steps},
            "checkpoint": variant["checkpoint"] | {"init_from": start},
        }
        start = str(directory)
    return runs


def downstream(
    results: Sequence[Result], tasks: dict[str, Any], workdir: Path, num_seeds: int
) -> list[Result]:
    """The same results with what the runs are worth on tasks, and those of a random start. The fine-tuning of
    seed s starts from the run of seed s.

    Raises:
      ValueError, OSError, FloatingPointError: see `evaluate`.
    """
    names = list(dict.fromkeys(result.model for result in results))
    starts = {name: f"{workdir}/{name}/seed_{SEED}" for name in names} | {
        "random": f"{RANDOM}{workdir}/{names[0]}/seed_0"
    }
    evaluation = evaluate({"tasks": tasks}, workdir, starts, range(num_seeds))
    found = {(one.model, one.seed): one.metrics for one in evaluation.results}
    return [
        result._replace(metrics=result.metrics | found.pop((result.model, result.seed))) for result in results
    ] + [Result(name, seed, metrics) for (name, seed), metrics in found.items()]


def report(suite_name: str, config: dict[str, Any], results: Sequence[Result], workdir: Path) -> list[str]:
    """Write comparison.json and comparison.png; the lines of the table."""
    write_json(
        workdir / "comparison.json", {"suite": suite_name, "config": config, "results": to_json(results)}
    )
    metrics = list(dict.fromkeys(metric for result in results for metric in result.metrics))
    plot(results, metrics, workdir / "comparison.png")
    return table(results, metrics)


def main(argv: list[str]) -> None:
    """Command line of this module."""
    del argv
    silence_libraries()
    config, workdir, num_seeds = flags.FLAGS.config, Path(flags.FLAGS.workdir), flags.FLAGS.seeds
    suite = SUITES[flags.FLAGS.suite]
    try:
        tasks = load_config(flags.FLAGS.tasks).tasks.to_dict() if flags.FLAGS.tasks else None
        with leaving_at_once():
            results = compare(suite, config, workdir, num_seeds)
            if tasks is not None:
                results = downstream(results, tasks, workdir, num_seeds)
    except (ValueError, OSError, ImportError, FloatingPointError, NonFiniteLossError) as error:
        sys.exit(f"{type(error).__name__}: {error}")
    lines = report(flags.FLAGS.suite, config.to_dict(), results, workdir)
    print(
        f"{flags.FLAGS.suite}: median (lowest–highest) of {num_seeds} seed{'s' * (num_seeds > 1)}, equal "
        "FLOPs"
    )
    for name in suite.variants:
        for directory, variant in variant_runs(suite, config, name, 0, workdir).items():
            train = variant["train"]
            tokens = train["num_steps"] * train["batch_size"] * config.data.sequence_length
            print(
                f"{directory.parent.relative_to(workdir)}: {train['num_steps']:,} steps, {tokens / 1e6:.1f} "
                "M tokens a run"
            )
    print("\n".join(lines))
    print(workdir / "comparison.json")


if __name__ == "__main__":
    define_flags()
    # Here and not above, since importing a command must not define its flags.
    flags.DEFINE_enum("suite", "embedding_sharing", sorted(SUITES), "What to compare.")
    flags.DEFINE_integer("seeds", 3, "Runs of each variant.", lower_bound=1)
    flags.DEFINE_string("tasks", None, "Configuration with tasks to fine-tune on, as configs/evaluate.py.")
    flags.adopt_module_key_flags(command_line)  # so that --help shows them
    app.run(main, flags_parser=parse_flags)
