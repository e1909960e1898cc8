"""Creating a TPU VM, and starting, watching and babysitting a run on it. launch/tpu_vm.py is the command."""

import contextlib
import hashlib
import re
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime

from tpu_machine import (
    DeletionError,
    LauncherError,
    MissingProgramError,
    Tpu,
    UnreachableError,
    Worker,
)
from tpu_output import show

STOPPED = 143  # exit code of a run that was told to stop and has saved
LOST = 137  # stands for the exit code of a run that left none
STATUS_CODES = {"running": 0, "complete": 0, "stopped": 3, "failed": 4, "never": 5}
NO_TPU = 6
DISTRIBUTED = re.compile("--?distributed(=(?i:t|true|1))?")  # as absl takes a flag for true
MAX_UNANSWERED = 10  # consecutive polls without an answer before giving up
MAX_PAUSE_SECONDS = 600  # between two polls
REPORT_AGAIN_SECONDS = 600  # after which an unchanged state is printed again
GIVING_UP = "Giving up. A TPU that exists costs money until you `delete` it."
STILL_COSTS = "A TPU that exists costs money until you `delete` it, here or on another machine."
LASTING_RUN_SECONDS = 3_600  # a run that lasted this long resets the count of failures


def check_arguments(arguments: Sequence[str], shared: bool) -> None:
    """Check the paths among the run's arguments.

    Args:
      shared: whether the run directory must outlive the VMs, or be visible to several of them.

    Raises:
      LauncherError: the run directory would be on a VM's own disk, or a path begins with ~, a worker's home.
    """
    for word in arguments:
        flag, _, value = word.partition("=")
        if value.startswith("~") and re.fullmatch("--?[A-Za-z0-9_.]+", flag):
            raise LauncherError(
                f"{flag}: got {value!r}, but ~ is not your home directory on the workers. Write bucket/… or "
                "an absolute path."
            )
    workdir = workdir_of(arguments)
    if re.match("s3a?:/", workdir):
        raise LauncherError(
            f"--workdir: got {workdir!r}, expected gs://BUCKET/… or bucket/…: TPU VMs are in Google's "
            "cloud, and several workers cannot write checkpoints to s3://."
        )
    if shared and not re.match("bucket/|/|gs://[^/]+/.", workdir):
        raise LauncherError(
            f"--workdir: got {workdir!r}, which is on each VM's own disk: workers do not share it, and it "
            "is deleted with the VM. Write --workdir=bucket/… (with the equals sign), and give "
            "--bucket=BUCKET to `setup` or `babysit`; or write --workdir=gs://BUCKET/…."
        )


def workdir_of(arguments: Sequence[str]) -> str:
    """The value of --workdir=…, "" without it. If a flag is given twice, the last one counts."""
    return ([""] + [word.partition("=")[2] for word in arguments if re.match("--?workdir=", word)])[-1]


def fingerprint(arguments: Sequence[str]) -> str:
    """Identifies runs that were started with these arguments."""
    return hashlib.sha256("\0".join(arguments).encode()).hexdigest()[:8]


def summarize_workers(workers: Sequence[Worker]) -> tuple[str, int, str]:
    """(state of the run, exit code, number of a failed worker or "").

    The state is running, complete, stopped, failed or never (not started on every worker).
    """
    codes = {
        worker.number: LOST if worker.state == "lost" else int(worker.code or 1)
        for worker in workers
        if worker.state in ("ended", "lost")
    }
    failed = [(code, number) for number, code in codes.items() if code not in (0, STOPPED)]
    if any(worker.state == "running" for worker in workers):
        return "running", 0, ""
    if failed:
        return "failed", *failed[0]
    if not codes or len(codes) < len(workers):
        return "never", 0, ""
    return ("stopped", STOPPED, "") if STOPPED in codes.values() else ("complete", 0, "")


def start(tpu: Tpu, arguments: Sequence[str]) -> None:
    """Start a run on all workers.

    Raises:
      LauncherError: nothing is installed, a run is running, or the arguments do not suit the workers.
    """
    workers = tpu.workers()
    if not workers:
        raise LauncherError(f"{tpu.name}: nothing is installed on the workers. Run `setup` first.")
    busy = [worker for worker in workers if worker.state == "running"]
    if busy:
        raise LauncherError(
            f"{tpu.name}: a run is running on it ({busy[0]}). Run `stop`, then `status` until it has ended."
        )
    if len(workers) > 1 and not any(map(DISTRIBUTED.fullmatch, arguments)):
        raise LauncherError(
            f"{tpu.name}: got {len(workers)} workers but no --distributed among the run's arguments: each "
            "worker would train alone. Add it."
        )
    check_arguments(arguments, shared=len(workers) > 1)
    run = f"{datetime.now(UTC):%Y%m%d-%H%M%S.%f}-{fingerprint(arguments)}"
    tpu.start(run, arguments)
    tpu.log(f"{tpu.name}: started run {run}.")


def status(tpu: Tpu) -> int:
    """Print the state of the TPU and of its workers; returns one of STATUS_CODES, or NO_TPU."""
    condition = tpu.condition()
    if condition.state != "ready":
        show(f"{tpu.name}: {condition.text}", is_result=True)
        return NO_TPU
    workers = tpu.workers()
    if tpu.options.dry_run:
        return 0
    lines = map(str, workers or ["nothing is installed on the workers yet"])
    show("\n".join([f"{tpu.name}: {condition.text}", *lines]), is_result=True)
    return STATUS_CODES[summarize_workers(workers)[0]]


class Progress:
    """Prints a state when it has changed, and again every REPORT_AGAIN_SECONDS."""

    def __init__(self, tpu: Tpu):
        self.tpu, self.text, self.began, self.reported = tpu, "", time.monotonic(), 0.0

    def __call__(self, text: str) -> None:
        now = time.monotonic()
        if text != self.text or now - self.reported > REPORT_AGAIN_SECONDS:
            minutes, seconds = divmod(int(now - self.began), 60)
            self.tpu.log(f"{text} (after {minutes // 60}:{minutes % 60:02d}:{seconds:02d})")
            self.text, self.reported = text, now


def poll_until_done(tpu: Tpu, tick: Callable[[], int | None]) -> int:
    """Call `tick` until it returns an exit code; while nothing answers, the pause between two calls doubles.

    Raises:
      UnreachableError: MAX_UNANSWERED calls in a row got no answer; or the first call got none, which means a
        missing login or permission, and waiting would not help. A deletion is always tried again: `tick`
        deletes nothing before gcloud has told the TPU's state.
      LauncherError: anything else that `tick` raises.
    """
    unanswered, has_answered = 0, False
    while True:
        try:
            exit_code = tick()
            unanswered, has_answered = 0, True
        except UnreachableError as error:
            unanswered += 1
            has_answered |= isinstance(error, DeletionError)
            if unanswered == MAX_UNANSWERED or not has_answered:
                raise UnreachableError(f"{error} {GIVING_UP}") from error
            tpu.log(f"{error} Asking again ({unanswered} of {MAX_UNANSWERED - 1}).")
        except MissingProgramError as error:  # it has been removed, or PATH changed, while a TPU exists
            raise MissingProgramError(f"{error} {STILL_COSTS}") from error
        else:
            if exit_code is not None:
                return exit_code
        poll = tpu.options.poll_seconds
        tpu.sleep(min(poll * 2**unanswered, max(MAX_PAUSE_SECONDS, poll)))


def create(tpu: Tpu) -> int:
    """Create the TPU unless it exists, and wait until it is ready. Raises LauncherError if it cannot be."""
    progress, created = Progress(tpu), False

    def tick() -> int | None:
        nonlocal created
        condition = tpu.condition()
        if condition.state == "ready":
            tpu.log(f"{tpu.name} {'is' if created else 'exists and is'} ACTIVE.")
            return 0
        if condition.state == "missing" and not created:
            tpu.create()
            created = True
        elif condition.state == "waiting":
            progress(condition.text)
        else:
            raise LauncherError(
                f"{tpu.name}: {condition.text}. It will no longer become ACTIVE. Run `delete`, then "
                "`create` again. If capacity or quota is missing, give another --zone or a later "
                "--valid_until."
            )
        return None

    return poll_until_done(tpu, tick)


class Babysitter:
    """Keeps a run going: each `tick` checks the TPU and takes the next action that its run needs."""

    def __init__(self, tpu: Tpu, arguments: Sequence[str]):
        self.tpu, self.arguments, self.progress = tpu, arguments, Progress(tpu)
        self.failures, self.counted, self.launched = 0, "", time.monotonic()
        self.refusal = ""  # of a creation that failed and is not counted yet
        self.is_complete = False

    def tick(self) -> int | None:
        """Check once and act once; returns the exit code when the run is complete, else None.

        Raises:
          UnreachableError: no answer.
          LauncherError: too many failures, or a run with other arguments is running on the TPU.
        """
        if self.is_complete:
            return self._finish()
        condition = self.tpu.condition()
        if condition.state == "ready":
            return self._check_run()
        if condition.state == "missing":
            self._count_refusal()
            self._try(self.tpu.create)
        elif condition.state == "waiting":
            self.progress(condition.text)
        else:
            self.tpu.log(f"{condition.text}. Deleting it, then creating it again.")
            self.refusal = condition.text if condition.state == "failed" else ""
            self.tpu.delete()
            self._count_refusal()
        return None

    def _count_refusal(self) -> None:
        """Count a failed creation once its TPU is gone, even if the answer to the deletion was lost."""
        text, self.refusal = self.refusal, ""
        if text:
            self.count_failure(text, 1)

    def _finish(self) -> int:
        """The end of a complete run. If the answer to the deletion is lost, this is all that is tried again:
        any other step would find no TPU, and create one for a run that is complete."""
        if self.tpu.options.delete_when_done:
            self.tpu.delete()
        return 0

    def _check_run(self) -> int | None:
        workers = self.tpu.workers()
        state, code, number = summarize_workers(workers)
        is_ours = all(worker.run.endswith(fingerprint(self.arguments)) for worker in workers)
        if state == "running":
            if not is_ours:
                raise LauncherError(
                    f"{self.tpu.name}: a run with other arguments is running on it ({workers[0]}). Run "
                    "`stop` first, or give another --name."
                )
            self.progress(", ".join(map(str, workers)))
            return None
        if is_ours and state == "complete":
            self.tpu.log(f"{self.tpu.name}: the run is complete.")
            self.is_complete = True
            return self._finish()
        if is_ours and state == "failed" and self.counted != workers[0].run:
            if self.tpu.condition().state != "ready":
                return None  # it failed because the TPU was preempted
            self.counted = workers[0].run
            with contextlib.suppress(LauncherError):  # the log only explains the exit code
                self.tpu.tail(number)
            self.count_failure(
                f"worker {number} ended with exit code {code}.", code, time.monotonic() - self.launched
            )
        return self._try(self._launch)

    def _launch(self) -> int | None:
        self.tpu.setup()
        start(self.tpu, self.arguments)
        self.launched = time.monotonic()
        if not self.tpu.options.dry_run:
            return None
        self._print_deletions()  # the other commands would depend on the run
        return 0

    def _print_deletions(self) -> None:
        """Print when babysit deletes the TPU, as comments between the commands of a dry run."""
        show("# If the TPU is preempted or fails; then all of the above again:", is_result=True)
        self.tpu.delete()
        if self.tpu.options.delete_when_done:
            show("# When the run is complete:", is_result=True)
            self.tpu.delete()
        else:
            line = "# When the run is complete, the TPU stays and costs money: see --delete_when_done."
            show(line, is_result=True)

    def _try(self, command: Callable[[], int | None]) -> int | None:
        try:
            return command()
        except UnreachableError:
            raise
        except LauncherError as error:
            # In any other state, the next tick finds the cause.
            if self.tpu.condition().state in ("missing", "ready"):
                self.count_failure(str(error), error.code)
        return None

    def count_failure(self, text: str, code: int, lasted: float = 0.0) -> None:
        """Count a failure of a run that lasted `lasted` seconds; a lasting run resets the count.

        Raises:
          LauncherError: --max_failures are reached; its exit code is `code`.
        """
        self.failures = 1 if lasted > LASTING_RUN_SECONDS else self.failures + 1
        text = f"failure {self.failures} of {self.tpu.options.max_failures}: {text}"
        if self.failures >= self.tpu.options.max_failures:
            raise LauncherError(f"{self.tpu.name}: {text} {GIVING_UP}", code)
        self.tpu.log(text)
