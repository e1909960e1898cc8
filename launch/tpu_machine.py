"""A TPU VM through gcloud: its condition, files and commands for its workers, and the workers' status.

Only this file calls gcloud. launch/tpu_vm.py is the command; launch/tpu_worker.sh runs on the workers.
"""

import argparse
import contextlib
import json
import os
import re
import shlex
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from tpu_output import show as show_line

ROOT = Path(__file__).resolve().parent.parent
WORKER = "bash .electra_jax/worker.sh"  # launch/tpu_worker.sh, where `setup` puts it
NODE_GONE = ("PREEMPTED", "TERMINATED", "STOPPED", "STOPPING", "DELETING", "HIDING", "HIDDEN")
SSH_FAILED = 255  # gcloud's exit code when ssh itself failed, and not the remote command


class LauncherError(Exception):
    """An error message for the user, and the exit code of the command."""

    code = 1

    def __init__(self, message: str, code: int | None = None):
        super().__init__(message)
        self.code = code or self.code


class UnreachableError(LauncherError):
    """gcloud or a worker did not answer, which may be temporary."""

    code = 7


class DeletionError(UnreachableError):
    """gcloud did not confirm a deletion."""


class MissingProgramError(LauncherError):
    """A program is not installed."""


class Condition(NamedTuple):
    """The condition of the queued resource and its node."""

    state: str  # missing, waiting, ready, preempted or failed
    text: str  # in Google's words


class Worker(NamedTuple):
    """One worker's status."""

    number: str
    state: str  # never, running, ended or lost
    run: str  # name of its newest run
    code: str  # exit code of a run that ended, else ""

    def __str__(self) -> str:
        words = {
            "never": "no run was started",
            "running": f"running {self.run}",
            "ended": f"{self.run} ended with exit code {self.code}",
            "lost": f"{self.run} left no exit code: it was killed, or the VM was rebooted",
        }
        return f"worker {self.number}: {words[self.state]}"


def reason(text: str) -> str:
    """The line of an output that explains a failure: gcloud's ERROR line, else the last line."""
    lines = text.strip().splitlines() or ["it printed no reason."]
    return next((line for line in lines if line.startswith("ERROR: ")), lines[-1])


def call(words: Sequence[str], show: bool = False) -> subprocess.CompletedProcess:
    """Run a command; with `show`, its output goes to the terminal instead of into the result.

    Raises:
      MissingProgramError: the program is not installed.
      UnreachableError: it could not be started, for example because memory is short.
    """
    pipe = None if show else subprocess.PIPE
    try:
        return subprocess.run(
            words,
            stdin=subprocess.DEVNULL,
            stdout=pipe,
            stderr=pipe,
            text=True,
            errors="replace",
            check=False,
        )
    except FileNotFoundError as error:
        hint = (
            "Install it: https://cloud.google.com/sdk/docs/install" if words[0] == "gcloud" else "Install it."
        )
        text = f"{words[0]}: not found on PATH, but every command needs it. {hint}"
        raise MissingProgramError(text) from error
    except OSError as error:
        raise UnreachableError(f"{words[0]}: could not be started: {error.strerror}.") from error


class DryRun:
    """Stands in for `call`: prints commands instead of running them, and returns successful answers."""

    def __init__(self, exists: bool):
        self.exists = exists

    def __call__(self, words: Sequence[str], show: bool = False) -> subprocess.CompletedProcess:
        show_line(shlex.join(words), is_result=True)
        if "create" in words:
            self.exists = True
        if not self.exists:
            return subprocess.CompletedProcess(words, 1, "", "NOT_FOUND")
        answers = {
            "--format=json": '{"state": {"state": "ACTIVE"}}',
            "--format=value(state)": "READY",
            f"--command={WORKER} status": "electra_jax worker=0 state=never run= code=",
        }
        return subprocess.CompletedProcess(
            words, 0, next((answers[word] for word in words if word in answers), ""), ""
        )


class Tpu:
    """A queued resource and its node, which have the same name."""

    def __init__(self, options: argparse.Namespace):
        self.name = options.name
        self.options = options
        self.call = DryRun(options.command not in ("create", "babysit")) if options.dry_run else call
        self.common = [
            f"--zone={options.zone}",
            *([f"--project={options.project}"] if options.project else []),
            "--quiet",
        ]
        self.archive, self.has_archive = "", False

    def close(self) -> None:
        """Remove the archive of the checkout."""
        if self.archive and not self.options.dry_run:
            with contextlib.suppress(OSError):  # a temporary file that is left is no failure of the command
                Path(self.archive).unlink()

    def log(self, text: str) -> None:
        """Print progress; nothing in a dry run."""
        if not self.options.dry_run:
            show_line(f"{time.strftime('%H:%M:%S')} {text}")

    def sleep(self, seconds: float) -> None:
        """Sleep; not in a dry run."""
        time.sleep(0 if self.options.dry_run else seconds)

    def queued_resource(self, verb: str, *flags: str) -> subprocess.CompletedProcess:
        """Run gcloud compute tpus queued-resources VERB."""
        return self.call(
            ["gcloud", "compute", "tpus", "queued-resources", verb, self.name, *flags, *self.common]
        )

    def node(self, verb: str, *words: str, show: bool = False) -> subprocess.CompletedProcess:
        """Run gcloud compute tpus tpu-vm VERB."""
        return self.call(["gcloud", "compute", "tpus", "tpu-vm", verb, *words, *self.common], show)

    def ssh(self, command: str, worker: str = "all", show: bool = False) -> subprocess.CompletedProcess:
        """Run a command line in the workers' shell."""
        return self.node("ssh", self.name, f"--worker={worker}", f"--command={command}", show=show)

    def condition(self) -> Condition:
        """The TPU's condition. Raises UnreachableError when gcloud does not report it."""
        outcome = self.queued_resource("describe", "--format=json")
        if outcome.returncode and "NOT_FOUND" in outcome.stderr:
            return Condition("missing", "no such queued resource")
        if outcome.returncode:
            raise UnreachableError(f"{self.name}: gcloud does not report its state: {reason(outcome.stderr)}")
        try:
            state = json.loads(outcome.stdout).get("state", {})
            name = state.get("state", "STATE_UNSPECIFIED")
            cause = state.get("failedData", {}).get("error", {}).get("message", "no reason given")
        except (ValueError, AttributeError) as error:  # cut off, or no objects where they are expected
            raise UnreachableError(
                f"{self.name}: gcloud's answer is not the JSON object expected: got {outcome.stdout[:200]!r}."
            ) from error
        if name == "FAILED":
            return Condition("failed", f"FAILED: {cause}")
        if name in ("SUSPENDING", "SUSPENDED"):
            return Condition("preempted", name)
        return self._node_condition() if name == "ACTIVE" else Condition("waiting", name)

    def _node_condition(self) -> Condition:
        outcome = self.node("describe", self.name, "--format=value(state)")
        state = outcome.stdout.strip()
        if outcome.returncode and "NOT_FOUND" not in outcome.stderr:
            raise UnreachableError(
                f"{self.name}: gcloud does not report the state of its node: {reason(outcome.stderr)}"
            )
        if outcome.returncode or state in NODE_GONE:
            return Condition("preempted", f"ACTIVE, but its node is {state or 'gone'}")
        return (
            Condition("ready", "ACTIVE")
            if state == "READY"
            else Condition("waiting", f"ACTIVE, its node {state}")
        )

    def create(self) -> None:
        """Request the TPU. After an error of gcloud it is refused only if it is missing: else the answer to
        the request was lost, and the TPU's condition will show what became of it.

        Raises:
          LauncherError: gcloud refuses.
        """
        options = self.options
        flags = [f"--{tier}" for tier in ("spot", "reserved") if getattr(options, tier)]
        flags += [f"--valid-until-duration={options.valid_until}"] if options.valid_until else []
        outcome = self.queued_resource(
            "create",
            f"--node-id={self.name}",
            f"--accelerator-type={options.type}",
            f"--runtime-version={options.runtime_version}",
            *flags,
        )
        if not outcome.returncode:
            return
        why = reason(outcome.stderr)
        try:
            is_missing = self.condition().state == "missing"
        except UnreachableError as error:
            self.log(
                f"{self.name}: gcloud reported an error: {why} Whether it took the request is not known: "
                f"it may exist and cost money until you `delete` it. {error}"
            )
            return
        if is_missing:
            raise LauncherError(
                f"{self.name}: gcloud refused to create it: {why} If the quota is used up or {options.zone} "
                "does not have the type, give another --zone, or ask for quota in the console."
            )
        self.log(f"{self.name}: gcloud reported an error, but the request was taken: {why}")

    def delete(self) -> None:
        """Delete the queued resource and its node, if they exist. Raises DeletionError when that fails."""
        outcome = self.queued_resource("delete", "--force")
        if outcome.returncode and "NOT_FOUND" not in outcome.stderr:
            raise DeletionError(
                f"{self.name}: could not be deleted, and may still cost money: {reason(outcome.stderr)} "
                "Run `delete` again."
            )
        self.log(f"{self.name}: {'nothing to delete' if outcome.returncode else 'deleted'}.")

    def setup(self) -> None:
        """Install the last commit on all workers. Raises LauncherError or UnreachableError if that fails."""
        git = ["git", "-C", str(ROOT)]
        if not self.has_archive:  # once, so that every start of one command has the same commit
            if self.call([*git, "status", "--porcelain"]).stdout:
                self.log("uncommitted changes of this checkout are not sent, only its last commit.")
            self.archive = self.archive or self._make_file()
            outcome = self.call([*git, "archive", "--format=tar.gz", f"--output={self.archive}", "HEAD"])
            if outcome.returncode:
                raise LauncherError(
                    f"{ROOT}: expected a git checkout with a commit to send: {reason(outcome.stderr)}"
                )
            self.has_archive = True
        files = {self.archive: ".electra_jax.tar.gz"}
        if self.options.env_file:
            files[self.options.env_file] = ".electra_jax.env"
        for source, target in files.items():
            self._check(
                self.node("scp", source, f"{self.name}:{target}", "--worker=all"), "files could not be copied"
            )
        # Into a new file: a run may be executing the old one, which bash reads as it executes it.
        new = ".electra_jax/worker.new"
        unpack = (
            f"tar -xzOf .electra_jax.tar.gz launch/tpu_worker.sh > {new} && mv {new} .electra_jax/worker.sh"
        )
        self._check(
            self.ssh(
                f"mkdir -p .electra_jax && {unpack} && {WORKER} setup {self.options.bucket}".rstrip(),
                show=True,
            ),
            "the set-up failed on a worker; see the output above",
        )

    def _make_file(self) -> str:
        """A new file that nobody else can have made, in the shared temporary directory.

        Raises:
          LauncherError: it cannot be made.
        """
        if self.options.dry_run:
            return f"{tempfile.gettempdir()}/electra_jax-RANDOM.tar.gz"
        try:
            descriptor, path = tempfile.mkstemp(prefix="electra_jax-", suffix=".tar.gz")
        except OSError as error:
            raise LauncherError(
                f"{self.name}: no temporary file for the checkout's archive: {error.strerror}. Free space, "
                "or set TMPDIR to another folder."
            ) from error
        os.close(descriptor)
        return path

    def _check(self, outcome: subprocess.CompletedProcess, what: str) -> None:
        if outcome.returncode:
            error_type = UnreachableError if outcome.returncode == SSH_FAILED else LauncherError
            cause = f": {reason(outcome.stderr)}" if outcome.stderr else "."
            raise error_type(f"{self.name}: {what}{cause}")

    def workers(self) -> list[Worker]:
        """Every worker's status; empty before `setup`. Raises UnreachableError unless all workers answer."""
        outcome = self.ssh(f"{WORKER} status")
        if outcome.returncode and "worker.sh: No such file" not in outcome.stderr:
            raise UnreachableError(f"{self.name}: not all workers answer: {reason(outcome.stderr)}")
        line = r"^electra_jax worker=(\S+) state=(\S+) run=(\S*) code=(\S*)$"
        workers = [Worker(*fields) for fields in re.findall(line, outcome.stdout, re.MULTILINE)]
        return sorted(workers, key=lambda worker: int(worker.number) if worker.number.isdigit() else -1)

    def start(self, run: str, arguments: Sequence[str]) -> None:
        """Start a run on all workers. Raises LauncherError unless it started on every one."""
        self._check(
            self.ssh(shlex.join([*WORKER.split(), "start", run, *arguments])),
            "the run was not started on every worker. Run `stop`, then `start` again",
        )

    def stop(self) -> str:
        """Tell the run to save and end; returns the workers' output.

        Raises:
          UnreachableError: a worker did not answer.
        """
        outcome = self.ssh(f"{WORKER} stop")
        self._check(outcome, "not every worker was told to stop. Run `stop` again")
        return outcome.stdout

    def tail(self, worker: str) -> None:
        """Show the end of a worker's log, and follow it while the run is running.

        Raises:
          LauncherError: there is no log.
        """
        self._check(
            self.ssh(f"{WORKER} tail_log", worker, show=True), f"no log of worker {worker} could be shown"
        )
