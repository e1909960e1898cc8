"""What pre-training is worth: encoders fine-tuned on tasks or frozen, or minimal pairs of sentences.

    python -m electra_jax.evaluate --config=configs/evaluate.py:data=DIR --workdir=runs/evaluate --seeds=3
    python -m electra_jax.evaluate --config=configs/evaluate.py:data=DIR --workdir=runs/other \\
        --init_from=MODEL,random:MODEL
    python -m electra_jax.evaluate --minimal_pairs=DIR --init_from=MODEL --workdir=runs/pairs
    python -m electra_jax.evaluate --frozen --config=configs/evaluate.py:data=DIR,tasks=sst2+cola \\
        --workdir=runs/frozen --init_from=MODEL,random:MODEL

The first pre-trains with each objective of the configuration, with equal FLOPs, and fine-tunes every encoder
and a randomly initialised one on every task; --pretrainings sets the seeds of pre-training. The second takes
existing encoders. With --sweep=optimizer.learning_rate=1e-3,3e-3 each has its best settings on each task.
The others train no encoder: electra_jax/minimal_pairs/README.md and electra_jax/frozen_features/README.md.
The same command again resumes. --workdir gets NAME.json with the numbers of the table, plots, and the rest.
"""

from pathlib import Path

from absl import flags

from data_pipelines.path_flags import FILE, NAME, NEW_FILE
from electra_jax.comparison.downstream import check_tasks, evaluate_on_tasks, pretrained_inits, raise_diverged
from electra_jax.comparison.tables import EVALUATION_FILE, EVALUATION_RESULTS, write_evaluation
from electra_jax.configuration.extras import require_extra
from electra_jax.configuration.flags import run_command
from electra_jax.configuration.number_flags import define_seeds
from electra_jax.configuration.recipes import EVALUATION
from electra_jax.distributed.stopping import leaving_at_once
from electra_jax.frozen_features import command_line as frozen
from electra_jax.minimal_pairs.command_line import check_flags, define_flags, options_of
from electra_jax.minimal_pairs.evaluation import MINIMAL_PAIRS, evaluate_minimal_pairs
from electra_jax.runs.only_writer import only_writer

FLAGS = flags.FLAGS
PATHS = {"init_from": NAME, "minimal_pairs": NAME, "json": NEW_FILE, "outside": FILE}


def main() -> None:
    """Pre-train if no encoders are given, fine-tune, and print the table; or what the other flags ask for."""
    frozen.check_flags(FLAGS)
    check_flags(FLAGS)
    workdir, num_seeds = Path(FLAGS.workdir), FLAGS.seeds
    if FLAGS.minimal_pairs:
        with leaving_at_once(), only_writer(workdir, MINIMAL_PAIRS) as check:
            print("\n".join(evaluate_minimal_pairs(options_of(FLAGS), check)))
        return
    config = FLAGS.config.to_dict()
    if FLAGS.frozen:
        with leaving_at_once(), only_writer(workdir, frozen.FROZEN) as check:
            print("\n".join(frozen.evaluate(FLAGS, check)))
        return
    require_extra("finetune", "evaluating on tasks")
    with leaving_at_once(), only_writer(workdir, EVALUATION_RESULTS) as check:
        check_tasks(config["tasks"], workdir, FLAGS.sweep)
        inits, diverged = {name: name for name in FLAGS.init_from or ()}, []
        if not inits:
            inits, diverged = pretrained_inits(config, workdir, FLAGS.pretrainings, num_seeds)
        without, seeds = [(run.model, run.seed) for run in diverged], range(num_seeds)
        evaluation = evaluate_on_tasks(config["tasks"], workdir, inits, seeds, FLAGS.sweep, without)
        check()
        print("\n".join(write_evaluation(config, inits, evaluation, workdir, FLAGS.json, diverged)))
        print(workdir / EVALUATION_FILE)
        raise_diverged(evaluation.diverged, diverged)


def define_more_flags() -> None:
    """Define the command's flags besides --config and --workdir."""
    define_seeds(3, "Fine-tuning seeds per encoder and task.")
    text = "Pre-training seeds per objective: 1, or as many as --seeds, each then fine-tuned once."
    define_seeds(1, text, "pretrainings")
    text = "KEY=VALUE,VALUE,…: values to try in every task's configuration; several flags are combined."
    flags.DEFINE_multi_string("sweep", [], text)
    text = "Models to compare instead of pre-training: DIR, DIR:STEP or random:DIR, separated by commas."
    flags.DEFINE_list("init_from", None, text)
    define_flags()
    frozen.define_flags()


if __name__ == "__main__":
    run_command(main, define_more_flags, on_devices=True, requires_config=False, kind=EVALUATION, paths=PATHS)
