"""The health monitor of a run."""

import functools
from collections.abc import Callable
from pathlib import Path

from electra_jax.configuration.stages import schedule_span
from electra_jax.runs.data_passes import most_passes
from electra_jax.runs.inputs import RunInputs
from electra_jax.training.events import EventLog, read_events
from electra_jax.training.health import KIND, REPORTED, HealthMonitor
from electra_jax.training.run_facts import make_facts
from electra_jax.training.step_rows import Row
from electra_jax.training.writers import read_metrics


def health_of(inputs: RunInputs, workdir: Path, events: EventLog) -> Callable[[Row], None]:
    """What judges the rows of metrics of a run, for `MetricWriters`; nothing does with
    config.health.alarms=False. metrics.jsonl and events.jsonl hold no rows of lost steps."""
    if not inputs.config["health"]["alarms"]:
        return lambda row: None
    facts = make_facts(
        inputs.config,
        stage_starts=[stage.first_step for stage in inputs.stages],
        stage_configs=[stage.config for stage in inputs.stages],
        schedule_starts=[schedule_span(stage.config, stage.first_step)[0] for stage in inputs.stages],
        passes=functools.partial(most_passes, inputs.stages),
    )
    reported = {
        tuple(event.get(key) for key in REPORTED) for event in read_events(workdir) if event["kind"] == KIND
    }
    return HealthMonitor(facts, events, read_metrics(workdir), reported).observe
