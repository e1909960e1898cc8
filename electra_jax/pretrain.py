"""Pre-train an encoder: `python -m electra_jax.pretrain --config=configs/electra.py:size=small
--workdir=DIR`.

The same command again resumes from the newest checkpoint, or reports that the run is complete. Any value of
the configuration can be set on the command line: `--config.train.num_steps=1000`,
`--config.data.datasets=DIR1,DIR2`. The length of a run may also be given as --config.train.num_epochs=3 or
--config.train.num_tokens=5e9; --change_num_steps makes a run that resumes longer or shorter.

SIGTERM: the run says at once at which step it stops, saves, and exits with code 143. So do SIGHUP, unless it
is ignored (`nohup`), and Ctrl-C, if the run has only one process. While a run starts or compiles, at the
beginning and between the stages of config.stages, there is nothing to save: SIGTERM and SIGHUP end the
process directly (a shell shows 143 or 129 then, too), and Ctrl-C exits with code 130.

--workdir and config.data.datasets may be URLs of buckets, gs://BUCKET/DIR or s3://BUCKET/DIR
(electra_jax/runs/README.md).

Several hosts: each of them runs the command with --distributed, with the same --workdir and datasets. On a
TPU, GKE, SLURM or Open MPI the hosts find each other; elsewhere add --coordinator=HOST:PORT
--num_processes=N --process_id=I.
"""

from absl import flags

from electra_jax.configuration.flags import RUN_URLS, run_command
from electra_jax.distributed.processes import define_process_flags, is_main_process, join_by_flags
from electra_jax.distributed.stopping import leaving_at_once
from electra_jax.runs.changed_length import define_length_flag
from electra_jax.runs.pretraining import pretrain
from electra_jax.runs.process_errors import exit_on_error
from electra_jax.runs.summary import print_values


def main() -> None:
    """Command line of this module."""
    workdir = flags.FLAGS.workdir
    with exit_on_error():
        join_by_flags()
        with leaving_at_once():
            config, changes_length = flags.FLAGS.config.to_dict(), flags.FLAGS.change_num_steps
            summary = pretrain(config, workdir, changes_length=changes_length)
    if is_main_process():
        print_values(summary)
        print(f"{workdir.rstrip('/')}/summary.json")


def define_more_flags() -> None:
    """Define the flags besides --config and --workdir."""
    define_process_flags()
    define_length_flag()


if __name__ == "__main__":
    run_command(main, define_more_flags, takes_urls=RUN_URLS)
