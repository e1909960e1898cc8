"""The stages of a run: short rows first and long ones at the end, a growing batch, another mixture.

config.stages holds a pair for each stage after the first: the number of steps done before it, and the keys
that change with their new values:

    stages=((900_000, {"data.sequence_length": 512, "data.datasets": "data/rows_of_512"}),)

A stage inherits all other values from the stage before it. With config.data.sequence_length=0 its row length
is that of its own datasets, and need not be given. The learning-rate schedule is that of the whole
run.
"""

import contextlib
import difflib
import itertools
from collections.abc import Iterator
from typing import Any, NamedTuple

from data_pipelines.problems import Problems, errors_in

# The keys that a stage may change. Those in COUNTS take a whole number, not below the one here.
COUNTS = {"data.sequence_length": 0, "train.batch_size": 1, "train.num_microbatches": 1}
KEYS = ("data.datasets", "data.weights", *COUNTS)
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
        stages.append(Stage(first_step, end, _changed(stages[-1].config, changes)))
    return tuple(stages)


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
            problems.add_text(
                f"config.stages, in the stage from step {stage.first_step} on: {one} Change that entry of "
                "config.stages."
            )
        problems.report()


def _changed(config: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    for key, value in changes.items():
        section, name = key.split(".")
        if key == "data.datasets" and isinstance(value, str):
            value = tuple(value.split(","))
        if key == "data.weights" and not isinstance(value, list | tuple):
            value = (value,)
        config = config | {section: config[section] | {name: value}}
    return config


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
    where = f"config.stages, in the stage from step {first_step} on"
    for key, value in changes.items():
        if key not in KEYS:
            near = difflib.get_close_matches(str(key), KEYS, n=1)
            raise ValueError(
                f"{where}: got {key!r}, expected one of {', '.join(KEYS)}."
                + (f" Did you mean {near[0]!r}?" if near else " Nothing else can change during a run.")
            )
        if key in COUNTS and not _is_count(value, COUNTS[key]):
            raise ValueError(f"{where}: got {key}={value!r}, expected a number of {COUNTS[key]} or more.")
    if not changes:
        raise ValueError(
            f"{where}: got no change, expected one or more of {', '.join(KEYS)}. Remove the stage."
        )
    if "data.sequence_length" in changes and "data.datasets" not in changes:
        raise ValueError(
            f"{where}: got data.sequence_length={changes['data.sequence_length']} without data.datasets, "
            "expected both: the rows of a dataset have one length. Add 'data.datasets', built with "
            f"--sequence_length {changes['data.sequence_length']}."
        )
    return first_step, changes


def _is_count(value: Any, smallest: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= smallest
