"""Compare variants of a recipe, trained on the same data with equal FLOPs: `python -m electra_jax.compare`.

    python -m electra_jax.compare --suite=embedding_sharing --config=configs/debug.py:model=deberta_v3 \\
        --workdir=runs/sharing
    python -m electra_jax.compare --suite=courses --config=configs/debug.py:model=mcl --workdir=runs/courses
    python -m electra_jax.compare --suite=ablations --config=configs/debug.py --workdir=runs/ablations \\
        --tasks=configs/evaluate.py:data=DIR,tasks=ud+squad

ablations           ELECTRA, masked language modelling and the objectives between them (ELECTRA §3.2, §3.5).
backbones           DeBERTaV3 and ModernBERT, each by RTD and by MLM with 30 % or 15 % of the tokens chosen.
courses             MCL built up: RTD alone, which is ELECTRA; with swapped tokens; also with inserted ones;
                    also with the corrections; and the average of these four models.
embedding_sharing   The same model with embeddings tied (ES), separate (NES) and gradient-disentangled (GDES).
reference           The recipe alone; also writes the median and the range of its curves to reference.json.

electra_jax/comparison/README.md explains them. The first variant of a suite takes config.train.num_steps, the
others as many steps as cost the same FLOPs. --variants=NAME,NAME trains some of them, with these numbers of
steps. Every run is measured on held-out text, with --minimal_pairs=DIR by pairs of sentences, as in BLiMP,
and with --tasks by fine-tuning on the tasks of that configuration, from as many seeds, next to a random
initialisation. Each run has its own directory under --workdir; the same command again resumes. The command
prints a table; comparison.json holds the numbers of every run, comparison.png shows them.
"""

from pathlib import Path

from absl import flags
from ml_collections import ConfigDict

from data_pipelines.path_flags import NAME
from data_pipelines.tasks.minimal_pairs import load_pairs
from electra_jax.comparison.downstream import add_downstream_metrics, check_tasks, load_tasks
from electra_jax.comparison.pairs import add_pair_metrics
from electra_jax.comparison.pretraining import pretrain_suite, with_values_of_data
from electra_jax.comparison.suites import SUITES
from electra_jax.comparison.tables import COMPARISON_FILE, COMPARISON_RESULTS, write_comparison
from electra_jax.configuration.flags import run_command
from electra_jax.configuration.number_flags import define_seeds
from electra_jax.distributed.stopping import leaving_at_once
from electra_jax.finetuning.results import models_of
from electra_jax.minimal_pairs.command_line import define_pairs
from electra_jax.runs.only_writer import only_writer

FLAGS = flags.FLAGS
PATHS = {"tasks": NAME, "minimal_pairs": NAME}


def main() -> None:
    """Pre-train the variants, judge them by pairs and tasks if these are given, and print the table."""
    config, workdir, num_seeds = FLAGS.config, Path(FLAGS.workdir), FLAGS.seeds
    suite, tasks = SUITES[FLAGS.suite], load_tasks(FLAGS.tasks)
    pairs = FLAGS.minimal_pairs or (), FLAGS.max_pairs
    suite.check_variants(FLAGS.variants)
    load_pairs(*pairs)  # what is wrong with them is found before any training
    with leaving_at_once(), only_writer(workdir, COMPARISON_RESULTS) as check:
        check_tasks(tasks, workdir)
        config = ConfigDict(with_values_of_data(config.to_dict(), workdir))
        results = pretrain_suite(suite, config, workdir, num_seeds, FLAGS.variants)
        random_starts = suite.random_starts(models_of(results))
        results, notes = add_pair_metrics(results, *pairs, workdir, check)
        if tasks:
            results = add_downstream_metrics(results, tasks, workdir, num_seeds, random_starts)
        check()
        print("\n".join([*write_comparison(FLAGS.suite, config, results, workdir), *notes]))
    print(workdir / COMPARISON_FILE)


def define_more_flags() -> None:
    """Define the command's flags besides --config and --workdir."""
    flags.DEFINE_enum("suite", "embedding_sharing", sorted(SUITES), "What to compare.")
    flags.DEFINE_list("variants", [], "Some of the suite's variants, separated by commas; default: all.")
    define_seeds(3, "Seeds per variant.")
    define_pairs()
    flags.DEFINE_string("tasks", None, "Configuration of tasks to fine-tune on, such as configs/evaluate.py.")


if __name__ == "__main__":
    run_command(main, define_more_flags, paths=PATHS)
