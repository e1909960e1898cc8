"""Where metrics go: metrics.jsonl always, TensorBoard by option, and a progress bar or plain lines with the
time left.

metrics.jsonl holds one object a line. A training row of step n describes the update that made step n (1 …
num_steps); an evaluation row of step n, whose names start with "eval/", and one of a probe, "probe/",
describe the parameters after n updates. JSON has no NaN or infinity: a value that is not finite is written as
null.
"""

import contextlib
import json
import math
import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TextIO

from tqdm import tqdm

METRICS_FILE = "metrics.jsonl"
SECONDS_BETWEEN_LINES = 10.0  # on something that is not a terminal
# What the terminal shows: metric name → shown name, format.
_SHOWN = {
    "loss": ("loss", "{:.3f}"),
    "rtd_auc": ("auc", "{:.3f}"),
    "tokens_per_second": ("tokens/s", "{:,.0f}"),
}
_SHOWN_EVALUATION = {"eval/mlm_loss": ("mlm_loss", "{:.3f}"), "eval/rtd_auc": ("auc", "{:.3f}")}
_PROBE = "probe/"  # of these all is shown

Row = dict[str, Any]


class MetricWriters:
    """Writes scalars of a run everywhere they should go.

    Opening it for a resumed run forgets what the lost steps wrote: rows beyond `start_step` are removed, and
    a last line torn by a crash is dropped, so that a step never appears twice.

    Args:
      run_dir: a local or mounted directory; created if missing.
      tensorboard: also write run_dir/tensorboard (needs the extra `track`).
      progress: show progress on stderr: a bar on a terminal, elsewhere a line every ten seconds.
      total_steps: steps of the whole run.
      start_step: the restored step, 0 for a new run.
      is_writer: False on all processes but one, which then write and show nothing.

    Raises: ValueError: a remote `run_dir`, a start beyond the end, or a metrics.jsonl that is damaged before
      its last line. ImportError: TensorBoard asked for without tensorboardX.
    """

    def __init__(
        self,
        run_dir: str | os.PathLike,
        *,
        tensorboard: bool,
        progress: bool,
        total_steps: int,
        start_step: int,
        is_writer: bool = True,
    ):
        if not 0 <= start_step <= total_steps:
            raise ValueError(
                f"start_step: got {start_step}, expected 0 … config.train.num_steps={total_steps}."
            )
        self._file: TextIO | None = None
        self._tensorboard = self._progress = None
        self._already_there: set[tuple[int, str]] = set()
        # Evaluation at the restored step may run again; the row it would repeat is already here. All
        # processes must know.
        self._already_there = {
            (row["step"], _kind(row)) for row in read_metrics(run_dir) if row["step"] == start_step
        }
        if not is_writer:
            return
        run_dir = _local(run_dir)
        run_dir.mkdir(parents=True, exist_ok=True)
        path = run_dir / METRICS_FILE
        _forget_after(path, start_step)
        self._tensorboard = _open_tensorboard(run_dir / "tensorboard", start_step) if tensorboard else None
        self._progress = _make_progress(sys.stderr, start_step, total_steps) if progress else None
        self._file = path.open("a", encoding="utf-8")

    def write(self, step: int, scalars: Mapping[str, float], prefix: str = "") -> None:
        """Writes one row. Evaluation rows pass prefix="eval/", probes "probe/", which is put before every
        name.

        Raises:
          ValueError: a scalar named "step".
          TypeError: a value that is not a number.
          OSError: the disk is full or gone.
        """
        if self._file is None:
            return
        scalars = {prefix + name: float(value) for name, value in scalars.items()}
        if "step" in scalars:
            raise ValueError('a metric may not be named "step": that is the row\'s own key. Rename it.')
        row = {
            "step": int(step),
            **{name: value if math.isfinite(value) else None for name, value in scalars.items()},
        }
        if (row["step"], _kind(row)) not in self._already_there:
            # One write a row: a crash tears at most the last line, and the next start drops that.
            try:
                self._file.write(json.dumps(row, allow_nan=False) + "\n")
                self._file.flush()
            except OSError as error:
                raise self._give_up(error) from error
            if self._tensorboard is not None:
                for name, value in scalars.items():
                    self._tensorboard.add_scalar(name, value, step)
        if self._progress is not None:
            self._progress.show(step, scalars)

    def has_row(self, step: int, prefix: str = "") -> bool:
        """Whether the run already had this row when it was opened: the work behind it need not be done
        again."""
        return (step, prefix) in self._already_there

    def close(self) -> None:
        """Flushes and closes everything. May be called twice."""
        for sink in (self._file, self._tensorboard, self._progress):
            if sink is not None:
                sink.close()
        self._file = self._tensorboard = self._progress = None

    def _give_up(self, error: OSError) -> OSError:
        name, file, self._file = self._file.name, self._file, None
        with contextlib.suppress(OSError):  # closing tries to write the same row once more
            file.close()
        return OSError(
            f"{name}: a row could not be written: {error}. Free disk space and run the same command again: "
            "it goes on from the newest checkpoint."
        )

    def __enter__(self) -> "MetricWriters":
        return self

    def __exit__(self, *exception) -> None:
        self.close()


def read_metrics(run_dir: str | os.PathLike) -> list[Row]:
    """Rows of run_dir/metrics.jsonl in file order, without a last line torn by a crash; [] when there is no
    file.

    Raises:
      ValueError: a damaged line before the last one; names it.
    """
    path = _local(run_dir) / METRICS_FILE
    return _parse(path)[0] if path.exists() else []


def _local(run_dir: str | os.PathLike) -> Path:
    if "://" in os.fspath(run_dir):
        raise ValueError(
            f"run directory: got {os.fspath(run_dir)!r}, expected a local or mounted path: metrics.jsonl "
            "grows by appending, and object stores cannot append. Mount the bucket, or copy afterwards."
        )
    return Path(run_dir)


def _parse(path: Path) -> tuple[list[Row], bool]:
    """Rows of the file, and whether its last line lacks its newline; that one is left out unless all of it is
    there."""
    lines = path.read_bytes().split(b"\n")
    is_torn = lines[-1] != b""
    rows = []
    for number, line in enumerate(lines if is_torn else lines[:-1], start=1):
        try:
            row = json.loads(line)
            row["step"] = int(row["step"])
        except (ValueError, TypeError, KeyError) as error:
            if number == len(lines):  # only a torn one gets here
                break
            raise ValueError(
                f'{path}, line {number}: expected an object with a "step", got {line[:80]!r}. Repair '
                "the file or move it away; the run itself can still be resumed."
            ) from error
        rows.append(row)
    return rows, is_torn


def _forget_after(path: Path, start_step: int) -> None:
    """Removes rows of later steps and a torn last line, all at once or not at all."""
    if not path.exists():
        return
    rows, is_torn = _parse(path)
    kept = [row for row in rows if row["step"] <= start_step]
    if is_torn or len(kept) < len(rows):
        rewritten = path.with_name(path.name + ".tmp")
        with rewritten.open("w", encoding="utf-8") as file:
            file.writelines(json.dumps(row) + "\n" for row in kept)
            file.flush()
            os.fsync(file.fileno())
        rewritten.replace(path)


def _kind(row: Row) -> str:
    """Prefix that all names of a row share, "" for training rows: two rows of one step and kind are the same
    row."""
    prefixes = {name.partition("/")[0] + "/" if "/" in name else "" for name in row if name != "step"}
    return prefixes.pop() if len(prefixes) == 1 else ""


def _open_tensorboard(directory: Path, start_step: int):
    try:
        from tensorboardX import SummaryWriter
    except ImportError as error:
        raise ImportError(
            "config.log.tensorboard needs tensorboardX: pip install 'electra_jax[track]', or switch it off."
        ) from error
    return SummaryWriter(str(directory), purge_step=start_step + 1)  # viewers then hide what lost steps wrote


def _make_progress(stream: TextIO, start_step: int, total_steps: int):
    return (_Bar if stream.isatty() else _Lines)(stream, start_step, total_steps)


def _describe(scalars: Mapping[str, float], shown: Mapping[str, tuple[str, str]]) -> dict[str, str]:
    return {label: form.format(scalars[name]) for name, (label, form) in shown.items() if name in scalars}


def _describe_measured(scalars: Mapping[str, float]) -> tuple[str, dict[str, str]]:
    """What kind of row it is, and what of it is shown; nothing of a training row."""
    evaluation = _describe(scalars, _SHOWN_EVALUATION)
    if evaluation:
        return "evaluation", evaluation
    return "probe", {
        name.removeprefix(_PROBE): f"{value:.3f}"
        for name, value in scalars.items()
        if name.startswith(_PROBE)
    }


class _Bar:
    """Progress bar with the time left, for a terminal."""

    def __init__(self, stream: TextIO, start_step: int, total_steps: int):
        self._bar = tqdm(initial=start_step, total=total_steps, unit="step", file=stream, dynamic_ncols=True)

    def show(self, step: int, scalars: Mapping[str, float]) -> None:
        kind, measured = _describe_measured(scalars)
        if measured:
            line = f"step {step} {kind}  " + "  ".join(f"{name} {value}" for name, value in measured.items())
            self._bar.write(line, file=self._bar.fp)
            return
        self._bar.set_postfix(_describe(scalars, _SHOWN), refresh=False)
        self._bar.update(step - self._bar.n)

    def close(self) -> None:
        self._bar.close()


class _Lines:
    """A plain line now and then, for log files: first row, last row, evaluations and probes, otherwise
    throttled by time."""

    def __init__(self, stream: TextIO, start_step: int, total_steps: int):
        self._stream, self._total = stream, total_steps
        self._first: tuple[int, float] | None = (
            None  # step and time of the first row: compilation lies before it
        )
        self._shown_at = -math.inf

    def show(self, step: int, scalars: Mapping[str, float]) -> None:
        now = time.monotonic()
        kind, measured = _describe_measured(scalars)
        if not measured:
            self._first = self._first or (step, now)
            if now - self._shown_at < SECONDS_BETWEEN_LINES and step < self._total:
                return
            self._shown_at = now
        words = [f"step {step}/{self._total} ({step / self._total:.1%})", kind if measured else ""]
        words += [f"{name} {value}" for name, value in (measured or _describe(scalars, _SHOWN)).items()]
        words += [self._time_left(step, now)]
        print("  ".join(word for word in words if word), file=self._stream, flush=True)

    def _time_left(self, step: int, now: float) -> str:
        if self._first is None or step <= self._first[0] or step >= self._total:
            return ""
        seconds = (now - self._first[1]) / (step - self._first[0]) * (self._total - step)
        return f"ETA {tqdm.format_interval(seconds)}"

    def close(self) -> None:
        pass
