"""Check that everything is ready for a run: `python -m electra_jax.doctor`, with the arguments of
`electra_jax.pretrain`.

On several hosts, run it on all of them with --distributed, as for training. It trains nothing. Each process
checks: its devices; that code, versions and configuration are those of process 0; that all processes write to
one run directory; that the datasets can be read and are the same everywhere; that the mesh divides the model,
and that state and checkpoints fit. It prints a line for each check, and for each problem what to do.

A run that starts reads only the first and the last row of each file. With --read_all every row is read, and
compared with what was built, by digests that the datasets record.

Exit code 0: all checks passed. 1: a check failed. 2: no answer within --timeout seconds.
"""

import sys

from absl import flags

from electra_jax.configuration.flags import RUN_URLS, run_command
from electra_jax.distributed.processes import define_process_flags, is_main_process, join_by_flags
from electra_jax.runs.changed_length import define_length_flag
from electra_jax.runs.doctor_checks import Deadline, run_checks
from electra_jax.runs.process_errors import exit_on_error


def define_doctor_flags() -> None:
    """Define the flags that training does not have."""
    define_process_flags()
    define_length_flag()
    flags.DEFINE_integer(
        "expect_devices", None, "Number of devices that all hosts together must have.", lower_bound=1
    )
    flags.DEFINE_integer(
        "timeout",
        90,
        "Seconds after which to give up and report the check that hangs.",
        lower_bound=1,
        upper_bound=10**6,
    )
    text = "Also read every row of the datasets: are they those that were built?"
    flags.DEFINE_boolean("read_all", False, text)


def main() -> None:
    """Command line of this module."""
    values = flags.FLAGS
    with exit_on_error(RuntimeError), Deadline(values.timeout) as deadline:
        join_by_flags()
        counts = run_checks(
            values.config.to_dict(),
            values.workdir,
            values.expect_devices,
            deadline,
            changes_length=values.change_num_steps,
            reads_all=values.read_all,
        )
    if is_main_process():
        print(counts)
    sys.exit(1 if counts.num_failed else 0)


if __name__ == "__main__":
    run_command(main, define_doctor_flags, takes_urls=RUN_URLS)
