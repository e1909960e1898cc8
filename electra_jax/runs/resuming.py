"""Where a run resumes: at its newest checkpoint that is whole and was saved with its settings. Newer ones
that are not are set aside, and the run prints and records it. Those that rollbacks undid are removed, once it
is known that another one remains."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from electra_jax.distributed.processes import exchange, is_main_process
from electra_jax.runs.agreed_problems import agreed_problem
from electra_jax.runs.bucket_runs import RunDirectory
from electra_jax.runs.changed_length import recorded_length
from electra_jax.runs.directory import differences
from electra_jax.runs.inputs import RunInputs
from electra_jax.runs.provenance import read_sessions
from electra_jax.runs.rollbacks import ROLLBACKS_FILE, read_rollbacks
from electra_jax.runs.saved_states import restore_state
from electra_jax.runs.start_step import start_problem
from electra_jax.runs.trained import NO_CHECKSUMS, read_description
from electra_jax.training.checkpointing import Checkpointer, UnusableCheckpoint
from electra_jax.training.events import EventLog
from electra_jax.training.writers import METRICS_FILE, read_metrics, training_rows


class Rejected(NamedTuple):
    """A checkpoint that a run does not resume from."""

    step: int
    reason: str  # words that name a file or a setting


class Start(NamedTuple):
    """Where a run starts or resumes."""

    step: int  # 0: at its beginning
    rejected: tuple[Rejected, ...] = ()  # newer checkpoints, the newest first
    state: Any = None  # restored; None at the beginning, or if none was wanted
    description: dict[str, Any] | None = None  # that the checkpoint was saved with
    undone: tuple[int, ...] = ()  # checkpoints that rollbacks undid, and that are still there


def find_start(
    checkpointer: Checkpointer,
    inputs: RunInputs,
    run: RunDirectory,
    abstract_state: Any = None,
    undone: tuple[int, ...] = (),
) -> Start:
    """The newest checkpoint that may be resumed from, and its state if `abstract_state` is given. Every
    process must call this; all get the same answer. Nothing is renamed, removed or written.

    Args:
      undone: checkpoints that do not count, as rollbacks undid them (`find_undone`).

    Raises:
      ValueError: the checkpoints were saved with other settings or of other data.
      OSError: no checkpoint is whole, the run has lost all of them, or a file cannot be read.
    """
    steps = [step for step in exchange(checkpointer.all_steps())[0] if step and step not in undone]
    if not steps:
        _check_may_begin(checkpointer, inputs, run, undone)
        return Start(0, undone=undone)
    rejected: list[Rejected] = []
    others: list[str] | None = None  # settings of the newest whole checkpoint, if they are not the run's
    for step in reversed(steps):
        reason = agreed_problem(checkpointer, step)
        if not reason:
            description = checkpointer.inspect(step).description
            lines = exchange(_differences(description, inputs, run.path))[0]
            if lines:
                others = others or lines
                reason = f"it was saved by a run with other settings: {lines[0]}"
        if not reason and abstract_state is not None:
            state, reason = _try_to_restore(checkpointer, step, abstract_state, run)
        if not reason:
            state = None if abstract_state is None else state
            return Start(step, tuple(rejected), state, description, undone)
        rejected.append(Rejected(step, reason))
    if others:
        raise ValueError(
            "\n".join([f"{run.name}: its checkpoints were saved with other settings:", *_indented(others)])
            + "\nconfig.json was lost or changed, or the checkpoints are of another run. Give the settings "
            "that they were saved with, or another --workdir."
        )
    lines = [f"step {one.step}: {one.reason}" for one in rejected]
    raise OSError(
        "\n".join([f"{run.name}: no checkpoint can be resumed from:", *_indented(lines)])
        + f"\nCopy one from a backup to {run.name}/checkpoints/STEP, or start over with another --workdir."
        + _about_undone(undone)
    )


def _indented(lines: list[str]) -> list[str]:
    return [f"  {line}" for line in lines]


def _try_to_restore(
    checkpointer: Checkpointer, step: int, abstract_state: Any, run: RunDirectory
) -> tuple[Any, str]:
    """(state, ""), or (None, why it cannot be restored) for a checkpoint whose damage only this shows."""
    has_checksums = checkpointer.inspect(step).has_checksums
    if not has_checksums and is_main_process():
        print(f"{run.name}: the checkpoint of step {step} {NO_CHECKSUMS}", file=sys.stderr)
    try:
        return restore_state(checkpointer, step, abstract_state), ""
    except UnusableCheckpoint as error:
        if has_checksums:
            raise
        return None, error.reason


def _differences(saved: dict[str, Any], inputs: RunInputs, workdir: Path) -> list[str]:
    """The settings and data of a checkpoint that are not the run's."""
    if "config" not in saved:
        return ["it has no configuration"]
    lengths = {recorded_length(workdir)}
    for session in read_sessions(workdir):
        lengths |= set(session.get("num_steps", ()))
    num_steps = saved["config"]["train"]["num_steps"]
    return differences(saved, inputs.description, any_length=inputs.changes_length or num_steps in lengths)


def _about_undone(undone: Sequence[int]) -> str:
    if not undone:
        return ""
    steps = ", ".join(map(str, reversed(undone)))
    return (
        f" Nothing was removed: {ROLLBACKS_FILE} undid the checkpoints of steps {steps}. Without that file "
        "the run resumes from them."
    )


def _check_may_begin(
    checkpointer: Checkpointer, inputs: RunInputs, run: RunDirectory, undone: Sequence[int]
) -> None:
    """Raises OSError unless a run that has no checkpoint, or only `undone` ones, has to start from its
    beginning."""
    if not undone:
        _check_is_new(run)
        return
    # The first checkpoint that a run makes is of at most that step. If the oldest one is later, there were
    # others that a rollback could return to, and checkpoint.keep, which did not expect it, removed them.
    configs = (inputs.config, checkpointer.inspect(undone[-1]).description.get("config", inputs.config))
    if exchange(undone[-1] > min(config["checkpoint"]["every"] for config in configs))[0]:
        raise FileNotFoundError(
            f"{run.name}: no checkpoint is left that its rollbacks could return to. Copy an older one back "
            f"to {run.name}/checkpoints/STEP.{_about_undone(undone)}"
        )


def check_beginning(start: Start, inputs: RunInputs, run: RunDirectory) -> None:
    """Raises OSError if rollbacks undid all checkpoints of a run and the state before its first step cannot
    be made. Every process must call this, before `leave_behind`."""
    if start.undone and not start.step and (problem := start_problem(inputs.config)):
        raise FileNotFoundError(f"{run.name}: {problem}{_about_undone(start.undone)}")


def _check_is_new(run: RunDirectory) -> None:
    """Raises OSError if the run once had checkpoints: it would start over and overwrite its own rows."""
    started = [session["start_step"] for session in read_sessions(run.path) if session.get("start_step")]
    done = max((row["step"] for row in training_rows(read_metrics(run.path))), default=0)
    if (run.path / "config.json").is_file():
        every = read_description(run.path)["config"]["checkpoint"]["every"]
        # The checkpoint before is complete when one is saved.
        started += [done] if done > 2 * every else []
        # The run may have returned to before its first checkpoint. What it did until then does not count.
        until = max((one.step for one in read_rollbacks(run.path) if one.to < every), default=0)
        started = [step for step in started if step >= until]
    if exchange(bool(started))[0]:
        raise FileNotFoundError(
            f"{run.name}: got no checkpoint, but {METRICS_FILE} and sessions.jsonl are of a run that had "
            f"done {max([done, *started]):,} steps. Copy its checkpoints back to "
            f"{run.name}/checkpoints, or start over with another --workdir."
        )


def leave_behind(start: Start, checkpointer: Checkpointer, run: RunDirectory) -> dict[str, Any]:
    """Remove the checkpoints that were undone and rename the rejected ones, print and record these; returns
    what sessions.jsonl keeps of it. Every process must call this."""
    for step in start.undone:
        checkpointer.remove(step)
    if not start.rejected:
        return {}
    names = [checkpointer.set_aside(one.step) for one in start.rejected]
    record = [one._asdict() | {"now": name} for one, name in zip(start.rejected, names, strict=True)]
    told = "; ".join(f"{one['step']} ({one['reason']}) is now checkpoints/{one['now']}" for one in record)
    plural = "s" if len(record) > 1 else ""
    with EventLog(run.path, start_step=start.step, is_writer=is_main_process()) as events:
        events.record(
            start.step,
            "fell_back",
            f"{run.name} falls back to its checkpoint of this step. Checkpoint{plural} {told}.",
            advice="Nothing was deleted. Check the disk, and remove what was set aside.",
            checkpoints=record,
        )
    return {"fell_back": record}
