"""What a run does about numerical trouble (training/watch.py): evidence, events, rollbacks."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from electra_jax.distributed.stopping import StopNotice
from electra_jax.objectives.metrics import Metrics
from electra_jax.runs.bucket_runs import RunDirectory
from electra_jax.runs.compilation_cache import CompilationCache
from electra_jax.runs.incidents import Evidence
from electra_jax.runs.inputs import RunInputs
from electra_jax.runs.prepared_stages import PreparedStage
from electra_jax.runs.rollbacks import Rollbacks, next_rollback, record_rollback, resume_rollbacks
from electra_jax.training.checkpointing import Checkpointer
from electra_jax.training.events import EventLog
from electra_jax.training.watch import Incident, TroubleServices


class RunningPretraining(NamedTuple):
    """What stays the same from one rollback of a run to the next."""

    inputs: RunInputs
    run: RunDirectory
    checkpointer: Checkpointer
    rollbacks: Rollbacks
    stop: StopNotice
    probes: Sequence[Callable[[Any], Metrics] | None]  # of each stage
    programs: CompilationCache


def trouble_services(
    stage: PreparedStage,
    running: RunningPretraining,
    events: EventLog,
    read_params: Callable[[], tuple[Any, int]],
) -> TroubleServices:
    """What the watch over a stage's steps needs. `read_params`: as for `Evidence`."""
    checkpointer = running.checkpointer

    def last_saved() -> int | None:
        checkpointer.wait()
        return checkpointer.latest_step()

    return TroubleServices(
        stage.inputs.config["trouble"],
        Evidence(
            running.run.path, stage.batches, stage.program.row_losses, read_params, running.inputs.tokenizer
        ),
        events.record,
        last_saved,
    )


def roll_back(
    incident: Incident, evidence: str, stages: Sequence[PreparedStage], running: RunningPretraining
) -> Rollbacks:
    """Return to before a step in trouble; returns all rollbacks of the run. The checkpoints that remain are
    those to resume from.

    Raises:
      NumericalTroubleError: config.trouble allows no more rollbacks.
    """
    run, checkpointer = running.run, running.checkpointer
    stage = next(one.inputs for one in stages if incident.step <= one.inputs.end)
    rollback = next_rollback(
        incident, evidence, running.rollbacks, running.inputs.config["trouble"], stage.first_step
    )
    checkpointer.wait()
    run.check_writer()
    record_rollback(run.path, (*running.rollbacks, rollback))
    run.publish()
    return resume_rollbacks(run.path, checkpointer)
