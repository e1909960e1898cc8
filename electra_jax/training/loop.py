"""The training loop. Its order is fixed: evaluate and probe if due → dispatch the step → write the row of the
previous step → save a checkpoint if due.

The loop is handed everything that it needs; it knows neither the model nor where the data come from. A run
with stages uses one loop per stage. An evaluation that falls on a stage boundary is run by the later stage.
"""

import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, Protocol

import jax

from electra_jax.distributed.stopping import StopNotice, Stopped
from electra_jax.training.checkpointing import Checkpointer
from electra_jax.training.metrics import Metrics, summarize
from electra_jax.training.run_ahead import RunAhead
from electra_jax.training.state import TrainState, measured_params, num_left_out
from electra_jax.training.watch import OFF, RollBack, TroubleServices, Watch
from electra_jax.training.writers import MetricWriters

SHOWN_EARLY = (1, 10)  # steps after a start whose metrics are shown, however long a logging window is


class Batches(Protocol):
    """The batch of a step is a function of the step."""

    seconds_waited: float

    def batch_at(self, step: int) -> dict[str, jax.Array]: ...

    def rows_at(self, step: int) -> list[tuple[str, int]]: ...


class Intervals(NamedTuple):
    """How many steps there are, and every how many of them the loop does something else."""

    num_steps: int  # of the whole run
    log: int
    evaluate: int
    checkpoint: int
    probe: int = 0  # ignored without a probe
    stop_at: int | None = None  # the step that ends this stage, if another stage follows


class StageComputation(NamedTuple):
    """What one stage of a run computes."""

    train_step: Callable[..., Any]  # (state, ids) → (new state, metric sums of the logging window so far)
    evaluate: Callable[[Any], Metrics]  # parameters → metrics of the held-out rows
    schedule: Callable[[int], Any]  # step → learning rate
    flops_per_token: float  # of a forward pass


class RunServices(NamedTuple):
    """What all stages of a run share."""

    writers: MetricWriters
    checkpointer: Checkpointer
    description: dict[str, Any]  # saved with every checkpoint
    stop: StopNotice
    probe: Callable[[Any], Metrics] | None = None  # parameters → metrics of a downstream task
    peak_flops: float | None = None  # of all devices, per second; None: utilization is not reported
    publish: Callable[[], None] = lambda: None  # brings the rows written so far to where the run is kept
    first_step_done: Callable[[], None] = lambda: None  # called when the first step after a start is done
    trouble: TroubleServices = OFF


class TrainingLoop:
    """Trains from `state.step` to the end of the run, or of a stage. `run` may be called once.

    Evaluations and probes get the parameters, or their moving average (`measured_params`). At the end of the
    run the last checkpoint, evaluation and probe are made. At the end of a stage (`intervals.stop_at`) the
    state is saved and the row of the logging window is written, however short the window is.
    """

    def __init__(
        self,
        state: TrainState,
        computation: StageComputation,
        batches: Batches,
        intervals: Intervals,
        services: RunServices,
    ):
        self.state = state
        self.step = int(state.step)  # how many steps have been dispatched
        self._first_step = self._saved_step = self.step
        # Updates that were left out, but that the guard does not count: it is gone, or came later.
        self._left_out = num_left_out(state) - (int(state.guard["skipped"]) if hasattr(state, "guard") else 0)
        self._end = intervals.num_steps if intervals.stop_at is None else intervals.stop_at
        self._window: Any = None  # metric sums of the logging window, after the step dispatched last
        self._pending_row: _PendingRow | None = None
        self._ahead = RunAhead()
        self._watch = Watch(services.trouble, state)
        self._stop_step = self.step  # that would be saved if the run were told to stop now
        self._clock = _TrainingClock(batches)
        self._computation, self._batches = computation, batches
        self._intervals, self._services = intervals, services
        self._measurements = [("eval/", intervals.evaluate, computation.evaluate)]
        if services.probe is not None:
            self._measurements.append(("probe/", intervals.probe, services.probe))

    def run(self) -> TrainState:
        """Train to the end and return the last state.

        Raises:
          Stopped: the run was told to stop; its state is saved.
          NumericalTroubleError, RollBack: raised at the first logging step, evaluation or checkpoint after it
            happened; nothing that is not finite is ever saved.
          OSError: a checkpoint or a row of metrics could not be written.
        """
        self._services.stop.describe = self._describe_stop
        try:
            while self.step < self._end:
                self._run_due_measurements()
                self._dispatch_step()
                self._write_pending_row()
                self._end_window_if_due()
                self._save_if_due()
                self._services.stop.check()
            self._finish()
        except Stopped:
            try:
                self._save_before_exit()
            except RollBack as rollback:  # of a step that nothing had looked at yet
                rollback.is_stopping = True
                raise
            raise
        self._services.checkpointer.wait()
        return self.state

    def _run_due_measurements(self) -> None:
        for prefix, every, compute in self._measurements:
            if self.step % every == 0 and self.step > 0:
                self._run_measurement(prefix, compute)

    def _run_measurement(self, prefix: str, compute: Callable[[Any], Metrics]) -> None:
        """Run an evaluation or probe and write its row, unless an earlier start of the run wrote it."""
        self._drain()
        writers = self._services.writers
        if writers.has_row(self.step, prefix):
            return
        with self._clock.paused():
            with self._services.stop.waiting():
                metrics = compute(measured_params(self.state))
            writers.write(self.step, metrics, prefix=prefix)
            self._services.publish()

    def _dispatch_step(self) -> None:
        with self._services.stop.waiting():
            ids = self._batches.batch_at(self.step)["input_ids"]
        self._stop_step = self.step + 1
        self.state, self._window = self._computation.train_step(self.state, ids)
        self.step += 1
        self._watch.note(self.step, self._window)
        self._ahead.dispatched(self._window["steps"])
        self._services.writers.advance(self.step)

    def _end_window_if_due(self) -> None:
        if self.step % self._intervals.log == 0 or self.step == self._intervals.stop_at:
            self._pending_row = _PendingRow(self.step, self._window, is_whole=True)
        elif self.step - self._first_step in SHOWN_EARLY:
            self._pending_row = _PendingRow(self.step, self._window, is_whole=False)

    def _write_pending_row(self) -> None:
        if self._pending_row is None:
            return
        row, self._pending_row = self._pending_row, None
        # Returns when that step is done on the devices: the moment to read the clock.
        sums = jax.device_get(row.sums)
        timing = self._clock.lap() if row.is_whole else self._clock.elapsed()
        if row.step == self._first_step + 1:
            with self._clock.paused():
                self._services.first_step_done()
        self._check(row.step, sums)
        metrics = summarize(sums) | timing
        # The schedule counts updates. Those that were left out are none.
        num_updates = row.step - self._left_out - int(sums.get("skipped", 0))
        metrics["learning_rate"] = float(self._computation.schedule(max(num_updates - 1, 0)))
        # A run restored in the middle of a window did not compute all of it.
        num_steps = float(sums["steps"]) + float(sums.get("skipped_steps", 0))
        fraction = min(1.0, (row.step - self._first_step) / num_steps)
        seconds = metrics.pop("seconds")
        metrics["data_wait_share"] = metrics["data_wait_seconds"] / seconds
        metrics |= self._speed(fraction * metrics.pop("tokens") / seconds)
        writers = self._services.writers
        (writers.write if row.is_whole else writers.show)(row.step, metrics)

    def _speed(self, tokens_per_second: float) -> Metrics:
        flops_per_second = 3 * self._computation.flops_per_token * tokens_per_second
        speed = {"tokens_per_second": tokens_per_second, "model_flops_per_second": flops_per_second}
        if self._services.peak_flops is not None:
            speed["model_flops_utilization"] = flops_per_second / self._services.peak_flops
        return speed

    def _save_if_due(self) -> None:
        if self.step % self._intervals.checkpoint == 0 or self.step == self._end:
            self._save()

    def _save(self) -> None:
        # The row first: a crash between the two then repeats a row instead of losing it.
        self._drain()
        with self._clock.paused():
            self._services.publish()
            self._services.checkpointer.save(self.step, self.state, self._services.description)
        self._saved_step = self.step

    def _drain(self) -> None:
        """Wait for all dispatched steps, so that the work that follows is not timed as training, and is not
        done for a run that has already failed."""
        self._write_pending_row()
        if self._window is not None:
            self._check(self.step, jax.device_get(self._window))

    def _check(self, step: int, sums: dict[str, Any]) -> None:
        try:
            with self._clock.paused():
                self._watch.check(step, sums, self.state)
        except RollBack:
            self.state = None  # so that there is memory for the one that is restored
            raise

    def _finish(self) -> None:
        if self._intervals.stop_at is None:
            for prefix, _, compute in self._measurements:
                self._run_measurement(prefix, compute)
        else:
            # All is on disk before the next stage compiles: during compilation no notice is heard.
            self._services.checkpointer.wait()
            self._services.stop.check()

    def _describe_stop(self) -> str:
        step = self._stop_step
        return f"Stopping at step {step}" + (": saving …" if step > self._saved_step else ", which is saved.")

    def _save_before_exit(self) -> None:
        if jax.process_index() == 0:
            self._services.stop.announce()
        if self.step > self._saved_step:
            self._save()
        self._services.checkpointer.wait()
        if jax.process_index() == 0:
            print(
                f"Told to stop: step {self.step} is saved. The same command resumes from there.",
                file=sys.stderr,
            )


class _PendingRow(NamedTuple):
    """A row to write as soon as its step is done."""

    step: int
    sums: Any
    is_whole: bool  # False: of a window that continues, to show and not to write


class _TrainingClock:
    """Seconds spent training since the last lap, without evaluations, probes and checkpoints, and seconds
    spent waiting for data."""

    def __init__(self, batches: Batches):
        self._batches = batches
        self._start, self._paused, self._waited = time.perf_counter(), 0.0, batches.seconds_waited

    def elapsed(self) -> Metrics:
        return self._timing(time.perf_counter(), self._batches.seconds_waited)

    def lap(self) -> Metrics:
        now, waited = time.perf_counter(), self._batches.seconds_waited
        timing = self._timing(now, waited)
        self._start, self._paused, self._waited = now, 0.0, waited
        return timing

    def _timing(self, now: float, waited: float) -> Metrics:
        return {"seconds": now - self._start - self._paused, "data_wait_seconds": waited - self._waited}

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        began = time.perf_counter()
        try:
            yield
        finally:
            self._paused += time.perf_counter() - began
