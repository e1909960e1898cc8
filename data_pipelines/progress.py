"""Progress of long work on stderr: a bar on a terminal, elsewhere plain lines for log files.

All commands use it, so any folder may import it. `make_progress` counts, `waiting` shows the time of work
that cannot count.
"""

import contextlib
import math
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Protocol, TextIO

from tqdm import tqdm

SECONDS_BETWEEN_LINES = 10.0  # of counted work
SECONDS_BETWEEN_SIGNS = 60.0  # of work that cannot count
SECONDS_BETWEEN_REDRAWS = 1.0  # on a terminal, where the elapsed time moves
NO_WORDS: Mapping[str, str] = {}


class Progress(Protocol):
    """What `make_progress` returns: a context manager, which closes itself."""

    def update(self, done: float, words: Mapping[str, str] = NO_WORDS, *, always: bool = False) -> None:
        """Show how much is done, the start included, and names with values, such as {"loss": "2.310"}.

        In a log file it is a line, unless it comes too soon after another. `always`, and all that there is to
        do, print one in any case.
        """

    def advance(self, done: float) -> None:
        """Move the bar of a terminal, whose words stay. A log file gets lines with words alone."""

    def note(self, done: float, name: str, words: Mapping[str, str]) -> None:
        """Show on a line of its own what was found when this much was done, such as an evaluation."""

    def close(self) -> None:
        """Leave what is shown, or remove the bar if the work has a description. May be called twice."""

    def __enter__(self) -> "Progress": ...

    def __exit__(self, *exception) -> None: ...


def make_progress(
    total: float | None,
    description: str = "",
    *,
    unit: str = "step",
    start: float = 0,
    is_scaled: bool = False,
    is_shown: bool = True,
    stream: TextIO | None = None,
) -> Progress:
    """A progress bar if `stream` is a terminal, otherwise a writer of plain lines.

    Args:
      total: how much there is to do; None: not known.
      description: what is being done, such as "packing". It stands before every line, and a log file gets a
        first line at once.
      unit: in the singular.
      start: how much was done before.
      is_scaled: write 24,000,000 as 24.0M, for bytes.
      is_shown: False shows nothing.
      stream: stderr by default.
    """
    if not is_shown:
        return _Nothing()
    stream = stream or sys.stderr
    return (_Bar if stream.isatty() else _Lines)(_Work(total, description, unit, start, is_scaled), stream)


@contextlib.contextmanager
def waiting(description: str, *, is_shown: bool = True, stream: TextIO | None = None) -> Iterator[None]:
    """Context of work that cannot count, such as "compiling the training step".

    A line comes at once and one with the seconds at the end, unless the work raised. In between the elapsed
    time is live on a terminal, and elsewhere a line every SECONDS_BETWEEN_SIGNS.
    """
    if not is_shown:
        yield
        return
    stream = stream or sys.stderr
    began = time.monotonic()
    if stream.isatty():
        bar = tqdm(desc=f"{description} …", bar_format="{desc} {elapsed}", file=stream, leave=False)
        with contextlib.closing(bar), _repeating(SECONDS_BETWEEN_REDRAWS, bar.refresh):
            yield
    else:
        _print(f"{description} …", stream)

        def tell():
            _print(f"{description} … {tqdm.format_interval(time.monotonic() - began)}", stream)

        with _repeating(SECONDS_BETWEEN_SIGNS, tell):
            yield
    _print(f"{description}: {time.monotonic() - began:.1f} s", stream)


@contextlib.contextmanager
def _repeating(seconds: float, call: Callable[[], object]) -> Iterator[None]:
    """Context in which another thread calls `call` every `seconds` seconds."""
    ended = threading.Event()

    def repeat():
        while not ended.wait(seconds):
            call()

    thread = threading.Thread(target=repeat, name="progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


class _Work:
    """How much work there is, and in which words."""

    def __init__(self, total: float | None, description: str, unit: str, start: float, is_scaled: bool):
        self.total, self.description, self.unit, self.start = total, description, unit, start
        self.is_scaled = is_scaled

    def amount(self, done: float) -> str:
        """For example "step 3/10 (30.0%)", "1.2MB/24.0MB (5.0%)" or, of an unknown total, "step 3"."""
        if not self.is_scaled:
            total = "" if self.total is None else f"/{self.total}"
            return f"{self.unit} {done}{total}{self._share(done)}"
        parts = [done] if self.total is None else [done, self.total]
        return "/".join(tqdm.format_sizeof(part) + self.unit for part in parts) + self._share(done)

    def _share(self, done: float) -> str:
        return f" ({done / self.total:.1%})" if self.total else ""


class _Base:
    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *exception) -> None:
        self.close()


class _Bar(_Base):
    """Progress bar with the time left, for a terminal."""

    def __init__(self, work: _Work, stream: TextIO):
        self._work = work
        self._open = contextlib.ExitStack()
        self._bar = tqdm(
            initial=work.start,
            total=work.total,
            desc=work.description or None,
            unit=work.unit,
            unit_scale=work.is_scaled,
            file=stream,
            dynamic_ncols=True,
            leave=not work.description,  # a command has one main bar, and others that come and go
        )
        self._open.callback(self._bar.close)
        self._open.enter_context(_repeating(SECONDS_BETWEEN_REDRAWS, self._bar.refresh))

    def update(self, done: float, words: Mapping[str, str] = NO_WORDS, *, always: bool = False) -> None:
        if words:
            self._bar.set_postfix(words, refresh=False)
        self.advance(done)

    def advance(self, done: float) -> None:
        # A row of metrics comes a step late: the bar does not go back for it.
        self._bar.update(max(0, done - self._bar.n))

    def note(self, done: float, name: str, words: Mapping[str, str]) -> None:
        line = [self._work.description, f"{self._work.unit} {done} {name}", *_pairs(words)]
        self._bar.write("  ".join(filter(None, line)), file=self._bar.fp)

    def close(self) -> None:
        self._open.close()


class _Lines(_Base):
    """Plain lines for log files: the first and the last amount, notes, and other amounts at least
    SECONDS_BETWEEN_LINES apart."""

    def __init__(self, work: _Work, stream: TextIO):
        self._work, self._stream = work, stream
        # Amount and time of the first update: time is counted from there, since compilation lies before it.
        self._first: tuple[float, float] | None = None
        self._shown_at = -math.inf
        if work.description:
            _print(f"{work.description} …", stream)

    def update(self, done: float, words: Mapping[str, str] = NO_WORDS, *, always: bool = False) -> None:
        now = time.monotonic()
        self._first = self._first or (done, now)
        is_last = self._work.total is not None and done >= self._work.total
        if always or is_last or now - self._shown_at >= SECONDS_BETWEEN_LINES:
            self._shown_at = now
            self._line(done, now, _pairs(words))

    def advance(self, done: float) -> None:
        """Nothing moves in a log file."""

    def note(self, done: float, name: str, words: Mapping[str, str]) -> None:
        self._line(done, time.monotonic(), [name, *_pairs(words)])

    def _line(self, done: float, now: float, words: list[str]) -> None:
        parts = [self._work.description, self._work.amount(done), *words, self._time_left(done, now)]
        _print("  ".join(filter(None, parts)), self._stream)

    def _time_left(self, done: float, now: float) -> str:
        total = self._work.total
        if total is None or self._first is None or done <= self._first[0] or done >= total:
            return ""
        seconds = (now - self._first[1]) / (done - self._first[0]) * (total - done)
        return f"ETA {tqdm.format_interval(seconds)}"

    def close(self) -> None:
        """Nothing is open."""


class _Nothing(_Base):
    """Shows nothing."""

    def update(self, done: float, words: Mapping[str, str] = NO_WORDS, *, always: bool = False) -> None: ...

    def advance(self, done: float) -> None: ...

    def note(self, done: float, name: str, words: Mapping[str, str]) -> None: ...

    def close(self) -> None: ...


def _pairs(words: Mapping[str, str]) -> list[str]:
    return [f"{name} {value}" for name, value in words.items()]


def _print(line: str, stream: TextIO) -> None:
    tqdm.write(line, file=stream)  # above a bar, if one is shown
    stream.flush()
