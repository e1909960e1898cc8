"""What pre-training is worth downstream: `python -m electra_jax.evaluate`.

    python -m electra_jax.evaluate --config=configs/evaluate.py:data=DIR --workdir=runs/evaluate --seeds=3
    python -m electra_jax.evaluate --config=configs/evaluate.py:data=DIR --workdir=runs/other \\
        --init_from=MODEL,random:MODEL

The first command pre-trains with each objective of the configuration, with equal FLOPs, and fine-tunes every
encoder and a randomly initialised one on every task. --pretrainings sets how many seeds pre-training has. The
second command compares existing encoders instead. With --sweep=optimizer.learning_rate=1e-3,3e-3 each encoder
is shown with its best settings on each task.

Each pre-training and each task has its own directory under --workdir, as `pretrain` and `finetune` would make
it. The same command again resumes. evaluation.json holds the numbers of the table, and
finetuning/TASK/results.json those of every run.
"""

from pathlib import Path

from absl import flags

from data_pipelines.path_flags import NAME
from electra_jax.comparison.downstream import check_tasks, evaluate_on_tasks, pretrained_inits
from electra_jax.comparison.tables import EVALUATION_FILE, write_evaluation
from electra_jax.configuration.extras import require_extra
from electra_jax.configuration.flags import run_command
from electra_jax.configuration.number_flags import define_seeds
from electra_jax.configuration.recipes import EVALUATION
from electra_jax.distributed.stopping import leaving_at_once
from electra_jax.runs.only_writer import only_writer

FLAGS = flags.FLAGS
PATHS = {"init_from": NAME}


def main() -> None:
    """Pre-train if no encoders are given, fine-tune, and print the table."""
    config, workdir, num_seeds = FLAGS.config.to_dict(), Path(FLAGS.workdir), FLAGS.seeds
    require_extra("finetune", "evaluating on tasks")
    with leaving_at_once(), only_writer(workdir) as check:
        check_tasks(config["tasks"], workdir, FLAGS.sweep)
        if FLAGS.init_from:
            inits = {name: name for name in FLAGS.init_from}
        else:
            inits = pretrained_inits(config, workdir, FLAGS.pretrainings, num_seeds)
        evaluation = evaluate_on_tasks(config["tasks"], workdir, inits, range(num_seeds), FLAGS.sweep)
        check()
        print("\n".join(write_evaluation(config, inits, evaluation, workdir)))
    print(workdir / EVALUATION_FILE)


def define_more_flags() -> None:
    """Define the command's flags besides --config and --workdir."""
    define_seeds(3, "Fine-tuning seeds per encoder and task.")
    text = "Pre-training seeds per objective: 1, or as many as --seeds, each then fine-tuned once."
    define_seeds(1, text, "pretrainings")
    flags.DEFINE_multi_string(
        "sweep",
        [],
        "KEY=VALUE,VALUE,…: values to try in every task's configuration; several flags are combined.",
    )
    flags.DEFINE_list(
        "init_from",
        None,
        "Encoders to compare instead of pre-training: DIR or random:DIR, separated by commas.",
    )


if __name__ == "__main__":
    run_command(main, define_more_flags, kind=EVALUATION, paths=PATHS)
