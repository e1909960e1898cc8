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
objectives          RTD of DeBERTaV3 and of ELECTRA, MLM with 80/10/10 and by [MASK] alone; same mask rate.
reference           The recipe alone; also writes the median and the range of its curves to reference.json.

electra_jax/comparison/README.md explains them. The first variant of a suite takes config.train.num_steps, the
others as many steps as cost the same FLOPs. --variants=NAME,NAME trains some of them, with these numbers of
steps. Every run is measured on held-out text, with --minimal_pairs=DIR by pairs of sentences, as in BLiMP,
and with --tasks by fine-tuning from as many seeds, next to a random initialisation. With --tokens=1e6,10e6
all this is done for each of these numbers of tokens. The same command again resumes. The command prints a
table; comparison.json or curves.json has the numbers of every run, and the .png shows them.
"""

from pathlib import Path

from absl import flags
from ml_collections import ConfigDict

from data_pipelines.path_flags import NAME
from data_pipelines.tasks.minimal_pairs import load_pairs
from electra_jax.comparison.budgets import parse_budgets
from electra_jax.comparison.downstream import check_tasks, load_tasks
from electra_jax.comparison.given_settings import check_given_to_suite
from electra_jax.comparison.judging import Judges
from electra_jax.comparison.learning_curves import CURVES_RESULTS, learning_curves
from electra_jax.comparison.one_length import compare
from electra_jax.comparison.pretraining import with_values_of_data
from electra_jax.comparison.suites import SUITES
from electra_jax.comparison.tables import COMPARISON_RESULTS
from electra_jax.configuration.flags import run_command
from electra_jax.configuration.number_flags import define_seeds
from electra_jax.configuration.recipes import PRETRAINING
from electra_jax.distributed.stopping import leaving_at_once
from electra_jax.minimal_pairs.command_line import define_pairs
from electra_jax.runs.only_writer import only_writer

FLAGS, KIND = flags.FLAGS, PRETRAINING._replace(check_given=check_given_to_suite)
PATHS = {"tasks": NAME, "minimal_pairs": NAME}


def main() -> None:
    """Pre-train the variants, judge them by pairs and tasks if these are given, and print the table."""
    workdir, num_seeds, variants = Path(FLAGS.workdir), FLAGS.seeds, FLAGS.variants
    judges = Judges(load_tasks(FLAGS.tasks), FLAGS.minimal_pairs or (), FLAGS.max_pairs)
    SUITES[FLAGS.suite].check_variants(variants)
    budgets = parse_budgets(FLAGS.tokens, num_seeds)
    load_pairs(judges.pairs, judges.max_pairs)  # what is wrong with them is found before any training
    kind = CURVES_RESULTS if budgets else COMPARISON_RESULTS
    with leaving_at_once(), only_writer(workdir, kind) as check:
        check_tasks(judges.tasks, workdir)
        runs = workdir / budgets[0].folder if budgets else workdir
        config = ConfigDict(with_values_of_data(FLAGS.config.to_dict(), runs))
        run, lengths = (learning_curves, budgets) if budgets else (compare, num_seeds)
        for line in run(FLAGS.suite, config, lengths, variants, judges, workdir, check):
            print(line)


def define_more_flags() -> None:
    """Define the command's flags besides --config and --workdir."""
    flags.DEFINE_enum("suite", "embedding_sharing", sorted(SUITES), "What to compare.")
    flags.DEFINE_list("variants", [], "Some of the suite's variants, separated by commas; default: all.")
    define_seeds(3, "Seeds per variant.")
    flags.DEFINE_list("tokens", [], "Learning curves: TOKENS[:SEEDS], separated by commas: 1e6:5,10e6:3.")
    define_pairs()
    flags.DEFINE_string("tasks", None, "Configuration of tasks to fine-tune on, such as configs/evaluate.py.")


if __name__ == "__main__":
    run_command(main, define_more_flags, on_devices=True, kind=KIND, paths=PATHS)
