"""Progress of a run on stderr, with the time left: a bar on a terminal, elsewhere plain lines."""

import math
import time
from collections.abc import Mapping
from typing import Protocol, TextIO

from tqdm import tqdm

SECONDS_BETWEEN_LINES = 10.0
# Metric → the name that is shown, and its format. Metrics that are not here are not shown.
TRAINING = {
    "loss": ("loss", "{:.3f}"),
    "rtd_auc": ("auc", "{:.3f}"),
    "tokens_per_second": ("tokens/s", "{:,.0f}"),
}
EVALUATION = {"eval/mlm_loss": ("mlm_loss", "{:.3f}"), "eval/rtd_auc": ("auc", "{:.3f}")}
PROBE = "probe/"  # all metrics with this prefix are shown


class Progress(Protocol):
    """What `make_progress` returns."""

    def show(self, step: int, scalars: Mapping[str, float]) -> None: ...

    def close(self) -> None: ...


def make_progress(stream: TextIO, start_step: int, total_steps: int) -> Progress:
    """A progress bar if `stream` is a terminal, otherwise a writer of plain lines."""
    return (ProgressBar if stream.isatty() else ProgressLines)(stream, start_step, total_steps)


class ProgressBar:
    """Progress bar with the time left, for a terminal."""

    def __init__(self, stream: TextIO, start_step: int, total_steps: int):
        self._bar = tqdm(initial=start_step, total=total_steps, unit="step", file=stream, dynamic_ncols=True)

    def show(self, step: int, scalars: Mapping[str, float]) -> None:
        """Show a row: of training in the bar, of an evaluation or probe on a line above it."""
        name, measured = _describe_measurement(scalars)
        if measured:
            words = "  ".join(f"{label} {value}" for label, value in measured.items())
            self._bar.write(f"step {step} {name}  {words}", file=self._bar.fp)
            return
        self._bar.set_postfix(_describe(scalars, TRAINING), refresh=False)
        self._bar.update(step - self._bar.n)

    def close(self) -> None:
        """Leave the bar as it is now."""
        self._bar.close()


class ProgressLines:
    """Plain lines for log files: the first and the last row, evaluations and probes, and other rows at least
    SECONDS_BETWEEN_LINES apart."""

    def __init__(self, stream: TextIO, start_step: int, total_steps: int):
        self._stream, self._total = stream, total_steps
        # Step and time of the first row: time is counted from there, since compilation lies before it.
        self._first: tuple[int, float] | None = None
        self._shown_at = -math.inf

    def show(self, step: int, scalars: Mapping[str, float]) -> None:
        """Print the line of a row, unless it comes too soon after another."""
        now = time.monotonic()
        name, measured = _describe_measurement(scalars)
        if not measured:
            self._first = self._first or (step, now)
            if now - self._shown_at < SECONDS_BETWEEN_LINES and step < self._total:
                return
            self._shown_at = now
        words = [f"step {step}/{self._total} ({step / self._total:.1%})", name if measured else ""]
        words += [f"{label} {value}" for label, value in (measured or _describe(scalars, TRAINING)).items()]
        words += [self._time_left(step, now)]
        print("  ".join(word for word in words if word), file=self._stream, flush=True)

    def _time_left(self, step: int, now: float) -> str:
        if self._first is None or step <= self._first[0] or step >= self._total:
            return ""
        seconds = (now - self._first[1]) / (step - self._first[0]) * (self._total - step)
        return f"ETA {tqdm.format_interval(seconds)}"

    def close(self) -> None:
        """Nothing is open."""


def _describe(scalars: Mapping[str, float], shown: Mapping[str, tuple[str, str]]) -> dict[str, str]:
    return {label: form.format(scalars[name]) for name, (label, form) in shown.items() if name in scalars}


def _describe_measurement(scalars: Mapping[str, float]) -> tuple[str, dict[str, str]]:
    """Whether the row is of an evaluation or a probe, and the metrics to show; none of a training row."""
    evaluation = _describe(scalars, EVALUATION)
    if evaluation:
        return "evaluation", evaluation
    probes = {name: value for name, value in scalars.items() if name.startswith(PROBE)}
    return "probe", {name.removeprefix(PROBE): f"{value:.3f}" for name, value in probes.items()}
