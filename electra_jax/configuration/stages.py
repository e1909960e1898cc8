"""The stages of a run: short rows first and long ones at the end, a growing batch, another mixture.

config.stages holds a pair for each stage after the first: the number of steps done before it, and the keys
that change with their new values:

    stages=((900_000, {"data.sequence_length": 512, "data.datasets": "data/rows_of_512"}),)

A stage inherits all other values from the stage before it. With config.data.sequence_length=0 its row length
is that of its own datasets, and `data.sequence_length` is optional. The learning-rate schedule is that of the
whole run, unless a stage names `optimizer.schedule`: that schedule begins with the stage and ends where the
next one begins.

KEYS is the table of what may change. A new key needs a row there; its values are checked by the table of
values (value_table.py). Every stage has a program of its own, so shapes may change, but not those of the
parameters and of the optimizer's state, which all stages share.
"""

import contextlib
import difflib
import itertools
from collections.abc import Iterator
from typing import Any, NamedTuple

from data_pipelines.problems import Problems, errors_in


class StageKey(NamedTuple):
    """A row of KEYS."""

    meaning: str  # of the change, and for a run that resumes; for the table in configs/README.md
    least: int | None = None  # a whole number, not below this; None: values of another type
    needs: str = ""  # key that the same stage has to change
    why: str = ""  # it has to, and what to do


SCHEDULE = "optimizer.schedule"
OWN_SCHEDULE = {
    "needs": SCHEDULE,
    "why": "a stage changes the learning rate by a schedule of its own. Add 'optimizer.schedule', which may "
    "be the one before.",
}
KEYS: dict[str, StageKey] = {
    "data.datasets": StageKey(
        "Rows come from these datasets. One that an earlier stage used continues where it stopped. Their "
        "paths may change when the run resumes."
    ),
    "data.weights": StageKey("Their shares of the examples read."),
    "data.sequence_length": StageKey(
        "Tokens per row.",
        least=0,
        needs="data.datasets",
        why="the rows of a dataset have one length. Add 'data.datasets', built with --sequence_length "
        "{value}.",
    ),
    "train.batch_size": StageKey("Rows per step.", least=1),
    "train.num_microbatches": StageKey(
        "Number of parts into which the batch is split. May differ when the run resumes.", least=1
    ),
    "objective.mask_prob": StageKey(
        "Share of the tokens that is predicted, in training and in evaluations: held-out losses before and "
        "after the change cannot be compared."
    ),
    "objective.denoisers": StageKey(
        "Another mixture of denoisers, with the same effect on held-out losses; () ends it."
    ),
    "model.rotary.global_theta": StageKey(
        "Base of the rotary wavelengths in global layers; larger for longer rows. Checkpoints are read with "
        "that of their stage."
    ),
    "model.rotary.local_theta": StageKey("The same for local layers."),
    SCHEDULE: StageKey(
        "A new schedule from this stage to the next one that names a schedule, or to the end. "
        "`--change_num_steps` changes the length of the last one only."
    ),
    "optimizer.learning_rate": StageKey("Peak of the stage's own schedule.", **OWN_SCHEDULE),
    "optimizer.discriminator_learning_rate": StageKey("The same for the discriminator.", **OWN_SCHEDULE),
    "optimizer.warmup_steps": StageKey(
        "Warm-up of that schedule, counted from the stage's first step. It is inherited: set it to 0, or the "
        "rate starts from 0 again.",
        **OWN_SCHEDULE,
    ),
    "optimizer.decay_steps": StageKey(
        "Length of the decay at the end of that schedule. Only `warmup_constant_linear` and "
        "`warmup_constant_sqrt` have it and the next two; with others they are refused.",
        **OWN_SCHEDULE,
    ),
    "optimizer.decay_share": StageKey(
        "The same as a share of its steps; an inherited decay_steps is then left out.", **OWN_SCHEDULE
    ),
    "optimizer.final_share": StageKey(
        "Rate at the end of the decay, as a share of the peak.", **OWN_SCHEDULE
    ),
}
EXAMPLE = """((900000, {"data.sequence_length": 512, "data.datasets": "data/rows_of_512"}),)"""


class Stage(NamedTuple):
    """A part of a run with one configuration."""

    first_step: int  # counted from 0
    end: int  # the step after its last
    config: dict[str, Any]  # the whole configuration, with this stage's changes

    @property
    def num_examples(self) -> int:
        """Number of rows that its steps train on."""
        return (self.end - self.first_step) * self.config["train"]["batch_size"]


def make_stages(config: dict[str, Any]) -> tuple[Stage, ...]:
    """The stages of a run in order, at least one; together they cover its steps 0 … train.num_steps - 1.

    Raises:
      ValueError: config.stages is malformed; names the entry and what is expected.
    """
    entries, num_steps = [_check_entry(entry) for entry in config["stages"]], config["train"]["num_steps"]
    starts = [0, *(first_step for first_step, _ in entries), num_steps]
    if entries and any(one >= other for one, other in itertools.pairwise(starts)):
        raise ValueError(
            f"config.stages: got stages from the steps {starts[1:-1]} on, expected growing numbers above 0 "
            f"and below config.train.num_steps={num_steps}."
        )
    stages = [Stage(0, starts[1], config)]
    for (first_step, changes), end in zip(entries, starts[2:], strict=True):
        with _named(first_step):
            stages.append(Stage(first_step, end, _changed(stages[-1].config, changes)))
    return tuple(stages)


def place_of(first_step: int) -> str:
    """Where config.stages describes the stage that begins with `first_step`, for errors."""
    return f"config.stages, in the stage from step {first_step} on"


def schedule_span(config: dict[str, Any], first_step: int) -> tuple[int, int]:
    """First step and end of the learning-rate schedule that holds at `first_step`.

    Args:
      config: a whole configuration with the length of the run; that of any of its stages.
    """
    starts = [0, *(step for step, changes in config["stages"] if SCHEDULE in changes)]
    later = [step for step in starts if step > first_step]
    return max(step for step in starts if step <= first_step), min([*later, config["train"]["num_steps"]])


def stage_at(config: dict[str, Any], num_done: int) -> Stage:
    """The stage of the last of `num_done` steps; the first stage if no step is done."""
    return next(stage for stage in make_stages(config) if num_done <= stage.end)


def last_stage(config: dict[str, Any]) -> dict[str, Any]:
    """The configuration of a run's last stage, without stages: used by runs that continue from this one."""
    return make_stages(config)[-1].config | {"stages": ()}


@contextlib.contextmanager
def stage_errors(stage: Stage) -> Iterator[None]:
    """Context that adds to a ValueError which stage it is about, unless it is the first."""
    try:
        yield
    except ValueError as error:
        if stage.first_step == 0:
            raise
        problems = Problems()
        for one in errors_in(error):
            problems.add_text(f"{place_of(stage.first_step)}: {one} Change that entry of config.stages.")
        problems.report()


@contextlib.contextmanager
def _named(first_step: int) -> Iterator[None]:
    """Context that adds to a ValueError which entry of config.stages it is about."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{place_of(first_step)}: {error}") from error


def _check_one_masking(objective: dict[str, Any]) -> None:
    """Raises ValueError for a new mask_prob beside denoisers, each of which has its own."""
    if denoisers := objective.get("denoisers"):
        raise ValueError(
            f"got objective.mask_prob={objective['mask_prob']!r} with denoisers {denoisers!r}, each of which "
            "has its own mask_prob, expected one of the two. Change 'objective.denoisers' instead, or set it "
            "to ()."
        )


def with_implied(changes: dict[str, Any]) -> dict[str, Any]:
    """The changes of a stage with those that follow from them."""
    # An inherited number of steps would hold in place of the share.
    return {"optimizer.decay_steps": 0} | changes if "optimizer.decay_share" in changes else changes


def _changed(config: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    for key, value in with_implied(changes).items():
        if key == "data.datasets" and isinstance(value, str):
            value = tuple(value.split(","))
        if key == "data.weights" and not isinstance(value, list | tuple):
            value = (value,)
        config = with_value(config, key, value)
    if "objective.mask_prob" in changes:
        _check_one_masking(config["objective"])
    return config


def with_value(section: dict[str, Any], key: str, value: Any, done: int = 0) -> dict[str, Any]:
    """A copy of `section` with `key` (a dotted path) set to `value`; `section` itself stays as it is.

    Args:
      done: how many names of the path lead to `section`.

    Raises:
      ValueError: the section has no such key.
    """
    name, *rest = key.split(".")[done:]
    if name not in section or (rest and not isinstance(section[name], dict)):
        raise ValueError(
            f"got {key!r}, expected a key that this run has: it has no {name!r}. Remove it from the stage."
        )
    return section | {name: with_value(section[name], key, value, done + 1) if rest else value}


def _check_entry(entry: Any) -> tuple[int, dict[str, Any]]:
    if (
        not isinstance(entry, list | tuple)
        or len(entry) != 2
        or not _is_count(entry[0], 1)
        or not isinstance(entry[1], dict)
    ):
        raise ValueError(
            f"config.stages: got {entry!r}, expected pairs of the step that a stage begins with, 1 or more, "
            f"and a dictionary of the keys that change, as in {EXAMPLE}."
        )
    first_step, changes = entry
    where = place_of(first_step)
    for key, value in changes.items():
        if key not in KEYS:
            near = difflib.get_close_matches(str(key), KEYS, n=1)
            raise ValueError(
                f"{where}: got {key!r}, expected one of {', '.join(KEYS)}."
                + (f" Did you mean {near[0]!r}?" if near else " Nothing else can change during a run.")
            )
        row = KEYS[key]
        if row.least is not None and not _is_count(value, row.least):
            raise ValueError(f"{where}: got {key}={value!r}, expected a number of {row.least} or more.")
    if not changes:
        raise ValueError(
            f"{where}: got no change, expected one or more of {', '.join(KEYS)}. Remove the stage."
        )
    for key, value in changes.items():
        if (needed := KEYS[key].needs) and needed not in changes:
            raise ValueError(
                f"{where}: got {key}={value!r} without {needed}, expected both: "
                f"{KEYS[key].why.format(value=value)}"
            )
    return first_step, changes


def _is_count(value: Any, smallest: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= smallest
