"""What is done with a TPU VM and the run on it: create, start, status, babysit. launch/tpu_vm.py is the
command."""

import contextlib
import hashlib
import re
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime

from tpu_machine import LauncherError, Tpu, UnreachableError, Worker

STOPPED = 143  # exit code of a run that was told to stop, and saved
LOST = 137  # ours, for a run that left no exit code
STATUS_CODES = {"running": 0, "complete": 0, "stopped": 3, "failed": 4, "never": 5}
NO_TPU = 6
MAX_SILENT = 10  # times in a row that nothing answers
MAX_PAUSE_SECONDS, SAY_AGAIN_SECONDS, LASTED_SECONDS = 600, 600, 3_600


def check_arguments(arguments: Sequence[str], shared: bool) -> None:
    """Raises LauncherError when a run directory that must outlive VMs, or be seen by several (`shared`),
    would not."""
    workdir = next((word.partition("=")[2] for word in arguments if re.match("--?workdir=", word)), "")
    if workdir.startswith("~"):
        raise LauncherError(
            f"--workdir: got {workdir!r}, but ~ would not be expanded there. Write bucket/… or an absolute "
            "path."
        )
    if shared and not workdir.startswith(("bucket/", "/")):
        raise LauncherError(
            f"--workdir: got {workdir!r}, which is on each VM's own disk: workers do not share it, and it "
            "is deleted with the VM. Write --workdir=bucket/… (with the equals sign), and give "
            "--bucket=BUCKET to `setup` or `babysit`."
        )


def fingerprint(arguments: Sequence[str]) -> str:
    """By which a run is known again that was started with these arguments."""
    return hashlib.sha256("\0".join(arguments).encode()).hexdigest()[:8]


def verdict(workers: Sequence[Worker]) -> tuple[str, int, str]:
    """All workers together: (running, complete, stopped, failed or never; exit code; a worker that
    failed)."""
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
    """Start a run on all workers. Raises LauncherError when one runs already, or with these arguments
    cannot."""
    workers = tpu.workers()
    if not workers:
        raise LauncherError(f"{tpu.name}: nothing is installed there. Give `setup` first.")
    busy = [worker for worker in workers if worker.state == "running"]
    if busy:
        raise LauncherError(
            f"{tpu.name}: a run is running there ({busy[0]}). Give `stop`, and `status` until it has ended."
        )
    if len(workers) > 1 and not any(re.fullmatch("--?distributed(=true)?", word) for word in arguments):
        raise LauncherError(
            f"{tpu.name}: got {len(workers)} workers and no --distributed among the run's arguments, without "
            "which each would train on its own. Add it."
        )
    check_arguments(arguments, shared=len(workers) > 1)
    run = f"{datetime.now(UTC):%Y%m%d-%H%M%S.%f}-{fingerprint(arguments)}"
    tpu.start(run, arguments)
    tpu.say(f"{tpu.name}: started run {run}.")


def status(tpu: Tpu) -> int:
    """Print how the TPU and its workers are; one of STATUS_CODES, or NO_TPU."""
    condition = tpu.condition()
    if condition.kind != "ready":
        print(f"{tpu.name}: {condition.text}")
        return NO_TPU
    workers = tpu.workers()
    if tpu.options.dry_run:
        return 0
    print(
        "\n".join([f"{tpu.name}: {condition.text}", *map(str, workers or ["nothing is installed there yet"])])
    )
    return STATUS_CODES[verdict(workers)[0]]


class Progress:
    """Says how things are when that changed, and every ten minutes."""

    def __init__(self, tpu: Tpu):
        self.tpu, self.text, self.began, self.said = tpu, "", time.monotonic(), 0.0

    def __call__(self, text: str) -> None:
        now = time.monotonic()
        if text != self.text or now - self.said > SAY_AGAIN_SECONDS:
            minutes, seconds = divmod(int(now - self.began), 60)
            self.tpu.say(f"{text} (after {minutes // 60}:{minutes % 60:02d}:{seconds:02d})")
            self.text, self.said = text, now


def patiently(tpu: Tpu, step: Callable[[], int | None]) -> int:
    """Repeat `step` until it returns a number; what does not answer any more is asked again, after pauses
    that double.

    Raises: LauncherError: whatever `step` raises, and UnreachableError when that came MAX_SILENT times in a
      row, or at
        once where nothing had answered before: a login or a permission is missing, which time does not bring.
    """
    silent, answered = 0, False
    while True:
        try:
            result = step()
            silent, answered = 0, True
        except UnreachableError as error:
            silent += 1
            if silent == MAX_SILENT or not answered:
                raise
            tpu.say(f"{error} Asking again ({silent} of {MAX_SILENT - 1}).")
        else:
            if result is not None:
                return result
        poll = tpu.options.poll_seconds
        tpu.sleep(min(poll * 2**silent, max(MAX_PAUSE_SECONDS, poll)))


def create(tpu: Tpu) -> int:
    """Create the TPU unless it exists, and wait for it. Raises LauncherError when there will be none."""
    progress, created = Progress(tpu), False

    def step() -> int | None:
        nonlocal created
        condition = tpu.condition()
        if condition.kind == "ready":
            tpu.say(f"{tpu.name} {'is' if created else 'exists and is'} ACTIVE.")
            return 0
        if condition.kind == "missing" and not created:
            tpu.create()
            created = True
        elif condition.kind == "waiting":
            progress(condition.text)
        else:
            raise LauncherError(
                f"{tpu.name}: {condition.text}. It will not become ACTIVE any more. Give `delete`, then "
                "`create` again; where there is no capacity or no quota, in another --zone, or with a "
                "later --valid_until."
            )
        return None

    return patiently(tpu, step)


class Babysitter:
    """Looks at a TPU again and again, and does the one thing that brings its run further."""

    def __init__(self, tpu: Tpu, arguments: Sequence[str]):
        self.tpu, self.arguments, self.progress = tpu, arguments, Progress(tpu)
        self.failures, self.counted, self.launched = 0, "", time.monotonic()

    def step(self) -> int | None:
        """One look and one deed; the exit code when nothing is left to do.

        Raises: UnreachableError: no answer. LauncherError: too many failures, or a run with other arguments
          is running there.
        """
        condition = self.tpu.condition()
        if condition.kind == "ready":
            return self._look_at_run()
        if condition.kind == "missing":
            self._try(self.tpu.create)
        elif condition.kind == "waiting":
            self.progress(condition.text)
        else:
            self.tpu.say(f"{condition.text}. Deleting what is left of it, to create it again.")
            self.tpu.delete()
            if condition.kind == "failed":
                self._count_failure(condition.text, 1)
        return None

    def _look_at_run(self) -> int | None:
        workers = self.tpu.workers()
        kind, code, number = verdict(workers)
        own = all(worker.run.endswith(fingerprint(self.arguments)) for worker in workers)
        if kind == "running":
            if not own:
                raise LauncherError(
                    f"{self.tpu.name}: a run with other arguments is running there ({workers[0]}). Give "
                    "`stop` first, or another --name."
                )
            self.progress(", ".join(map(str, workers)))
            return None
        if own and kind == "complete":
            self.tpu.say(f"{self.tpu.name}: the run is complete.")
            if self.tpu.options.delete_when_done:
                self.tpu.delete()
            return 0
        if own and kind == "failed" and self.counted != workers[0].run:
            if self.tpu.condition().kind != "ready":
                return None  # it failed because the TPU is being taken away
            self.counted = workers[0].run
            with contextlib.suppress(LauncherError):  # without it, the exit code says enough to go on
                self.tpu.tail(number)
            self._count_failure(
                f"worker {number} ended with exit code {code}.", code, time.monotonic() - self.launched
            )
        return self._try(self._launch)

    def _launch(self) -> int | None:
        self.tpu.setup()
        start(self.tpu, self.arguments)
        self.launched = time.monotonic()
        return 0 if self.tpu.options.dry_run else None  # the rest would depend on the run

    def _try(self, deed: Callable[[], int | None]) -> int | None:
        try:
            return deed()
        except UnreachableError:
            raise
        except LauncherError as error:
            if self.tpu.condition().kind in (
                "missing",
                "ready",
            ):  # else the next look says why it did not succeed
                self._count_failure(str(error), error.code)
        return None

    def _count_failure(self, text: str, code: int, lasted: float = 0.0) -> None:
        self.failures = 1 if lasted > LASTED_SECONDS else self.failures + 1
        text = f"failure {self.failures} of {self.tpu.options.max_failures}: {text}"
        if self.failures >= self.tpu.options.max_failures:
            raise LauncherError(
                f"{self.tpu.name}: {text} This ends here; what there is of the TPU costs money until you "
                "`delete` it.",
                code,
            )
        self.tpu.say(text)
