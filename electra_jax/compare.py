"""Train variants of a recipe on the same data from several seeds and put what came out into one table:

    python -m electra_jax.compare --suite=embedding_sharing --config=configs/debug.py:model=deberta_v3 --workdir=runs/sharing

Suite `embedding_sharing`: the same model with embeddings tied (ES), separate (NES) and gradient-disentangled (GDES), as in
DeBERTaV3 §3.3: held-out MLM loss, RTD AUC, and the average cosine similarity of two different words' embeddings in the
generator and in the discriminator. Each run has a directory of its own under --workdir; the same command again goes on where
it stopped. The table is printed, and comparison.json holds every run's figures.
"""

import itertools
import statistics
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from absl import app, flags
from ml_collections import config_dict

from electra_jax import command_line
from electra_jax.command_line import define_flags, parse_flags
from electra_jax.distributed.stopping import leaving_at_once
from electra_jax.models.pretraining import PretrainingModel
from electra_jax.pretrain import run, silence_libraries
from electra_jax.stages import make_stages
from electra_jax.trained_run import load_run
from electra_jax.training.loop import NonFiniteLossError
from electra_jax.training.run_directory import write_json

Figures = dict[str, float]


class Suite(NamedTuple):
    """variants: name → values of the configuration that it changes. measure: (run directory, its summary) → figures."""

    variants: dict[str, dict[str, Any]]
    measure: Callable[[Path, dict[str, Any]], Figures]


def measure_embeddings(run_directory: Path, summary: dict[str, Any]) -> Figures:
    """Held-out loss and AUC, and how alike the words of each table are on average."""
    trained = load_run(run_directory)
    model = PretrainingModel(trained.model)
    tables = jax.jit(lambda params: model.apply({"params": params}, method="word_tables"))(trained.params)
    return {"mlm_loss": summary["heldout_mlm_loss"], "rtd_auc": summary["heldout_rtd_auc"],
            **{f"{name}_cosine": average_cosine(np.asarray(tables[name])) for name in ("generator", "discriminator")}}


def average_cosine(table_VE: np.ndarray) -> float:
    """Mean cosine of all pairs of different rows, from the length of the sum of the unit rows: (‖Σû‖² − V) / (V(V − 1))."""
    table_VE = table_VE.astype(np.float64)
    unit_VE = table_VE / np.linalg.norm(table_VE, axis=1, keepdims=True)
    rows = len(unit_VE)
    return float((np.square(unit_VE.sum(0)).sum() - rows) / (rows * (rows - 1)))


SUITES = {
    "embedding_sharing": Suite({sharing: {"model.embedding_sharing": sharing} for sharing in ("tied", "none", "gdes")},
                               measure_embeddings),
}


def compare(suite: Suite, config: config_dict.ConfigDict, workdir: Path, num_seeds: int) -> dict[str, list[Figures]]:
    """Train every variant from every seed, or go on where that stopped; variant → figures of each seed.

    A seed decides the start, the masks and the order of the data.

    Raises:
      ValueError, OSError, NonFiniteLossError: see `pretrain.run`.
    """
    figures: dict[str, list[Figures]] = {name: [] for name in suite.variants}
    plan = list(itertools.product(range(num_seeds), suite.variants))  # by seed: an early look shows every variant
    for index, (seed, name) in enumerate(plan):
        print(f"[{index + 1}/{len(plan)}] {name}, seed {seed}", file=sys.stderr)
        variant = config.copy_and_resolve_references()
        variant.update_from_flattened_dict(suite.variants[name] | {"train.seed": seed, "data.seed": seed})
        directory = workdir / name / f"seed_{seed}"
        figures[name].append(suite.measure(directory, run(variant.to_dict(), directory)))
        jax.clear_caches()  # every run compiles its own step, and they would add up
    return figures


def table(figures: dict[str, list[Figures]]) -> list[str]:
    """Lines of a Markdown table: medians over the seeds, with the lowest and the highest."""
    columns = list(next(iter(figures.values()))[0])
    lines = ["| | " + " | ".join(columns) + " |", "|---" * (len(columns) + 1) + "|"]
    for name, runs in figures.items():
        cells = []
        for column in columns:
            values = [one[column] for one in runs]
            cells.append(f"{statistics.median(values):.3f} ({min(values):.3f}–{max(values):.3f})")
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return lines


def main(argv: list[str]) -> None:
    """Command line of this module."""
    del argv
    silence_libraries()
    config, workdir = flags.FLAGS.config, Path(flags.FLAGS.workdir)
    try:
        with leaving_at_once():
            figures = compare(SUITES[flags.FLAGS.suite], config, workdir, flags.FLAGS.seeds)
    except (ValueError, OSError, ImportError, NonFiniteLossError) as error:
        sys.exit(f"{type(error).__name__}: {error}")
    write_json(workdir / "comparison.json",
               {"suite": flags.FLAGS.suite, "config": config.to_dict(), "figures": figures})
    tokens = sum(stage.num_examples * stage.config["data"]["sequence_length"] for stage in make_stages(config.to_dict()))
    print(f"{flags.FLAGS.suite}: {config.train.num_steps:,} steps, {tokens / 1e6:.1f} M tokens a run; median (lowest–highest) "
          f"of {flags.FLAGS.seeds} seeds")
    print("\n".join(table(figures)))
    print(workdir / "comparison.json")


if __name__ == "__main__":
    define_flags()
    # Here and not above, since importing a command must not define its flags.
    flags.DEFINE_enum("suite", "embedding_sharing", sorted(SUITES), "What to compare.")
    flags.DEFINE_integer("seeds", 3, "Runs of each variant.", lower_bound=1)
    flags.adopt_module_key_flags(command_line)  # so that --help shows them
    app.run(main, flags_parser=parse_flags)
