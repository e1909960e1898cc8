"""The rollbacks of a run: it returns to an earlier step and passes over the batches since then.

A rollback follows from the step in trouble, config.trouble and the rollbacks before it, never from the
checkpoints that happen to exist: the run resumes from any checkpoint of the step that it returns to or before
it, repeats the steps in between, and from then on takes other batches. So a run that is killed at any moment
ends like one that was not. If nothing to resume from would remain, there is no rollback, and the run ends.

ROLLBACKS_FILE lists them, and every checkpoint has those of its past in its description ("rollbacks"). A
rollback counts from the moment the file has it; checkpoints of what it undid are removed once the one to
resume from is found, by the next start if this one is killed.
"""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from data_pipelines.batch_order import PassedOver
from data_pipelines.json_files import read_json, write_json
from electra_jax.distributed.processes import barrier, exchange, is_main_process
from electra_jax.runs.agreed_problems import agreed_problem
from electra_jax.runs.directory import ROLLBACKS
from electra_jax.training.checkpointing import Checkpointer
from electra_jax.training.events import EventLog, read_events
from electra_jax.training.trouble import ROLLBACK
from electra_jax.training.watch import Incident, NumericalTroubleError

ROLLBACKS_FILE = "rollbacks.json"
ADVICE = "Put the file of this run back, or remove it: checkpoints know their rollbacks, too."


class Rollback(NamedTuple):
    """One return to an earlier step."""

    step: int  # of the update in trouble, from 1
    to: int  # number of updates done where the run continues; batches to … step - 1 (from 0) are passed over
    because: str  # sentences

    @property
    def passed_over(self) -> PassedOver:
        """The batches that it leaves out."""
        return PassedOver(self.to, self.step - self.to)


Rollbacks = tuple[Rollback, ...]


def next_rollback(
    incident: Incident, evidence: str, rollbacks: Rollbacks, trouble: dict[str, Any], first_step: int
) -> Rollback:
    """The rollback because of `incident`: config.trouble.rollback_steps back from before its step, but not
    beyond the first step of its stage, and not beyond where the last rollback returned to, unless the step
    itself is before that: under another policy it was no reason to return.

    Raises:
      NumericalTroubleError: there were config.trouble.max_rollbacks already.
    """
    if len(rollbacks) >= trouble["max_rollbacks"]:
        raise NumericalTroubleError(
            f"{incident.description}, and the run was rolled back {len(rollbacks)} times, as often as "
            f"config.trouble.max_rollbacks allows. {evidence} Lower config.optimizer.learning_rate in a new "
            "run, or look for what the incidents have in common. With a higher config.trouble.max_rollbacks "
            "the run resumes."
        )
    earliest = max(first_step, rollbacks[-1].to if rollbacks else 0)
    return Rollback(
        incident.step,
        min(max(incident.step - 1 - trouble["rollback_steps"], earliest), incident.step - 1),
        f"{incident.description}. {evidence}",
    )


def reach_of(trouble: dict[str, Any]) -> int:
    """Number of steps that a run with this config.trouble may return by; 0 if it never does."""
    may_return = ROLLBACK in (trouble["on_nonfinite"], trouble["on_spike"])
    return trouble["rollback_steps"] if may_return else 0


def passed_over(rollbacks: Rollbacks, first_step: int, end: int) -> tuple[PassedOver, ...]:
    """The batches that rollbacks left out in the stage of the steps first_step … end - 1."""
    return tuple(one.passed_over for one in rollbacks if first_step <= one.to < end)


def describe_rollbacks(description: dict[str, Any], rollbacks: Rollbacks) -> dict[str, Any]:
    """The description of checkpoints saved after `rollbacks`."""
    return description | {ROLLBACKS: [list(one) for one in rollbacks]} if rollbacks else description


def record_rollback(workdir: Path, rollbacks: Rollbacks) -> None:
    """Write ROLLBACKS_FILE, on the main process. Remove what `find_undone` names afterwards."""
    if is_main_process():
        write_json(workdir / ROLLBACKS_FILE, [one._asdict() for one in rollbacks])
    barrier("rollback recorded")


def resume_rollbacks(workdir: Path, checkpointer: Checkpointer) -> tuple[Rollbacks, tuple[int, ...]]:
    """The rollbacks of a run so far, and what they undid, as `find_undone` finds it.

    Raises:
      ValueError: ROLLBACKS_FILE cannot be read, or is that of another run.
      OSError: a checkpoint cannot be read.
    """
    # A shared file system may show the hosts different files; what process 0 sees holds for all.
    listed = exchange(read_rollbacks(workdir) if is_main_process() else ())[0]
    return find_undone(_parse(listed, workdir), workdir, checkpointer)


def find_undone(
    rollbacks: Rollbacks, workdir: Path, checkpointer: Checkpointer
) -> tuple[Rollbacks, tuple[int, ...]]:
    """`rollbacks`, or those of a checkpoint that has more of them, which ROLLBACKS_FILE then gets, and the
    steps of the whole checkpoints that do not belong to the past of the run any longer, the newest first.
    Nothing is removed. Every process must call this, with the same rollbacks; all get the same answer. Raises
    as `resume_rollbacks` does."""
    found, undone = _compare(rollbacks, _listed_in(checkpointer), workdir)
    if found != rollbacks:  # the file was lost
        record_rollback(workdir, found)
    return found, undone


def _listed_in(checkpointer: Checkpointer) -> Iterator[tuple[int, list]]:
    """(step, rollbacks as JSON) of the whole checkpoints, the newest first, the same on all processes."""
    for step in exchange(checkpointer.all_steps())[0][::-1]:
        if not agreed_problem(checkpointer, step):  # resuming.py sets the others aside
            yield step, exchange(checkpointer.inspect(step).description.get(ROLLBACKS, []))[0]


def read_undone(workdir: Path, checkpointer: Checkpointer) -> tuple[int, ...]:
    """The steps that `find_undone` finds, for a command that only reads the run: no file but the descriptions
    is read, none is written, and no process waits for another. Raises as `resume_rollbacks` does."""
    rollbacks = read_rollbacks(workdir)
    if not rollbacks:  # also without the file: no checkpoint is saved before those undone are removed
        return ()
    described = ((step, checkpointer.saved_description(step)) for step in checkpointer.all_steps()[::-1])
    listed = ((step, saved.get(ROLLBACKS, [])) for step, saved in described if saved)
    return _compare(rollbacks, listed, workdir)[1]


def agreed_undone(workdir: Path, checkpointer: Checkpointer) -> tuple[int, ...]:
    """`read_undone` as process 0 sees it. Every process must call this; all get the same answer or error."""
    undone, problem = (), ""
    if is_main_process():
        try:
            undone = read_undone(workdir, checkpointer)
        except (OSError, ValueError) as error:
            problem = str(error)
    undone, problem = exchange((undone, problem))[0]
    if problem:
        raise ValueError(problem)
    return tuple(undone)


def _compare(
    rollbacks: Rollbacks, checkpoints: Iterable[tuple[int, list]], workdir: Path
) -> tuple[Rollbacks, tuple[int, ...]]:
    """What `find_undone` returns. `checkpoints`: steps and their rollbacks as JSON, the newest first."""
    undone = []
    for step, listed in checkpoints:
        saved = _parse(listed, workdir)
        common = min(len(saved), len(rollbacks))
        if saved[:common] != rollbacks[:common]:
            raise ValueError(
                f"{workdir / ROLLBACKS_FILE}: got {len(rollbacks)} rollbacks, but the checkpoint of step "
                f"{step} has others. Put the file of this run back, or remove it: the checkpoint has its own."
            )
        if len(saved) > len(rollbacks):
            rollbacks = saved
        if all(step <= later.to for later in rollbacks[len(saved) :]):
            break  # and so do the older ones
        undone.append(step)
    return rollbacks, tuple(undone)


def record_events(workdir: Path, rollbacks: Rollbacks, events: EventLog) -> None:
    """Write an event for each rollback that has none yet."""
    if not is_main_process():
        return
    known = {
        (event["step"], event.get("to")) for event in read_events(workdir) if event["kind"] == "rolled_back"
    }
    for one in rollbacks:
        if (one.step, one.to) not in known:
            events.record(
                one.step,
                "rolled_back",
                f"{one.because} The run returned to step {one.to} and passes over the batches that the steps "
                f"{one.to + 1} … {one.step} had.",
                to=one.to,
                batches=one.step - one.to,
            )


def read_rollbacks(workdir: Path) -> Rollbacks:
    """What ROLLBACKS_FILE lists; () without it. Raises ValueError as `resume_rollbacks` does."""
    path = workdir / ROLLBACKS_FILE
    try:
        rows = read_json(path, [{"step": int, "to": int, "because": str}], advice=ADVICE)
    except FileNotFoundError:
        return ()
    return _parse([[row[name] for name in Rollback._fields] for row in rows], workdir)


def _parse(rows: Sequence[Sequence[Any]], workdir: Path) -> Rollbacks:
    """From JSON."""
    rollbacks = tuple(Rollback(int(step), int(to), str(because)) for step, to, because in rows)
    if any(not 0 <= one.to < one.step for one in rollbacks):
        raise ValueError(
            f"{workdir / ROLLBACKS_FILE}: got {rollbacks}, expected steps after those returned to."
        )
    return rollbacks
