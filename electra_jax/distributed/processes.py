"""The processes of one run: how they find each other, wait for each other, and exit after an error."""

import contextlib
import json
import os
import sys
from typing import Any, NoReturn

import jax
import numpy as np
from absl import flags
from jax.experimental import multihost_utils

from electra_jax.distributed.platforms import check_platforms

flags.disclaim_key_flags()  # they are the command's own, so that its --help shows them
CONNECT_SECONDS = 120  # for the slowest host to start the same command
HEARTBEAT_SECONDS = 20  # a process without a sign of life for this long counts as dead, and the others exit
MESSAGE_BYTES = 1 << 16  # that a process can send in one `exchange`


def join_processes(
    coordinator: str | None = None, num_processes: int | None = None, process_id: int | None = None
) -> None:
    """Become one of several processes that all run the same command. Call it before JAX starts its back ends.

    JAX ends the process if not all processes connect within CONNECT_SECONDS, and later if one of them gives
    no sign of life for HEARTBEAT_SECONDS.

    Args:
      coordinator: HOST:PORT of process 0, which all processes can reach. Without the three arguments they
        come from the cluster: the metadata of a Cloud TPU, GKE, SLURM or Open MPI.
      num_processes: how many processes there are.
      process_id: which of them this one is, from 0.

    Raises:
      ValueError: some of the three are missing or impossible, no cluster was found, or this machine lacks
        the devices of JAX_PLATFORMS.
    """
    given = {"coordinator": coordinator, "num_processes": num_processes, "process_id": process_id}
    is_explicit = any(value is not None for value in given.values())
    if is_explicit:
        _check_explicit(given)
    print(
        f"waiting up to {CONNECT_SECONDS} seconds for the other processes; each needs the same command"
        + (f" (this is process {process_id} of {num_processes}, {coordinator} is 0)" if is_explicit else ""),
        file=sys.stderr,
    )
    explicit = {
        "coordinator_address": coordinator,
        "num_processes": num_processes,
        "process_id": process_id,
        "cluster_detection_method": "deactivate",
    }
    try:
        jax.distributed.initialize(
            **(explicit if is_explicit else {}),
            initialization_timeout=CONNECT_SECONDS,
            heartbeat_timeout_seconds=HEARTBEAT_SECONDS,
            shutdown_timeout_seconds=HEARTBEAT_SECONDS,
        )
    except ValueError as error:
        raise ValueError(
            f"--distributed: cannot find the other processes ({error}). Expected a Cloud TPU, GKE, SLURM or "
            f"Open MPI; elsewhere give {', '.join(f'--{name}=…' for name in given)}."
        ) from error
    check_platforms()
    print(
        f"process {jax.process_index()} of {jax.process_count()}: {jax.local_device_count()} of "
        f"{jax.device_count()} devices",
        file=sys.stderr,
    )


def _check_explicit(given: dict[str, Any]) -> None:
    missing = [name for name, value in given.items() if value is None]
    if missing:
        raise ValueError(
            f"--{missing[0]} is missing: expected all of {', '.join(f'--{name}' for name in given)}, or none."
        )
    coordinator, num_processes, process_id = given.values()
    if not coordinator.rpartition(":")[2].isdigit():
        raise ValueError(f"--coordinator: got {coordinator!r}, expected HOST:PORT.")
    if not 0 <= process_id < num_processes:
        raise ValueError(
            f"--process_id: got {process_id} of {num_processes} processes, expected 0 … {num_processes - 1}."
        )


def define_process_flags(flag_values: flags.FlagValues = flags.FLAGS) -> None:
    """Define --distributed, and --coordinator, --num_processes and --process_id for use without a cluster."""
    flags.DEFINE_boolean(
        "distributed",
        False,
        "Run as one of several processes, which find each other by the cluster's settings.",
        flag_values=flag_values,
    )
    flags.DEFINE_string(
        "coordinator", None, "HOST:PORT of process 0, where no cluster is detected.", flag_values=flag_values
    )
    flags.DEFINE_integer(
        "num_processes",
        None,
        "Number of processes, with --coordinator.",
        lower_bound=1,
        flag_values=flag_values,
    )
    flags.DEFINE_integer(
        "process_id",
        None,
        "Number of this process, from 0, with --coordinator.",
        lower_bound=0,
        flag_values=flag_values,
    )


def join_by_flags(flag_values: flags.FlagValues = flags.FLAGS) -> None:
    """`join_processes` with the values of the flags, if any of them is given. Raises ValueError as that does,
    also in a single process whose machine lacks the devices of JAX_PLATFORMS."""
    explicit = [flag_values[name].value for name in ("coordinator", "num_processes", "process_id")]
    if flag_values["distributed"].value or any(value is not None for value in explicit):
        join_processes(*explicit)
    else:
        check_platforms()


def is_main_process() -> bool:
    """Whether this is process 0, the only one that writes files and prints results."""
    return jax.process_index() == 0


def barrier(place: str) -> None:
    """Block until every process has reached `place`; returns at once with a single process."""
    multihost_utils.sync_global_devices(place)


def exchange(value: Any) -> list[Any]:
    """The JSON values of all processes, by process. Every process must call it.

    Raises:
      ValueError: the value takes more than MESSAGE_BYTES.
    """
    data = json.dumps(value).encode()
    if len(data) > MESSAGE_BYTES:
        raise ValueError(f"a value to exchange: got {len(data)} bytes, expected at most {MESSAGE_BYTES}.")
    row = np.zeros(MESSAGE_BYTES, np.uint8)
    row[: len(data)] = np.frombuffer(data, np.uint8)
    rows = multihost_utils.process_allgather(row).reshape(-1, MESSAGE_BYTES)
    return [json.loads(bytes(one[one != 0])) for one in rows]


def exit_process(message: str) -> NoReturn:
    """Print `message` and exit with code 1.

    One of several processes exits without clean-up, since JAX would let it wait for the others. These notice
    by the closed connection or by the missing sign of life.
    """
    if not jax.distributed.is_initialized():
        sys.exit(message)
    process = "This process"
    with contextlib.suppress(AssertionError, RuntimeError):  # it has no devices
        process = f"Process {jax.process_index()} of {jax.process_count()}"
    print(
        f"{message}\n{process} exits. If another process failed "
        "first, its log has the cause. Run the same command on all hosts to resume.",
        file=sys.stderr,
    )
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(1)
