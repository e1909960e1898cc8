"""Checks of a run directory: whether a configuration and its data belong to the run in it, and whether that
run is complete."""

import fnmatch
import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from flax.traverse_util import flatten_dict

from data_pipelines.json_files import Maybe, misread, read_json
from electra_jax.configuration.checkpoint_names import is_same_checkpoint
from electra_jax.configuration.migration import upgrade_config
from electra_jax.configuration.resolve import dataset_values
from electra_jax.configuration.stages import make_stages
from electra_jax.training.writers import read_metrics

README = "electra_jax/runs/README.md#resuming"


class MayChange(NamedTuple):
    """Settings that may differ when a run resumes."""

    keys: tuple[str, ...]  # patterns of fnmatch, without "config."; in config.stages they may differ, too
    reason: str  # for the table in the README


MAY_CHANGE = (
    MayChange(
        ("data.datasets",),
        "The place of the same data, which its fingerprints show. Their number and order stay.",
    ),
    MayChange(("data.prefetch",), "How many batches are read ahead. The batch of a step stays the same."),
    MayChange(
        ("train.num_microbatches",),
        "How the batch is cut. Losses stay the same to rounding, dropout included.",
    ),
    MayChange(("train.layers", "train.remat"), "How layers are compiled, and what is computed twice."),
    MayChange(("train.attention",), "The form of attention. Losses are the same to rounding."),
    MayChange(("train.compilation_cache",), "Where compiled programs are kept."),
    MayChange(
        ("train.gradient_dtype",), "How gradients cross the network. `bfloat16` rounds them from then on."
    ),
    MayChange(("mesh.*",), "The devices. Losses are the same to a relative 1e-5 on any mesh."),
    MayChange(("checkpoint.every", "checkpoint.keep"), "Which checkpoints there are."),
    MayChange(
        ("trouble.*",),
        "What is done about steps in numerical trouble, from then on.",
    ),
    MayChange(("eval.*", "probe.*"), "Measurements. They do not affect training."),
    MayChange(("log.*", "health.*"), "Reports and alarms."),
    MayChange(
        ("task.train", "task.validation", "task.test"),
        "Of a fine-tuning: the place of the same files, which its fingerprints show.",
    ),
)
LENGTH = "config.train.num_steps"
INITIAL = "config.checkpoint.init_from"  # see `is_same_checkpoint`
TEACHERS = "config.objective.teachers"
# Described from the teachers' names, and long (runs/teachers.py): the names differ if these do.
TEACHER_MODELS = "config.objective.teacher_models"
STAGES = "config.stages"
HINTS = {
    INITIAL: ". Give the former, even if it has moved: a resumed run does not read it",
    TEACHERS: ". Give the former, even if they have moved: a run with a checkpoint does not read them",
    LENGTH: ". To make this run longer or shorter, add --change_num_steps to the command of pretrain: from "
    "the step that it resumes at, the learning rate follows the schedule of the new length",
}
FINGERPRINTS = ("data", "files")
ROLLBACKS = "rollbacks"  # key of a checkpoint's description: those of its past (rollbacks.py)


def may_change(key: str) -> bool:
    """Whether the setting `key`, such as "config.log.every", may differ when a run resumes."""
    patterns = [pattern for settings in MAY_CHANGE for pattern in settings.keys]
    return any(fnmatch.fnmatchcase(key, f"config.{pattern}") for pattern in patterns)


def check_run_directory(workdir: Path, description: dict[str, Any], *, changes_length: bool = False) -> None:
    """Raises ValueError, listing the keys, when `workdir` holds a run with another configuration or other
    data.

    Args:
      description: what config.json keeps: "config", and the fingerprints of the data, which are "data" in
        pre-training and "files", by split, in fine-tuning.
      changes_length: whether config.train.num_steps may differ.
    """
    path = workdir / "config.json"
    if not path.exists():
        return
    found = read_json(path, {"config": Maybe(dict)})
    if "config" not in found:
        raise ValueError(
            f"{workdir}: got a {path.name} of something else, such as an exported model, expected a run or a "
            "new directory. Use another --workdir."
        )
    with misread(path):
        lines = differences(found, description, any_length=changes_length)
    if lines:
        raise ValueError(
            "\n".join([f"{workdir} belongs to a run with other settings:", *(f"  {line}" for line in lines)])
            + "\nUse another --workdir, or give the settings of the run. What may change when a run resumes, "
            f"and how to train on with other settings: {README}."
        )


def differences(old: dict[str, Any], new: dict[str, Any], *, any_length: bool) -> list[str]:
    """A line for each setting, dataset or file of the description `new` that is not that of the run that
    `old` describes. With `any_length`, config.train.num_steps may differ."""
    old, new = _upgraded(old), _upgraded(json.loads(json.dumps(new)))
    if any_length:
        train = old["config"]["train"] | {"num_steps": new["config"]["train"]["num_steps"]}
        old["config"] = old["config"] | {"train": train}
    return [*_differing_settings(old, new), *_differing_datasets(old, new), *_differing_files(old, new)]


def _upgraded(description: dict[str, Any]) -> dict[str, Any]:
    """The description as this version would have written it."""
    return description | {"config": upgrade_config(description["config"])}


def _differing_settings(old: dict[str, Any], new: dict[str, Any]) -> Iterator[str]:
    """A line for each setting that may not differ and does."""
    old, new = (
        flatten_dict(
            {key: value for key, value in one.items() if key not in (*FINGERPRINTS, ROLLBACKS)}, sep="."
        )
        for one in (old, new)
    )
    for key in sorted((old.keys() | new.keys()) - {TEACHER_MODELS}):
        one, other = (_without_changes(key, settings.get(key)) for settings in (old, new))
        if one != other and not may_change(key) and not (key == INITIAL and _is_same_start(one, other)):
            yield f"{key}: the run has {old.get(key)!r}, you gave {new.get(key)!r}{HINTS.get(key, '')}"


def _without_changes(key: str, value: Any) -> Any:
    """The part of a value that may not differ."""
    if key == STAGES and value is not None:
        return [
            [step, {name: new for name, new in changes.items() if not may_change(f"config.{name}")}]
            for step, changes in value
        ]
    return value


def _is_same_start(one: str | None, other: str | None) -> bool:
    return bool(one) and bool(other) and is_same_checkpoint(one, other)


class _Dataset(NamedTuple):
    path: str
    fingerprint: str


def _differing_datasets(old: dict[str, Any], new: dict[str, Any]) -> Iterator[str]:
    """A line for each stage whose datasets are not those of the run, wherever they lie."""
    if "data" not in old or "data" not in new:
        if old.get("data") != new.get("data"):
            yield f"data: the run has {old.get('data')!r}, you gave {new.get('data')!r}"
        return
    reported = None
    for (first_step, theirs), (_, ours) in zip(_datasets(old), _datasets(new), strict=False):
        if [one.fingerprint for one in theirs] != [one.fingerprint for one in ours]:
            if (theirs, ours) != reported:  # a stage may have the datasets of the one before
                where = f"{STAGES}, from step {first_step} on, data" if first_step else "config.data"
                yield f"{where}.datasets: {_difference(theirs, ours)}"
            reported = theirs, ours


def _datasets(description: dict[str, Any]) -> Iterator[tuple[int, list[_Dataset]]]:
    """(first step, datasets) of each stage. "data" lists the fingerprints of those stages whose section
    config.data is another than that of the stage before."""
    fingerprints, data, datasets = iter(description["data"]), None, []
    for stage in make_stages(description["config"]):
        section = stage.config["data"] | dataset_values(stage.config["data"])
        if section != data:
            chosen = itertools.islice(fingerprints, len(section["datasets"]))
            # An imported model, and a soup, have paths but no data.
            datasets = [_Dataset(*one) for one in zip(section["datasets"], chosen, strict=False)]
        data = section
        yield stage.first_step, datasets


def _difference(theirs: list[_Dataset], ours: list[_Dataset]) -> str:
    paths = [one.path for one in ours]
    if len(theirs) != len(ours):
        return f"the run has {[one.path for one in theirs]}, you gave {paths}"
    place = {one.fingerprint: one.path for one in ours}
    if sorted(one.fingerprint for one in theirs) == sorted(one.fingerprint for one in ours):
        return (
            f"you gave the datasets of the run in another order, {','.join(paths)}, expected "
            f"{','.join(place[one.fingerprint] for one in theirs)}"
        )
    return "; ".join(
        f"{our.path} has other content (fingerprint {our.fingerprint[:12]}…) than the dataset that the run "
        f"reads, {their.path} ({their.fingerprint[:12]}…)"
        for their, our in zip(theirs, ours, strict=True)
        if their.fingerprint != our.fingerprint
    )


def _differing_files(old: dict[str, Any], new: dict[str, Any]) -> Iterator[str]:
    """A line for each split of a fine-tuning whose files are not those of the run, wherever they lie."""
    theirs, ours = (one["config"].get("task", {}) for one in (old, new))
    for split, path in ours.items():
        if may_change(f"config.task.{split}"):
            one, other = (description.get("files", {}).get(split) for description in (old, new))
            if one is None or other is None:  # an older version did not record them
                if theirs.get(split) != path:
                    yield f"config.task.{split}: the run has {theirs.get(split)!r}, you gave {path!r}"
            elif one != other and None not in other:
                yield (
                    f"config.task.{split}: {path or 'no file'} has other content than what the run reads, "
                    f"{theirs.get(split) or 'no file'}"
                )


def is_measured(workdir: Path, step: int, *, has_probe: bool) -> bool:
    """Whether a step is evaluated and, in a run with a probe, probed."""
    rows = [row for row in read_metrics(workdir) if row["step"] == step]
    is_probed = any(name.startswith("probe/") for row in rows for name in row)
    return any(map(is_evaluation, rows)) and (is_probed or not has_probe)


def is_evaluation(row: dict[str, Any]) -> bool:
    """Whether a row of metrics is of an evaluation on held-out text."""
    return any(name.startswith("eval/") for name in row)
