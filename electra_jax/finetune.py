"""Fine-tune encoders on a task and compare them: `python -m electra_jax.finetune`.

    python -m electra_jax.finetune --config=configs/finetune.py:task=trec6 --workdir=runs/trec6 --seeds=5 \\
        --init_from=runs/debug,random:runs/debug --sweep=optimizer.learning_rate=1e-4,3e-4,1e-3

--init_from names one or more encoders: directories of pre-training runs, of fine-tuned models or of Hugging
Face models, or random:DIR for newly initialised weights with the shapes and tokenizer of DIR. "{seed}" in a
name stands for the seed. Each encoder is fine-tuned from every seed with every combination of the values of
--sweep. results.json is written after each run; the same command again resumes. You may add seeds, encoders
or values to it.

Wrong settings and metrics are found before the first step. A run that diverges ends at once; the others are
done, and the command exits with code 1. SIGTERM or Ctrl-C ends the command at once; finished runs are kept.
Several hosts: as in electra_jax.pretrain, with files and --workdir that all of them see.

At the end the command prints a table of medians with the paired difference to the first encoder, and draws a
plot. It keeps the predictions of every run, and of each encoder the best model, to be exported or fine-tuned
further. electra_jax/finetuning/README.md describes tasks and files.
"""

from collections.abc import Sequence
from pathlib import Path

from absl import flags

from data_pipelines.path_flags import NAME
from electra_jax.configuration.flags import run_command
from electra_jax.configuration.number_flags import define_seeds
from electra_jax.configuration.recipes import FINETUNING
from electra_jax.distributed.processes import define_process_flags, is_main_process, join_by_flags
from electra_jax.distributed.stopping import leaving_at_once
from electra_jax.finetuning.experiment import DivergedError, Plan, finetune, write_report
from electra_jax.finetuning.experiment_directory import MODELS, RESULTS_FILE, recorded_metrics
from electra_jax.finetuning.results import Result
from electra_jax.finetuning.sweep import parse_sweep
from electra_jax.runs.process_errors import exit_on_error

FLAGS = flags.FLAGS
PATHS = {"init_from": NAME}


def main() -> None:
    """Fine-tune, then print the table and where the models and results are."""
    config, workdir = FLAGS.config.to_dict(), Path(FLAGS.workdir)
    if not FLAGS.init_from:
        raise ValueError("--init_from is missing: the directory of a run or of a Hugging Face model.")
    plan = Plan(FLAGS.init_from, range(FLAGS.seeds), parse_sweep(FLAGS.sweep, config))
    with exit_on_error():
        join_by_flags()
        with leaving_at_once():
            try:
                report(finetune(config, workdir, plan), workdir)
            except DivergedError as error:
                report(error.results, workdir)
                raise


def report(results: Sequence[Result], workdir: Path) -> None:
    """Print and draw the results, if there are any."""
    if results and is_main_process():
        print("\n".join(write_report(results, recorded_metrics(workdir), workdir)))
        print(workdir / MODELS)
        print(workdir / RESULTS_FILE)


def define_more_flags() -> None:
    """Define the command's flags besides --config and --workdir."""
    define_process_flags()
    flags.DEFINE_list("init_from", None, "Encoders to compare: DIR or random:DIR, separated by commas.")
    define_seeds(1, "Seeds per initial model.")
    flags.DEFINE_multi_string(
        "sweep",
        [],
        "KEY=VALUE,VALUE,…: configuration values to try; several flags are combined.",
    )


if __name__ == "__main__":
    run_command(main, define_more_flags, kind=FINETUNING, paths=PATHS)
