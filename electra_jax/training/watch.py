"""What the host does about steps in numerical trouble (trouble.py): it stops, notes that they were left out,
or asks for a rollback.

Nothing waits for the devices here. The loop hands over what a step returns, and reads the verdicts where it
waits anyway: before it writes a row, evaluates or saves. All processes see the same numbers, and so decide
the same.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, NoReturn

import jax

from electra_jax.training.step import NO_STEP
from electra_jax.training.trouble import IGNORE, NONFINITE, OF_STEP, ROLLBACK, SPIKE, STOP, is_guarded

KINDS = {NONFINITE: "nonfinite", SPIKE: "spike"}
REMEDY = (
    "Lower config.optimizer.learning_rate, lengthen config.optimizer.warmup_steps, or inspect those rows; "
    "config.trouble says what a run does about such a step."
)
MAX_REMEMBERED = 256  # steps of which a run without a guard still knows its gradient norms


class Incident(NamedTuple):
    """A step in trouble."""

    step: int  # the number of its update, from 1
    kind: str  # "nonfinite" or "spike"
    numbers: dict[
        str, float
    ]  # of the step, as far as they are known: loss, gradient norms, mean and deviation
    skips_in_a_row: int  # with this step; 0 if its update was made

    @property
    def description(self) -> str:
        """A sentence without its end."""
        if self.kind == "nonfinite":
            return f"The gradient or update of step {self.step} is not finite"
        loss, mean, deviation = (self.numbers[name] for name in ("loss", "mean", "deviation"))
        return f"The loss of step {self.step} is a spike: {loss:.4g}, after {mean:.4g} ± {deviation:.2g}"


class NumericalTroubleError(FloatingPointError):
    """A step in trouble ended the run."""


class NonFiniteLossError(NumericalTroubleError):
    """The loss or a gradient became NaN or infinite."""


class LossSpikeError(NumericalTroubleError):
    """The loss was far above its own past."""


class RollBack(Exception):
    """The run has to return to an earlier step, because of `incident`, of which `evidence` was kept.
    `is_stopping`: and to stop then, as it was told to."""

    def __init__(self, incident: Incident, evidence: str):
        super().__init__(incident.description)
        self.incident, self.evidence, self.is_stopping = incident, evidence, False


class TroubleServices(NamedTuple):
    """What a watch needs of the run."""

    settings: dict[str, Any]  # config.trouble
    # (incident, a later state, or None if it is not finite) → where the evidence is, a sentence. It is called
    # by all processes.
    keep_evidence: Callable[[Incident, Any], str] = lambda incident, state: ""
    # (step, kind, message, **values): writes an event
    record: Callable[..., None] = lambda step, kind, message, **values: None
    last_saved: Callable[[], int | None] = lambda: None  # waits for the newest checkpoint


OFF = TroubleServices({"on_nonfinite": STOP, "on_spike": IGNORE})


class Watch:
    """Judges the steps of a loop.

    Args:
      state: from which the loop starts.
    """

    def __init__(self, services: TroubleServices, state: Any):
        self._services, self._settings = services, services.settings
        self._is_guarded = is_guarded(services.settings)
        self._num_skipped = int(state.guard["skipped"]) if self._is_guarded else 0
        self._sums: dict[int, Any] = {}  # step → what it returned, of steps that are not judged

    def note(self, step: int, sums: Any) -> None:
        """Remember what step `step`, from 1, returned. Nothing is copied to the host."""
        if self._is_guarded:
            needed = lambda name: name.startswith(OF_STEP) or name == "skipped"
        else:
            needed = lambda name: name.startswith("gradient_norm") or name in ("loss", "steps")
            self._sums.pop(step - MAX_REMEMBERED, None)
        self._sums[step] = {name: value for name, value in sums.items() if needed(name)}

    def check(self, step: int, sums: dict[str, Any], state: Any) -> None:
        """Judge all steps up to `step`, which is done on the devices.

        Args:
          sums: what it returned, on the host.
          state: the newest, of the last step dispatched.

        Raises:
          NumericalTroubleError, RollBack: as config.trouble asks.
        """
        if self._is_guarded:
            self._check_guarded(step, sums, state)
        elif (bad := int(sums["nonfinite_step"])) != NO_STEP:
            self._stop(Incident(bad, "nonfinite", self._norms_of(bad), 0), None)
        for judged in [one for one in self._sums if one <= step - 1]:  # `step` itself for differences
            del self._sums[judged]

    def _check_guarded(self, step: int, sums: dict[str, Any], state: Any) -> None:
        if int(sums["skipped"]) == self._num_skipped:
            return
        for number in sorted(self._sums):
            if number <= step and int(self._sums[number]["skipped"]) > self._num_skipped:
                self._num_skipped += 1
                self._act(self._incident(number), state)

    def _incident(self, step: int) -> Incident:
        """Of a step that was left out."""
        found = {
            name.removeprefix(OF_STEP): float(value)
            for name, value in jax.device_get(self._sums[step]).items()
            if name != "skipped"
        }
        kind, skips = KINDS[int(found.pop("verdict"))], int(found.pop("skips_in_a_row"))
        return Incident(step, kind, found, skips)

    def _act(self, incident: Incident, state: Any) -> None:
        policy = self._settings[f"on_{incident.kind}"]
        if policy == STOP:
            self._stop(incident, state)
        evidence = self._services.keep_evidence(incident, state)
        if policy == ROLLBACK:
            raise RollBack(incident, evidence)
        self._services.record(
            incident.step,
            "skipped",
            f"{incident.description}. Its update was left out. {evidence}",
            trouble=incident.kind,
            skips_in_a_row=incident.skips_in_a_row,
        )
        if incident.skips_in_a_row > self._settings["max_skips"]:
            raise NumericalTroubleError(
                f"{incident.description}. Now {incident.skips_in_a_row} steps in a row were left out; "
                f"config.trouble.max_skips allows {self._settings['max_skips']}. {evidence} "
                f"{self._kept()}{REMEDY} With a higher config.trouble.max_skips the run resumes."
            )

    def _stop(self, incident: Incident, state: Any) -> NoReturn:
        evidence = self._services.keep_evidence(incident, state)
        self._services.record(
            incident.step, incident.kind, f"{incident.description}. The run stops. {evidence}", advice=REMEDY
        )
        error = NonFiniteLossError if incident.kind == "nonfinite" else LossSpikeError
        raise error(f"{incident.description}. {evidence} {self._kept()}{REMEDY}")

    def _kept(self) -> str:
        return f"The last good checkpoint is of step {self._services.last_saved()}. "

    def _norms_of(self, step: int) -> dict[str, float]:
        """The gradient norms of a step, from the sums of its window before and after it; {} if these are not
        remembered."""
        if step not in self._sums:
            return {}
        after, before = jax.device_get((self._sums[step], self._sums.get(step - 1)))
        if float(after.pop("steps")) == 1:  # the first step of its window
            return {name: float(value) for name, value in after.items()}
        return {name: float(value) - float(before[name]) for name, value in after.items()} if before else {}
