"""The processes of one run: how they find each other, wait for each other, and end without."""

import os
import sys
from typing import NoReturn

import jax
from absl import flags
from jax.experimental import multihost_utils

CONNECT_SECONDS = 120  # for the slowest host to start the same command
HEARTBEAT_SECONDS = 20  # without a sign of life, after which a process counts as dead and the others end


def join_processes(
    coordinator: str | None = None, num_processes: int | None = None, process_id: int | None = None
) -> None:
    """Become one of several processes that all run the same command. Must be called before JAX starts its
    back ends.

    `coordinator` is HOST:PORT, which all can reach, of the process with id 0. With none of the three they are
    found by what the cluster says: the metadata of a Cloud TPU, GKE, SLURM or Open MPI. JAX ends the process
    when not all come within two minutes, and later when one of them shows no sign of life.

    Raises:
      ValueError: some of the three are missing or impossible, or nothing says where the others are.
    """
    given = {"coordinator": coordinator, "num_processes": num_processes, "process_id": process_id}
    missing = [name for name, value in given.items() if value is None]
    if 0 < len(missing) < len(given):
        raise ValueError(
            f"--{missing[0]} is missing: expected all of {', '.join(f'--{name}' for name in given)}, or none."
        )
    if not missing:
        if not coordinator.rpartition(":")[2].isdigit():
            raise ValueError(f"--coordinator: got {coordinator!r}, expected HOST:PORT.")
        if not 0 <= process_id < num_processes:
            raise ValueError(
                f"--process_id: got {process_id} of {num_processes} processes, expected 0 … "
                f"{num_processes - 1}."
            )
    print(
        f"waiting up to {CONNECT_SECONDS} seconds for the other processes; each needs the same command"
        + (f" (this one is {process_id} of {num_processes}, {coordinator} is 0)" if not missing else ""),
        file=sys.stderr,
    )
    try:
        jax.distributed.initialize(
            **(
                {}
                if missing
                else {
                    "coordinator_address": coordinator,
                    "num_processes": num_processes,
                    "process_id": process_id,
                    "cluster_detection_method": "deactivate",
                }
            ),
            initialization_timeout=CONNECT_SECONDS,
            heartbeat_timeout_seconds=HEARTBEAT_SECONDS,
            shutdown_timeout_seconds=HEARTBEAT_SECONDS,
        )
    except ValueError as error:
        raise ValueError(
            f"--distributed: nothing here says where the other processes are ({error}). Expected a Cloud "
            f"TPU, GKE, SLURM or Open MPI; elsewhere give {', '.join(f'--{name}=…' for name in given)}."
        ) from error
    print(
        f"process {jax.process_index()} of {jax.process_count()}: {jax.local_device_count()} of "
        f"{jax.device_count()} devices",
        file=sys.stderr,
    )


def define_process_flags(flag_values: flags.FlagValues = flags.FLAGS) -> None:
    """Define --distributed, and --coordinator, --num_processes and --process_id for where no cluster is."""
    flags.DEFINE_boolean(
        "distributed",
        False,
        "Several processes run this command together, found by the cluster.",
        flag_values=flag_values,
    )
    flags.DEFINE_string(
        "coordinator", None, "HOST:PORT of process 0, where no cluster says it.", flag_values=flag_values
    )
    flags.DEFINE_integer(
        "num_processes",
        None,
        "How many there are, with --coordinator.",
        lower_bound=1,
        flag_values=flag_values,
    )
    flags.DEFINE_integer(
        "process_id",
        None,
        "Which one this is, from 0, with --coordinator.",
        lower_bound=0,
        flag_values=flag_values,
    )


def join_by_flags(flag_values: flags.FlagValues = flags.FLAGS) -> None:
    """`join_processes` as the flags say, which raises its errors; nothing without them."""
    explicit = [flag_values[name].value for name in ("coordinator", "num_processes", "process_id")]
    if flag_values["distributed"].value or any(value is not None for value in explicit):
        join_processes(*explicit)


def is_main_process() -> bool:
    """Whether this is the one process that writes files and talks to people."""
    return jax.process_index() == 0


def barrier(place: str) -> None:
    """Block until every process has come to `place`; nothing with a single one."""
    multihost_utils.sync_global_devices(place)


def exit_process(message: str) -> NoReturn:
    """End a run that cannot go on, with exit code 1. One of several processes ends at once, for JAX would let
    it wait for the others: these notice by the connection or by the missing sign of life."""
    if not jax.distributed.is_initialized():
        sys.exit(message)
    print(
        f"{message}\nThis was process {jax.process_index()} of {jax.process_count()}. Where another one "
        "broke off first, its output says why. The same command on all of them goes on from the newest "
        "checkpoint.",
        file=sys.stderr,
    )
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(1)
