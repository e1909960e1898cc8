"""The one training loop. Its order is fixed: evaluate and probe if due → dispatch the step → write the
previous metrics → checkpoint if due. Everything it needs is handed to it; it knows neither the model nor
where data come from.

A run with stages goes through it once for each. What is due between two of them is left to the second.
"""

import sys
import time
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import jax
import numpy as np

from electra_jax.distributed.stopping import StopNotice, Stopped
from electra_jax.training.checkpointing import Checkpointer
from electra_jax.training.metrics import Metrics, summarize
from electra_jax.training.state import TrainState, measured_params
from electra_jax.training.step import NO_STEP
from electra_jax.training.writers import MetricWriters


class Batches(Protocol):
    """The batch of a step is a function of the step."""

    seconds_waited: float

    def batch_at(self, step: int) -> dict[str, jax.Array]: ...

    def rows_at(self, step: int) -> list[tuple[str, int]]: ...


class Intervals(NamedTuple):
    """How often, in steps; `num_steps` is the end of the run."""

    num_steps: int
    log: int
    evaluate: int
    checkpoint: int
    probe: int = 0  # for a run that has none


class NonFiniteLossError(FloatingPointError):
    """The loss or a gradient became NaN or infinite; names the step and the rows of its batch."""

    def __init__(self, step: int, rows: list[tuple[str, int]], kept_step: int | None):
        self.step, self.rows = step, rows
        super().__init__(
            f"The gradient or update of step {step} is not finite. Its batch held the rows {rows[:4]}… "
            f"({len(rows)} in all, written to nonfinite_batch.json). The last good checkpoint is of step "
            f"{kept_step}. Lower config.optimizer.learning_rate, lengthen config.optimizer.warmup_steps, or "
            "look at those rows."
        )


def train(
    state: TrainState,
    step_fn: Callable[..., Any],
    batches: Batches,
    intervals: Intervals,
    *,
    evaluate: Callable[[Any], Metrics],
    write: MetricWriters,
    checkpointer: Checkpointer,
    run: dict[str, Any],
    schedule: Callable[[int], Any],
    flops_per_token: float,
    peak_flops: float | None,
    stop: StopNotice,
    probe: Callable[[Any], Metrics] | None = None,
    until: int | None = None,
) -> TrainState:
    """Train from `state.step` to the end, where the last checkpoint, evaluation and probe are made; returns
    the last state. `evaluate` and `probe` get the parameters, or their moving average (`measured_params`),
    and leave them as they are. With `until`, a step before the end, it returns after that one instead, whose
    state is saved and whose logging window is written, however short it is.

    Raises: Stopped: `stop` said so; the state is saved. NonFiniteLossError: at the first logging step,
      evaluation or checkpoint after it happened; nothing bad is ever saved. OSError: a checkpoint or a row of
      metrics could not be written.
    """
    start = step = saved = int(state.step)
    end = intervals.num_steps if until is None else until
    clock = _Clock(batches)
    window: Any = None  # metric sums of the step dispatched last
    pending: tuple[int, Any] | None = None  # step and sums of the row to write next

    def flush() -> None:
        nonlocal pending
        if pending is None:
            return
        (step, sums), pending = pending, None
        sums = jax.device_get(
            sums
        )  # returns when that step is done on the devices: the moment to read the clock
        timing = clock.lap()
        _check_finite(sums, batches, checkpointer)
        numbers = summarize(sums) | timing | {"learning_rate": float(schedule(step - 1))}
        # A run restored in the middle of a window did not compute all of it.
        share = min(1.0, (step - start) / float(sums["steps"]))
        numbers |= _speed(share * numbers.pop("tokens") / numbers.pop("seconds"), flops_per_token, peak_flops)
        write.write(step, numbers)

    def settle() -> None:
        """Bring everything dispatched to its end, so that what follows is neither timed as training nor done
        in vain."""
        flush()
        if window is not None:
            _check_finite(jax.device_get(window), batches, checkpointer)

    def measure(prefix: str, compute: Callable[[Any], Metrics]) -> None:
        settle()
        if not write.has_row(step, prefix):
            with clock.paused():
                with stop.waiting():
                    numbers = compute(measured_params(state))
                write.write(step, numbers, prefix=prefix)

    def save() -> None:
        nonlocal saved
        # The row first: a crash between the two then repeats a row instead of losing it.
        settle()
        with clock.paused():
            checkpointer.save(step, state, run)
        saved = step

    measures = [("eval/", intervals.evaluate, evaluate)]
    if probe is not None:
        measures.append(("probe/", intervals.probe, probe))
    try:
        while step < end:
            for prefix, every, compute in measures:
                if step % every == 0 and step > 0:
                    measure(prefix, compute)
            with stop.waiting():
                ids = batches.batch_at(step)["input_ids"]
            state, window = step_fn(state, ids)
            step += 1
            flush()
            if step % intervals.log == 0 or step == until:
                pending = (step, window)
            if step % intervals.checkpoint == 0 or step == end:
                save()
            stop.check()
        if until is None:
            for prefix, _, compute in measures:
                measure(prefix, compute)
        else:
            # Whole before the next stage compiles, in which time no notice is heard.
            checkpointer.wait()
            stop.check()
    except Stopped:
        if step > saved:
            save()
        checkpointer.wait()
        if jax.process_index() == 0:
            print(
                f"Told to stop: step {step} is saved. The same command goes on from there.", file=sys.stderr
            )
        raise
    checkpointer.wait()
    return state


def _speed(tokens_per_second: float, flops_per_token: float, peak_flops: float | None) -> Metrics:
    flops_per_second = 3 * flops_per_token * tokens_per_second
    return {
        "tokens_per_second": tokens_per_second,
        "model_flops_per_second": flops_per_second,
        **({} if peak_flops is None else {"model_flops_utilization": flops_per_second / peak_flops}),
    }


def _check_finite(sums: dict[str, np.ndarray], batches: Batches, checkpointer: Checkpointer) -> None:
    bad_step = int(sums["nonfinite_step"])
    if bad_step != NO_STEP:
        checkpointer.wait()
        raise NonFiniteLossError(bad_step, batches.rows_at(bad_step - 1), checkpointer.latest_step())


class _Clock:
    """Seconds spent training since the last lap, without evaluations, probes and checkpoints, and seconds
    waited for data."""

    def __init__(self, batches: Batches):
        self._batches = batches
        self._start, self._paused, self._waited = time.perf_counter(), 0.0, batches.seconds_waited

    def lap(self) -> Metrics:
        now, waited = time.perf_counter(), self._batches.seconds_waited
        numbers = {"seconds": now - self._start - self._paused, "data_wait_seconds": waited - self._waited}
        self._start, self._paused, self._waited = now, 0.0, waited
        return numbers

    def paused(self) -> "_Pause":
        return _Pause(self)


class _Pause:
    def __init__(self, clock: _Clock):
        self._clock = clock

    def __enter__(self) -> None:
        self._since = time.perf_counter()

    def __exit__(self, *error) -> None:
        self._clock._paused += time.perf_counter() - self._since
