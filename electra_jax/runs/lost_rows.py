"""Which rows of training steps metrics.jsonl lacks, at its end or between others: after a full disk, a lost
file or an edit."""

import bisect
import itertools
import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from data_pipelines.command_errors import shorten
from electra_jax.configuration.migration import upgrade_config
from electra_jax.runs.bucket_runs import RunDirectory
from electra_jax.runs.provenance import read_sessions
from electra_jax.runs.resuming import Start
from electra_jax.training.events import EventLog, read_events
from electra_jax.training.writers import METRICS_FILE, read_metrics, training_rows

KIND = "rows_lost"
LOG_EVERY = "log_every"  # in sessions.jsonl
MAX_RANGES = 8  # that a message names

Ranges = list[tuple[int, int]]  # the first and the last step of each


class _Part(NamedTuple):
    """The steps after + 1 … last, whose rows were written with one config.log.every."""

    after: int
    last: int
    every: int  # 0: unknown


def lost_rows(
    steps: Iterable[int], end: int, config: Mapping[str, Any], sessions: Sequence[Mapping[str, Any]]
) -> Ranges:
    """The steps up to `end` that have no row though they are done.

    Args:
      steps: of the training rows.
      config: with which the run reached `end`, with the keys of today.
      sessions: lines of sessions.jsonl, in their order. Versions that did not record config.log.every: the
        rows that are left tell it. Without sessions only the end is looked at.
    """
    found = sorted({step for step in steps if 0 < step <= end})
    parts = _parts(found, end, config, sessions)
    starts = [part.after for part in parts]
    ranges = []
    for before, following in itertools.pairwise([0, *found, end + 1]):
        if following - before == 1:
            continue
        last = before
        for part in parts[max(0, bisect.bisect_right(starts, before) - 1) :]:
            if part.after >= following - 1:
                break
            if part.every:
                until = min(following - 1, part.last) // part.every * part.every
                last = max(last, until if until > part.after else 0)
        if last > before:
            ranges.append((before + 1, last))
    return ranges


def _parts(
    found: list[int], end: int, config: Mapping[str, Any], sessions: Sequence[Mapping[str, Any]]
) -> list[_Part]:
    """In the order of their steps. A session wrote the rows from its start to that of the next one. A session
    that started earlier than the one before it has repeated the steps in between."""
    if not sessions:
        return [_Part(found[-1] if found else 0, end, config["log"]["every"])]
    parts: list[_Part] = []
    ends_of_stages = {first_step for first_step, _ in config["stages"]}
    last = end
    for session in reversed(sessions):
        if (start := session.get("start_step", 0)) < last:
            # A stage ends with a row at any step.
            regular = [step for step in _between(found, start, last) if step not in ends_of_stages]
            every = session.get(LOG_EVERY) or math.gcd(*regular)
            parts.append(_Part(start, last, every if parts else config["log"]["every"]))
            last = start
    return parts[::-1]


def _between(found: list[int], after: int, last: int) -> list[int]:
    return found[bisect.bisect_right(found, after) : bisect.bisect_right(found, last)]


def untold(ranges: Ranges, events: Collection[Mapping[str, Any]]) -> Ranges:
    """Those that no event has told yet."""
    told = [
        one
        for event in events
        if event.get("kind") == KIND
        for one in event.get("ranges", [[event[end] for end in ("first", "last") if end in event]])
        if len(one) == 2
    ]
    return [(first, last) for first, last in ranges if not any(a <= first and last <= b for a, b in told)]


def describe(ranges: Ranges) -> str:
    """A sentence for people, after the name of a run."""
    named = shorten([f"{first:,} to {last:,}" for first, last in ranges], MAX_RANGES)
    return f"{METRICS_FILE} lacks the rows of steps {named}, which are done."


def record_lost_rows(start: Start, run: RunDirectory) -> dict[str, Any]:
    """Print and record that rows of steps before the restored one are not in metrics.jsonl, unless an earlier
    start did; returns what sessions.jsonl keeps of it. On the main process."""
    if start.description is None:
        return {}
    steps = [row["step"] for row in training_rows(read_metrics(run.path))]
    config = upgrade_config(start.description["config"])
    ranges = lost_rows(steps, start.step, config, read_sessions(run.path))
    ranges = untold(ranges, read_events(run.path))
    if not ranges:
        return {}
    with EventLog(run.path, start_step=start.step) as events:
        events.record(
            start.step,
            KIND,
            f"{run.name}/{describe(ranges)}",
            advice="Training is not affected; curves and the median speed are of the other steps.",
            first=ranges[0][0],
            last=ranges[-1][1],
            ranges=ranges,
        )
    return {KIND: ranges}
