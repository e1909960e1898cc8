"""What a run does about numerical trouble (training/watch.py): evidence, events, rollbacks."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from electra_jax.distributed.processes import exchange
from electra_jax.distributed.stopping import StopNotice
from electra_jax.objectives.metrics import Metrics
from electra_jax.runs.bucket_runs import RunDirectory
from electra_jax.runs.compilation_cache import CompilationCache
from electra_jax.runs.incidents import Evidence
from electra_jax.runs.inputs import RunInputs
from electra_jax.runs.prepared_stages import PreparedStage
from electra_jax.runs.resuming import find_start
from electra_jax.runs.rollbacks import Rollback, Rollbacks, find_undone, next_rollback, record_rollback
from electra_jax.runs.start_step import start_problem
from electra_jax.training.checkpointing import Checkpointer
from electra_jax.training.events import EventLog
from electra_jax.training.watch import Incident, NumericalTroubleError, TroubleServices


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
      NumericalTroubleError: config.trouble allows no more rollbacks, no checkpoint is left to resume from, or
        the run would start from its beginning and a run that this needs is gone. Nothing was changed.
    """
    run, checkpointer = running.run, running.checkpointer
    stage = next(one.inputs for one in stages if incident.step <= one.inputs.end)
    rollback = next_rollback(
        incident, evidence, running.rollbacks, running.inputs.config["trouble"], stage.first_step
    )
    rollback = Rollback(*exchange(rollback)[0])  # process 0 alone knows the file of the evidence
    checkpointer.wait()
    run.check_writer()
    rollbacks, undone = find_undone((*running.rollbacks, rollback), run.path, checkpointer)
    _check_remains(rollback, undone, running)
    record_rollback(run.path, rollbacks)
    run.publish()
    for step in undone:
        checkpointer.remove(step)
    return rollbacks


def _check_remains(rollback: Rollback, undone: tuple[int, ...], running: RunningPretraining) -> None:
    """Raises NumericalTroubleError unless there is something to resume or start from without the checkpoints
    that `rollback` undoes."""
    cause = None
    try:
        start = find_start(running.checkpointer, running.inputs, running.run, undone=undone)
        reason = "" if start.step else start_problem(running.inputs.config)
    except (OSError, ValueError) as error:
        cause, reason = error, str(error)
        if undone:
            reason = (
                f"the oldest checkpoint that is whole is of step {undone[-1]}. Older ones are damaged, or "
                "were not kept or saved with the config.trouble and config.checkpoint of that time."
            )
    if not reason:
        return
    advice = ""
    if undone:
        most = rollback.step - 1 - undone[-1]
        advice = " Nothing was changed. Run the same command again with " + (
            f"config.trouble.rollback_steps of at most {most}."
            if most
            else "another policy of config.trouble, or with another optimizer.learning_rate in a new run."
        )
    raise NumericalTroubleError(
        f"{rollback.because} The run cannot return to step {rollback.to}: {reason}{advice}"
    ) from cause
