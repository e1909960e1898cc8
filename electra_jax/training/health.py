"""Watches the rows of metrics of a run, and raises the alarms of alarms.py.

It works on the host, on rows that are written anyway: nothing is computed on the devices. Its state follows
from the rows, so a run that resumes raises the same alarms as one that was never interrupted.
"""

import math
from collections import deque
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from electra_jax.objectives.metrics import Detection
from electra_jax.training.alarm_conditions import TREND, Block, Finding, History, held_out_loss
from electra_jax.training.alarms import ALARMS, Alarm, advice
from electra_jax.training.events import EventLog
from electra_jax.training.run_facts import RunFacts
from electra_jax.training.step_rows import Row

EVALUATION, PROBE = "eval/", "probe/"
CLEAR = 3  # blocks or evaluations without the condition, before an alarm can be raised again
KIND = "alarm"  # of the events
REPORTED = "step", "name", "task"  # what identifies an alarm among the events of a run


class Raised(NamedTuple):
    """An alarm that was raised at a step, for a task of detection or for the whole run."""

    step: int
    alarm: Alarm
    task: str  # "rtd", or "" if it is not about one task
    finding: Finding

    @property
    def identity(self) -> tuple[Any, ...]:
        return self.step, self.alarm.name, self.task


class HealthMonitor:
    """Judges rows of metrics as they are written.

    Args:
      facts: of the run.
      events: gets an event for every alarm.
      rows: those of metrics.jsonl. A start, and a rollback, need a new monitor.
      reported: identities of the alarms that events.jsonl has. A crash between a row and its alarm is made up
        for: alarms of the last rows that it lacks are recorded now.
    """

    def __init__(
        self,
        facts: RunFacts,
        events: EventLog,
        rows: Sequence[Row],
        reported: Collection[tuple[Any, ...]] = (),
    ):
        self._facts, self._events, self._state = facts, events, _State(facts)
        for row in rows:
            for raised in self._state.take(row):
                if raised.step == rows[-1]["step"] and raised.identity not in reported:
                    self._record(raised)

    def observe(self, row: Row) -> None:
        """Judge a row that was just appended to metrics.jsonl.

        Raises:
          OSError: an event cannot be written.
        """
        for raised in self._state.take(row):
            self._record(raised)

    def _record(self, raised: Raised) -> None:
        self._events.record(
            raised.step,
            KIND,
            f"ALARM {raised.alarm.name}: {raised.finding.message}",
            advice=advice(raised.alarm, self._facts.settings_at(raised.step)),
            name=raised.alarm.name,
            task=raised.task,
            **raised.finding.figures,
        )


class _Standing:
    """Whether an alarm is raised, and for how long its condition has held or not."""

    def __init__(self) -> None:
        self.is_raised, self._bad, self._good = False, 0, 0

    def becomes_raised(self, is_bad: bool, hold: int) -> bool:
        """Count one more block; whether the alarm is raised by it."""
        self._bad, self._good = (self._bad + 1, 0) if is_bad else (0, self._good + 1)
        if self._good >= CLEAR:
            self.is_raised = False
        if self.is_raised or self._bad < hold:
            return False
        self.is_raised = True
        return True


class _State:
    """All that follows from the rows so far."""

    def __init__(self, facts: RunFacts):
        self._facts = facts
        self._rows: list[Row] = []  # of the block that is not full
        self._block_end = 0
        self._training: deque[Block] = deque(maxlen=TREND + 1)
        self._evaluations: deque[Block] = deque(maxlen=1)
        self._best: tuple[Block, Block | None] | None = None
        self._lowest_rates: dict[str, float] = {}
        self._standings: dict[tuple[str, str], _Standing] = {}

    def take(self, row: Row) -> list[Raised]:
        """Add a row; returns the alarms that it raises."""
        step = row["step"]
        if any(name.startswith(PROBE) for name in row):
            return []
        if any(name.startswith(EVALUATION) for name in row):
            self._evaluations.append(Block(step, _means([row], EVALUATION)))
            self._forget_other_stage()
            raised = self._judge(self._evaluations[-1], in_evaluations=True)
            self._note_best()
            return raised
        if not self._rows:
            self._block_end = self._facts.block_end(step)
        self._rows.append(row)
        if step < self._block_end:
            return []
        self._training.append(Block(step, _means(self._rows), len(self._rows)))
        self._rows = []
        self._note_rates()
        return self._judge(self._training[-1], in_evaluations=False)

    def _judge(self, block: Block, *, in_evaluations: bool) -> list[Raised]:
        history = History(list(self._training), list(self._evaluations), self._best, self._lowest_rates)
        raised = []
        for alarm, detection in _applicable(self._facts, block.means, in_evaluations):
            finding = alarm.judge(history, self._facts, detection)
            task = detection.name if detection else ""
            standing = self._standings.setdefault((alarm.name, task), _Standing())
            if standing.becomes_raised(finding is not None, alarm.hold):
                raised.append(Raised(block.step, alarm, task, finding))
        return raised

    def _forget_other_stage(self) -> None:
        """Held-out losses of another stage may be of other text."""
        stage_of, now = self._facts.stage_of, self._evaluations[-1].step
        # A stage evaluates before its first step, and the stage before it does not at its end.
        if self._best is not None and stage_of(self._best[0].step + 1) != stage_of(now + 1):
            self._best = None

    def _note_best(self) -> None:
        block = self._evaluations[-1]
        found = held_out_loss(block, self._facts)
        if found and (self._best is None or found[1] < self._best[0].means.get(found[0], math.inf)):
            self._best = block, self._training[-1] if self._training else None

    def _note_rates(self) -> None:
        block, facts = self._training[-1], self._facts
        if len(self._training) > 1 and facts.stage_of(self._training[-2].step) != facts.stage_of(block.step):
            self._lowest_rates = {}
        if block.step > facts.beginning_at(block.step):
            for rate in (detection.rate for detection in facts.detections):
                if rate in block.means:
                    lowest = self._lowest_rates.get(rate, math.inf)
                    self._lowest_rates[rate] = min(lowest, block.means[rate])


def _applicable(
    facts: RunFacts, means: Mapping[str, float], in_evaluations: bool
) -> Iterable[tuple[Alarm, Detection | None]]:
    """The alarms that read metrics which are there, each with the tasks that it is about."""
    for alarm in ALARMS:
        if alarm.in_evaluations != in_evaluations or alarm.name in facts.settings["health.silenced"]:
            continue
        for detection in (None,) if alarm.of_detection is None else facts.detections:
            needed = {*alarm.reads}
            if detection is not None:
                needed |= {detection.rate, *(f"{detection.name}_{part}" for part in alarm.of_detection)}
            if needed <= means.keys():
                yield alarm, detection


def _means(rows: Sequence[Row], prefix: str = "") -> dict[str, float]:
    """Name without the prefix → mean of its finite values; a name without any is left out."""
    values: dict[str, list[float]] = {}
    for row in rows:
        for name, value in row.items():
            if name.startswith(prefix) and name != "step" and value is not None:
                values.setdefault(name.removeprefix(prefix), []).append(value)
    return {name: sum(found) / len(found) for name, found in values.items()}


def describe_alarms(events: Sequence[Row]) -> str:
    """A line for the end of a run, from its events."""
    steps: dict[str, list[int]] = {}
    for event in events:
        if event["kind"] == KIND:
            task = f" ({event['task']})" if event.get("task") not in ("", None, "rtd") else ""
            steps.setdefault(f"{event.get('name', 'unnamed')}{task}", []).append(event["step"])
    if not steps:
        return "alarms: none"
    named = (f"{name} at step {', '.join(map(str, at))}" for name, at in steps.items())
    return f"alarms: {'; '.join(named)}"
