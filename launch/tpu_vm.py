"""Pre-train on a Cloud TPU VM from your own machine: `python launch/tpu_vm.py COMMAND --name=NAME --zone=ZONE
[--project=P] …`.

    tpu="--name=small --zone=us-west4-a --project=my-project"
    run="--config=configs/electra.py:size=small --workdir=bucket/runs/small --distributed"

    python launch/tpu_vm.py babysit $tpu --type=v5litepod-16 --spot --bucket=my-bucket --delete_when_done -- $run

does everything: asks for the TPU, waits for it, installs this checkout's last commit on all its workers,
starts `python -m electra_jax.pretrain`, and begins anew whenever Google takes the TPU away. Or step by step:

    python launch/tpu_vm.py create $tpu --type=v5litepod-16        # on demand; or --spot, or --reserved
    python launch/tpu_vm.py setup $tpu --bucket=my-bucket          # mounted on every worker, seen by the run as bucket/
    python launch/tpu_vm.py start $tpu -- $run                     # goes on when this machine is switched off
    python launch/tpu_vm.py tail $tpu                              # its log, until Ctrl-C; --worker=3 for another worker's
    python launch/tpu_vm.py status $tpu
    python launch/tpu_vm.py stop $tpu                              # it saves a checkpoint and ends
    python launch/tpu_vm.py delete $tpu                            # nothing more is paid for

A TPU costs money until it is deleted, whether or not anything runs. Its disks go with it: what shall stay
belongs into bucket/, which also is what several workers share (from v5litepod-16 on; they need --distributed,
too). The VM's service account must be allowed to write to the bucket. Secrets go into a file of NAME=VALUE
lines with mode 600, --env_file=FILE; a run finds them in its environment.

`babysit` counts as failures: a creation that is refused or fails, a set-up that fails, a run that ends with
another exit code than 0 (complete) and 143 (told to stop; it is started again). After --max_failures of them
it ends with the last one's code; a run that lasted an hour starts the count anew. A TPU that is taken away is
no failure. What no longer answers is asked again, with growing pauses, until it was silent ten times in a
row; nothing is deleted unless Google says that the TPU is gone or failed. Given again, `babysit` goes on with
what it finds. End it with Ctrl-C before you `stop` a run, or it starts it again.

With --dry_run any command prints the commands it would run, and runs none. Needed: gcloud, logged in, and
git; for several workers also `ssh-add ~/.ssh/google_compute_engine`. Exit codes: 0 done, 1 an error, 7 no
answer, 130 Ctrl-C, and those in `status --help`.
"""

import argparse
import contextlib
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from tpu_machine import LauncherError, Tpu, runtime_version
from tpu_run import Babysitter, check_arguments, create, patiently, start, status

COMMANDS = {
    "create": "Ask for the TPU, and wait until it is there. One that exists is left as it is.",
    "setup": (
        "Install this checkout's last commit with its environment on all workers. No run may be "
        "running there."
    ),
    "start": "Start pre-training on all workers, with what follows -- as its arguments. One run at a time.",
    "tail": (
        "Follow the log of the newest run, until it ends or you press Ctrl-C, which leaves the run alone."
    ),
    "status": "Say how the TPU is, and the run on every worker. Exit code: 0 running or complete, 3 told "
    "to stop, 4 failed, 5 no run was started, 6 no usable TPU (none, waiting, taken away or "
    "failed), 7 no answer, 1 another error.",
    "stop": "Tell the run to save a checkpoint and end. It does soon, with exit code 143: see `status`.",
    "delete": "Delete the TPU with its disks. None there is no error.",
    "babysit": (
        "Keep a run going until it is complete: create, setup, start, and again whenever the TPU "
        "is taken away."
    ),
}


class Parser(argparse.ArgumentParser):
    """Says what is wrong in one sentence."""

    def error(self, message: str) -> NoReturn:
        raise LauncherError(f"{self.prog}: {message}. See --help.")


def make_parser() -> argparse.ArgumentParser:
    """The command line, up to --."""
    parser = Parser(
        prog="tpu_vm.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="|".join(COMMANDS))
    for name, text in COMMANDS.items():
        command = commands.add_parser(name, help=text.partition(".")[0], description=text, allow_abbrev=False)
        command.add_argument(
            "--name", required=True, help="of the queued resource and its TPU; yours to choose"
        )
        command.add_argument("--zone", required=True, help="for example us-west4-a")
        command.add_argument("--project", default="", help="default: gcloud's own")
        command.add_argument(
            "--dry_run", action="store_true", help="print the commands instead of running them"
        )
        if name in ("create", "babysit"):
            command.add_argument(
                "--type", required=True, help="accelerator type: v4-8, v5litepod-16, v5p-8, v6e-8, …"
            )
            command.add_argument(
                "--runtime_version", default="", help="default: the one that belongs to the type"
            )
            tier = command.add_mutually_exclusive_group()
            tier.add_argument("--spot", action="store_true", help="cheap, and may be taken away at any time")
            tier.add_argument("--reserved", action="store_true", help="of the project's reservation")
            command.add_argument(
                "--valid_until", default="", metavar="DURATION", help="give up waiting after: 6h, 1d12h"
            )
            command.add_argument(
                "--poll_seconds", type=float, default=30, help="between two looks (default %(default)s)"
            )
        if name in ("setup", "babysit"):
            command.add_argument(
                "--bucket", default="", help="of Cloud Storage, mounted on every worker as ~/bucket"
            )
            command.add_argument(
                "--env_file",
                default="",
                metavar="FILE",
                help="secrets for the run, NAME=VALUE lines; stays there until another one is sent",
            )
        if name == "tail":
            command.add_argument("--worker", type=int, default=0, help="whose log (default 0)")
        if name == "babysit":
            command.add_argument(
                "--max_failures", type=int, default=3, help="to end after (default %(default)s)"
            )
            command.add_argument(
                "--delete_when_done", action="store_true", help="delete the TPU when the run is complete"
            )
    return parser


def check_options(options: argparse.Namespace) -> None:
    """Raises LauncherError for values that gcloud would refuse later, or that would lose the run."""
    if not re.fullmatch("[a-z]([-a-z0-9]{0,38}[a-z0-9])?", options.name):
        raise LauncherError(
            f"--name: got {options.name!r}, expected at most 40 lower-case letters, digits and hyphens, "
            "with a letter first and no hyphen last."
        )
    if not re.fullmatch("[a-z]+-[a-z]+[0-9]+-[a-z]", options.zone):
        raise LauncherError(
            f"--zone: got {options.zone!r}, expected a zone as us-west4-a. `gcloud compute tpus locations "
            "list` has all."
        )
    if options.command in ("create", "babysit"):
        if not options.runtime_version:
            runtime_version(options.type)
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
        check_env_file(options.env_file)
    if options.command == "babysit":
        if options.spot and not options.bucket:
            region = options.zone.rpartition("-")[0]
            raise LauncherError(
                "--bucket: got none with --spot, but the run directory would be deleted with the TPU. Make a "
                f"bucket near it, `gcloud storage buckets create gs://BUCKET --location={region}`, and give "
                "--bucket=BUCKET and --workdir=bucket/…."
            )
        check_arguments(options.arguments, shared=options.spot)


def check_env_file(path: str) -> None:
    """Raises LauncherError unless the file is there for its owner alone: it arrives with the mode that it has
    here."""
    if path and not Path(path).is_file():
        raise LauncherError(f"--env_file: got {path!r}, expected a file with NAME=VALUE lines.")
    if path and Path(path).stat().st_mode & 0o077:
        raise LauncherError(
            f"--env_file: got {path!r} with mode {Path(path).stat().st_mode & 0o777:o}, expected 600, since "
            f"others on this machine can read it. Give `chmod 600 {path}`."
        )


def run(tpu: Tpu, options: argparse.Namespace) -> int:
    """Do what the command line says; the exit code. Raises LauncherError."""
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
            print(tpu.stop(), end="")
        case "delete":
            tpu.delete()
        case "babysit":
            return patiently(tpu, Babysitter(tpu, options.arguments).step)
    return 0


def main(argv: Sequence[str]) -> int:
    """Command line of this file; the exit code."""
    cut = argv.index("--") if "--" in argv else len(argv)
    try:
        options = make_parser().parse_args(argv[:cut])
        options.arguments = list(argv[cut + 1 :])
        if (options.command in ("start", "babysit")) != bool(options.arguments):
            raise LauncherError(
                f"{options.command}: got {options.arguments} as the run's arguments, expected some after -- "
                "with `start` and `babysit`, none else: start --name=… --zone=… -- --config=… --workdir=…."
            )
        check_options(options)
        with contextlib.closing(Tpu(options)) as tpu:
            return run(tpu, options)
    except LauncherError as error:
        print(error, file=sys.stderr)
        return error.code
    except KeyboardInterrupt:
        print(
            "Interrupted. What was started goes on, and a TPU costs money until you `delete` it.",
            file=sys.stderr,
        )
        return 130


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
