"""Pre-train on a Cloud TPU VM from your own machine:

    tpu="--name=small --zone=us-west4-a --project=my-project"
    run="--config=configs/electra.py:size=small --config.data.datasets=bucket/data/corpus \\
        --config.model.dtype=bfloat16 --config.train.layers=scanned --workdir=bucket/runs/small --distributed"

    python launch/tpu_vm.py babysit $tpu --type=v5litepod-16 --spot --bucket=my-bucket \\
        --delete_when_done -- $run

does everything: it requests the TPU, waits for it, installs this checkout's last commit on all its workers,
starts `python -m electra_jax.pretrain`, and restarts the run whenever Google preempts the TPU. The last line
of `bash launch/compile_only.sh plan …` has the settings for your TPU. Or step by step:

    python launch/tpu_vm.py create $tpu --type=v5litepod-16   # on demand; or --spot, or --reserved
    python launch/tpu_vm.py setup $tpu --bucket=my-bucket     # mounted on every worker; runs see bucket/
    python launch/tpu_vm.py start $tpu -- $run                # continues when this machine is switched off
    python launch/tpu_vm.py tail $tpu                         # follow worker 0's log until Ctrl-C
    python launch/tpu_vm.py status $tpu
    python launch/tpu_vm.py stop $tpu                         # it saves a checkpoint and ends
    python launch/tpu_vm.py delete $tpu                       # ends all costs

It uses Google's Cloud TPU API, which gets no new types: TPU7x (Ironwood) is in GKE (launch/gke.sh).

A TPU costs money until it is deleted, whether or not anything runs on it. Its disks are deleted with it: keep
datasets and runs in bucket/, which all workers share (TPUs from v5litepod-16 on have several workers and need
--distributed). With --spot or --delete_when_done, `babysit` refuses another --workdir. The VM's service
account must be allowed to write to the bucket. Put secrets into a file of NAME=VALUE lines with mode 600 and
give --env_file=FILE; the run finds them in its environment.

`babysit` counts as failures: a creation that is refused or fails, a set-up that fails, and a run that ends
with another exit code than 0 (complete) or 143 (told to stop; it is restarted). After --max_failures of them
it ends with the last one's exit code; a run that lasted an hour resets the count. A preempted TPU is not a
failure. When gcloud or a worker does not answer, it asks again with growing pauses, until ten attempts in a
row have failed. It deletes nothing unless Google reports that the TPU is gone or has failed. The same command
again takes over a TPU and a run that exist. End it with Ctrl-C before you `stop` a run, or it restarts the
run.

With --dry_run, any command prints the commands it would run, and runs none; `babysit` prints when it would
delete the TPU, too. It needs gcloud, logged in, and git; for several workers also
`ssh-add ~/.ssh/google_compute_engine`. Exit codes: 0 done, 1 an error, 7 no answer, 130 Ctrl-C, 141 a
closed pipe, and those in `status --help`.
"""

import argparse
import contextlib
import math
import os
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

from tpu_machine import LauncherError, Tpu
from tpu_output import exit_code, finish, open_closed_streams, show
from tpu_run import Babysitter, check_arguments, create, poll_until_done, start, status, workdir_of
from tpu_types import check_type, runtime_version

MOST = 1_000_000  # of workers and of failures; beyond it a number is a mistake
COMMANDS = {
    "create": "Request the TPU and wait until it is ready. An existing one is not changed.",
    "setup": (
        "Install this checkout's last commit and its environment on all workers. No run may be "
        "running on them."
    ),
    "start": "Start pre-training on all workers, with the arguments after --. One run at a time.",
    "tail": (
        "Follow the log of the newest run, until it ends or you press Ctrl-C, which does not stop the run."
    ),
    "status": "Print the state of the TPU and of the run on every worker. Exit code: 0 running or complete, "
    "3 told to stop, 4 failed, 5 no run was started, 6 no usable TPU (none, waiting, preempted or "
    "failed), 7 no answer, 1 another error.",
    "stop": "Tell the run to save a checkpoint and end. It soon does, with exit code 143: see `status`.",
    "delete": "Delete the TPU with its disks, if it exists.",
    "babysit": (
        "Keep a run going until it is complete: create, setup and start, and again whenever the TPU "
        "is preempted."
    ),
}


class Parser(argparse.ArgumentParser):
    """Reports an error in one sentence, without the usage."""

    def error(self, message: str) -> NoReturn:
        raise LauncherError(f"{self.prog}: {message}. See --help.")


def number_within(make: type, lowest: float, highest: float) -> Callable[[str], float]:
    """The type of an option that is a number from `lowest` to `highest`; `make` is int or float."""

    def read(text: str) -> float:
        try:
            value = make(text)
        except ValueError:
            value = math.nan
        if not lowest <= value <= highest:
            whole = "a whole number" if make is int else "a number"
            raise argparse.ArgumentTypeError(f"got {text!r}, expected {whole} from {lowest} to {highest}")
        return value

    return read


def add_request_options(command: argparse.ArgumentParser) -> None:
    """The options of the commands that request a TPU."""
    command.add_argument(
        "--type", required=True, help="accelerator type: v4-8, v5litepod-16, v5p-8, v6e-8, …"
    )
    command.add_argument("--runtime_version", default="", help="VM image (default: the one for the type)")
    tier = command.add_mutually_exclusive_group()
    tier.add_argument("--spot", action="store_true", help="cheap, may be preempted at any time")
    tier.add_argument("--reserved", action="store_true", help="use the project's reservation")
    command.add_argument("--valid_until", default="", metavar="DURATION", help="give up after: 6h, 1d12h")
    command.add_argument(
        "--poll_seconds",
        type=number_within(float, 0, 86_400),
        default=30,
        help="between two checks (default %(default)s)",
    )


def make_parser() -> argparse.ArgumentParser:
    """The parser of the command line up to --."""
    parser = Parser(
        prog="tpu_vm.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="|".join(COMMANDS))
    for name, text in COMMANDS.items():
        command = commands.add_parser(name, help=text.partition(".")[0], description=text, allow_abbrev=False)
        command.add_argument("--name", required=True, help="of the queued resource and its TPU; choose any")
        command.add_argument("--zone", required=True, help="zone, for example us-west4-a")
        command.add_argument("--project", default="", help="default: gcloud's own")
        command.add_argument(
            "--dry_run", action="store_true", help="print the commands instead of running them"
        )
        if name in ("create", "babysit"):
            add_request_options(command)
        if name in ("setup", "babysit"):
            command.add_argument(
                "--bucket", default="", help="Cloud Storage bucket to mount on every worker as ~/bucket"
            )
            command.add_argument(
                "--env_file",
                default="",
                metavar="FILE",
                help="secrets for the run, NAME=VALUE lines; stays on the workers until another one is sent",
            )
        if name == "tail":
            command.add_argument(
                "--worker",
                type=number_within(int, 0, MOST),
                default=0,
                help="worker whose log to follow (default: 0)",
            )
        if name == "babysit":
            command.add_argument(
                "--max_failures",
                type=number_within(int, 1, MOST),
                default=3,
                help="give up after this many (default %(default)s)",
            )
            command.add_argument(
                "--delete_when_done",
                action="store_true",
                help="delete the TPU when the run is complete, whose directory must then be in a bucket",
            )
    return parser


def check_options(options: argparse.Namespace) -> None:
    """Set the VM image of the type, and the full path of --env_file.

    Raises:
      LauncherError: values that gcloud would refuse later, or that would lose the results.
    """
    if not re.fullmatch("[a-z]([-a-z0-9]{0,38}[a-z0-9])?", options.name):
        raise LauncherError(
            f"--name: got {options.name!r}, expected at most 40 lower-case letters, digits and hyphens, "
            "with a letter first and no hyphen last."
        )
    if not re.fullmatch("[a-z]+-[a-z]+[0-9]+-[a-z]", options.zone):
        raise LauncherError(
            f"--zone: got {options.zone!r}, expected a zone as us-west4-a. `gcloud compute tpus locations "
            "list` lists them."
        )
    if options.command in ("create", "babysit"):
        check_type(options.type)
        options.runtime_version = options.runtime_version or runtime_version(options.type)
        if options.valid_until and not re.fullmatch("([0-9]+[smhd])+", options.valid_until):
            raise LauncherError(
                f"--valid_until: got {options.valid_until!r}, expected a duration as 90m, 6h or 1d12h."
            )
    if options.command in ("setup", "babysit"):
        if options.bucket and not re.fullmatch("[a-z0-9][-_.a-z0-9]+[a-z0-9]", options.bucket):
            raise LauncherError(
                f"--bucket: got {options.bucket!r}, expected the bucket's name alone, without gs:// or a "
                "path."
            )
        options.env_file = os.path.expanduser(options.env_file)
        check_env_file(options.env_file)
    if options.command == "babysit":
        check_workdir(options)


def check_workdir(options: argparse.Namespace) -> None:
    """Raises LauncherError for a run directory that `babysit` would delete with the TPU."""
    deleting = "--spot" if options.spot else "--delete_when_done" if options.delete_when_done else ""
    check_arguments(options.arguments, shared=bool(deleting))
    workdir = workdir_of(options.arguments)
    if options.bucket or not (workdir.startswith("bucket/") or deleting) or workdir.startswith("gs://"):
        return
    region = options.zone.rpartition("-")[0]
    if deleting:
        got = f"got none with {deleting}, so the run directory would be deleted with the TPU"
    else:
        got = f"got none with --workdir={workdir}, which would be on a VM's own disk"
    raise LauncherError(
        f"--bucket: {got}. Make a bucket near it, `gcloud storage buckets create gs://BUCKET "
        f"--location={region}`, and give --bucket=BUCKET and --workdir=bucket/…."
    )


def check_env_file(path: str) -> None:
    """Raises LauncherError unless only the owner can read the file, which keeps its mode on the workers."""
    if path and not Path(path).is_file():
        raise LauncherError(f"--env_file: got {path!r}, expected a file with NAME=VALUE lines.")
    if path and Path(path).stat().st_mode & 0o077:
        raise LauncherError(
            f"--env_file: got {path!r} with mode {Path(path).stat().st_mode & 0o777:o}, expected 600, since "
            f"others on this machine can read it. Run `chmod 600 {path}`."
        )


def run(tpu: Tpu, options: argparse.Namespace) -> int:
    """Run the command that the options name; returns the exit code. Raises LauncherError."""
    match options.command:
        case "create":
            return create(tpu)
        case "setup":
            tpu.setup()
        case "start":
            start(tpu, options.arguments)
        case "tail":
            tpu.tail(str(options.worker))
        case "status":
            return status(tpu)
        case "stop":
            if printed := tpu.stop():  # nothing in a dry run
                show(printed.removesuffix("\n"), is_result=True)
        case "delete":
            tpu.delete()
        case "babysit":
            return poll_until_done(tpu, Babysitter(tpu, options.arguments).tick)
    return 0


def main(argv: Sequence[str]) -> int:
    """Run the command line; returns the exit code."""
    open_closed_streams()
    cut = argv.index("--") if "--" in argv else len(argv)
    try:
        options = make_parser().parse_args(argv[:cut])
        options.arguments = list(argv[cut + 1 :])
        if (options.command in ("start", "babysit")) != bool(options.arguments):
            raise LauncherError(
                f"{options.command}: got {options.arguments} as the run's arguments, expected some after -- "
                "with `start` and `babysit`, none otherwise: start $tpu -- --config=… --workdir=…."
            )
        check_options(options)
        with contextlib.closing(Tpu(options)) as tpu:
            return exit_code(run(tpu, options))
    except LauncherError as error:
        show(str(error))
        return error.code
    except KeyboardInterrupt:
        show("Interrupted. A started run continues, and a TPU costs money until you `delete` it.")
        return 130
    finally:
        finish()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
