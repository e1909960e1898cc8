"""Reading a run directory: its configuration, tokenizer and model, and the parameters of a checkpoint; and
checks of a run whose parameters another run starts from."""

import contextlib
import functools
import sys
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict

from data_pipelines.json_files import Maybe, misread, read_json
from data_pipelines.tokenizers.load import Tokenizer, load_tokenizer
from electra_jax.configuration.checkpoint_names import parse_checkpoint
from electra_jax.configuration.migration import upgrade_config, upgrade_datasets
from electra_jax.configuration.stages import stage_at
from electra_jax.distributed.mesh import make_mesh
from electra_jax.distributed.sharding import replicated
from electra_jax.models.config import PretrainingConfig, make_pretraining_config
from electra_jax.models.inputs import SpecialTokens
from electra_jax.objectives.mlm import MLM, UNUSED_MODEL_KEYS
from electra_jax.objectives.registry import (
    find_row,
    first_stage_from,
    make_objective,
    parameter_form,
    shared_modules,
    without_teachers,
)
from electra_jax.runs.bucket_checkpoints import open_checkpoints
from electra_jax.runs.bucket_runs import local_directory
from electra_jax.runs.directory import differences
from electra_jax.runs.removed_checkpoints import read_chosen
from electra_jax.runs.rollbacks import ROLLBACKS_FILE, read_undone
from electra_jax.training.checkpointing import Checkpointer, with_shardings
from electra_jax.training.state import abstract_params

# Keys of config.model that may differ between a checkpoint and a run that starts from it: they change no
# parameter's meaning.
MAY_DIFFER_IN_MODEL = (
    "hidden_dropout",
    "attention_dropout",
    "initializer",
    "initializer_range",
    "dtype",
)

NO_CHECKSUMS = "has no checksums, since an older version wrote it: damage to it may not be noticed."


# Of config.json, for `read_json`.
RUN_FORM = {
    "config": Maybe(
        {
            "model": Maybe(dict),
            "objective": Maybe({"name": str, "generator": Maybe(str)}),
            "data": Maybe({"sequence_length": Maybe(int)}),
            "train": Maybe({"num_steps": Maybe(int), "batch_size": Maybe(int), "seed": Maybe(int)}),
            "checkpoint": Maybe({"init_from": Maybe(str)}),
            "stages": Maybe(list),
        }
    ),
    "data": Maybe(list),
    "imported_from": Maybe(str),
    "trained_length": Maybe(int),  # of imports and soups: see `trained_length`
}


class TrainedRun(NamedTuple):
    """A run and the parameters of one of its checkpoints."""

    workdir: Path
    description: dict[str, Any]  # its config.json
    model: PretrainingConfig
    tokenizer: Tokenizer
    step: int
    params: Any  # after `step` steps, or their moving average if the run keeps one

    @property
    def config(self) -> dict[str, Any]:
        """The run's configuration."""
        return self.description["config"]

    @property
    def row_length(self) -> int:
        """Ids in a row of the stage that the run is in at its step."""
        return stage_at(self.config, self.step).config["data"]["sequence_length"]

    @property
    def trained_length(self) -> int:
        """See `trained_length`."""
        return trained_length(self.description, self.step)


def load_run(workdir: Path, step: int | None = None) -> TrainedRun:
    """The newest checkpoint of a run, or that of `step`, replicated on all devices, whatever mesh the run was
    trained on.

    Raises:
      FileNotFoundError: `workdir` is not a run directory, lacks its tokenizer, or has no such checkpoint;
        names the checkpoints that it has.
      OSError: the checkpoint is damaged.
    """
    description = read_description(workdir)
    config = description["config"]
    tokenizer = load_tokenizer(str(workdir / "tokenizer"))
    with misread(workdir / "config.json"):
        model = make_pretraining_config(config["model"])
        special = SpecialTokens.from_ids(tokenizer.special)
        objective = make_objective(without_teachers(config), model, special)
        length = config["data"]["sequence_length"]
    params, _ = abstract_params(objective, length)
    everywhere = replicated(make_mesh({"data": -1, "fsdp": 1, "tensor": 1}))
    step, params = restore_params(
        workdir, step, with_shardings(params, jax.tree.map(lambda _: everywhere, params))
    )
    # Stages may change the model, but not the shapes of its parameters.
    model = make_pretraining_config(stage_at(config, step).config["model"])
    return TrainedRun(workdir, description, model, tokenizer, step, params)


def trained_length(description: dict[str, Any], step: int) -> int:
    """Ids in the rows that the parameters of a run were trained on: those of its stage. Imports and soups
    were trained elsewhere, and their description records it; no run resumes in their directories."""
    length = stage_at(description["config"], step).config["data"]["sequence_length"]
    return description.get("trained_length", length)


def read_description(workdir: Path) -> dict[str, Any]:
    """A run's config.json.

    Raises:
      FileNotFoundError: `workdir` is not a run directory. ValueError: its file is damaged or of another form.
    """
    path = workdir / "config.json"
    if not path.is_file() or "config" not in (description := read_json(path, RUN_FORM)):
        raise FileNotFoundError(
            f"{workdir}: expected a run directory of electra_jax.pretrain or of `electra_jax.convert "
            "import`, but it has no config.json with a configuration."
        )
    with misread(path):
        return description | {"config": upgrade_config(description["config"])}


def dataset_paths(workdir: Path, config: dict[str, Any], step: int) -> list[str]:
    """Directories of the datasets of the stage that a run is in after `step` steps; their rows have one
    length. They are the paths that training read, or, for an imported run, those of its `config`."""
    path, stage = workdir / "datasets.json", stage_at(config, step)
    if not path.is_file():
        return list(stage.config["data"]["datasets"])
    with misread(path):
        entries = upgrade_datasets(read_json(path, [{"path": str, "first_step": Maybe(int)}]), config)
        begun = [entry["first_step"] for entry in entries if entry["first_step"] <= stage.first_step]
        if not begun:
            raise ValueError("got no dataset of the beginning of the run, expected one. Restore the file.")
        return [entry["path"] for entry in entries if entry["first_step"] == max(begun)]


def restore_params(workdir: Path, step: int | None, abstract: Any) -> tuple[int, Any]:
    """(step, parameters) of a run's newest checkpoint, or that of `step`, sharded like `abstract`; their
    moving average if the checkpoint has one, since the run's evaluations measure that.

    Raises:
      FileNotFoundError: no such checkpoint, or a rollback undid it; names the existing ones.
      OSError: it is damaged (names a file of it, and a checkpoint that is whole), or the run
        has just removed it.
      ValueError: config.json is not that of the checkpoint.
    """

    def read(checkpointer: Checkpointer, step: int) -> Any:
        _check_description(workdir, step, checkpointer)
        return checkpointer.restore_params(step, abstract)

    return read_chosen(workdir, step, functools.partial(_choose_step, workdir), read)


def _check_description(workdir: Path, step: int, checkpointer: Checkpointer) -> None:
    """Raises ValueError unless a checkpoint was saved with the settings in config.json."""
    saved = checkpointer.check(step)
    if not saved.has_checksums:
        print(f"{workdir}: the checkpoint of step {step} {NO_CHECKSUMS}", file=sys.stderr)
    if "config" not in saved.description:  # parameters alone
        return
    lines = [
        line.replace("the run has", "the checkpoint has").replace("you gave", "config.json has")
        for line in differences(saved.description, read_description(workdir), any_length=True)
    ]
    if lines:
        raise ValueError(
            "\n".join([f"{workdir}: config.json is not that of the checkpoint of step {step}:", *lines])
            + "\nIt was changed, or the checkpoint is of another run. Restore config.json, or choose another "
            "checkpoint."
        )


def check_checkpoint(workdir: Path, step: int | None) -> None:
    """Raises as `restore_params` does, or if `workdir` is no run directory; reads no parameter."""
    read_description(workdir)
    check = lambda checkpointer, chosen: _check_description(workdir, chosen, checkpointer)
    read_chosen(workdir, step, functools.partial(_choose_step, workdir), check)


def find_step(workdir: Path, step: int | None) -> int:
    """Step of a run's newest checkpoint, or `step`; one that a rollback undid does not count. Raises
    FileNotFoundError if there is no such checkpoint, ValueError if the list of rollbacks is another run's."""
    with contextlib.closing(open_checkpoints(workdir, keep=None)) as checkpointer:
        return _choose_step(workdir, checkpointer, step)


def checkpoint_fingerprint(workdir: Path, step: int) -> str:
    """SHA-256 of the checksums of a checkpoint's arrays; "" where an older version wrote none. Raises as
    `find_step` does."""
    with contextlib.closing(open_checkpoints(workdir, keep=None)) as checkpointer:
        return checkpointer.fingerprint(_choose_step(workdir, checkpointer, step))


def _choose_step(workdir: Path, checkpointer: Checkpointer, step: int | None) -> int:
    undone = read_undone(workdir, checkpointer)
    steps = [one for one in checkpointer.all_steps() if one not in undone]
    if not steps or (step is not None and step not in steps):
        wanted = "any step" if step is None else f"step {step}"
        about = f" {ROLLBACKS_FILE} undid those of {sorted(undone)}." if undone else ""
        raise FileNotFoundError(
            f"{workdir}: expected a checkpoint of {wanted}, found those of {steps}.{about}"
        )
    return steps[-1] if step is None else step


def initial_params(initial: str, params: Any, abstract: Any) -> tuple[int, Any]:
    """(step, parameters) of the run `initial`, DIR or DIR:STEP, for a run that starts from it.

    A run in the second of two stages (objectives/two_stage.py) may start from the first stage, plain masked
    language modelling: both of its encoders are then copies of the one trained there, and the detection head
    is newly initialised.

    Args:
      params: the newly initialised parameters.
      abstract: their shapes and shardings.

    Raises:
      FileNotFoundError, OSError: see `restore_params`.
    """
    name = parse_checkpoint(initial)
    directory = local_directory(name.directory)
    objective = read_description(directory)["config"]["objective"]["name"]
    stage = first_stage_from(objective, abstract)
    if stage is None:
        step, started = restore_params(directory, name.step, shared_modules(objective, abstract))
        return step, params | started
    step, first = restore_params(
        directory, name.step, {theirs: abstract[own] for own, theirs in stage.modules.items()}
    )
    # Copies, since a training step donates its state: no array may be in it twice.
    copies = {
        own: {name: first[theirs][name] for name in abstract[own]} for own, theirs in stage.copies.items()
    }
    started = {own: first[theirs] for own, theirs in stage.modules.items()}
    return step, params | started | jax.tree.map(jnp.copy, copies)


def differing_settings(one: dict[str, Any], other: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    """The keys of two sections config.model that give parameters another shape or meaning, and both
    values."""
    one, other = flatten_dict(one, sep="."), flatten_dict(other, sep=".")
    return {
        key: (one.get(key), other.get(key))
        for key in sorted(one.keys() | other.keys())
        if one.get(key) != other.get(key) and key not in MAY_DIFFER_IN_MODEL
    }


def check_initial(initial: str, config: dict[str, Any], tokenizer_fingerprint: str) -> None:
    """Check that a run with `config` can start from the parameters of the run `initial` ("" for none).

    Raises:
      ValueError: `initial` has another objective, model or tokenizer; lists the differences and how to set
        them. Or the objective needs an initial run and `initial` is "".
      FileNotFoundError: `initial` has no such checkpoint.
    """
    name = config["objective"]["name"]
    stage = find_row(name).first_stage
    if not initial:
        if stage is not None:
            raise ValueError(
                "config.checkpoint.init_from: got '', expected the run of the first stage, since "
                f"config.objective.name is {name!r}. Train it with objective={stage.objective} and the same "
                "size."
            )
        return
    initial_name = parse_checkpoint(initial)
    directory = local_directory(initial_name.directory)
    theirs = read_description(directory)["config"]
    # Stages may have changed the model since the first.
    theirs = stage_at(theirs, find_step(directory, initial_name.step)).config
    is_next_stage = stage is not None and theirs["objective"]["name"] == stage.objective
    if not is_next_stage:
        _check_same_objective(initial, theirs["objective"], config["objective"])
    is_one_encoder = parameter_form(theirs["objective"]) == MLM.name
    _check_same_model(initial, theirs["model"], config["model"], UNUSED_MODEL_KEYS if is_one_encoder else ())
    check_tokenizer("config.checkpoint.init_from", initial, directory, tokenizer_fingerprint)


def check_tokenizer(key: str, name: str, directory: Path, expected: str) -> None:
    """Raises ValueError if the run `name` in `directory`, a value of `key`, has another tokenizer than the
    one of the datasets, whose fingerprint is `expected`."""
    fingerprint = load_tokenizer(str(directory / "tokenizer")).fingerprint
    if fingerprint != expected:
        raise ValueError(
            f"{key}: {name} was trained with another tokenizer ({fingerprint[:16]}…) than the datasets "
            f"({expected[:16]}…): the same ids would mean other words. Build the datasets with "
            f"--tokenizer {directory / 'tokenizer'}."
        )


def _check_same_objective(initial: str, theirs: dict[str, Any], ours: dict[str, Any]) -> None:
    if parameter_form(theirs) == parameter_form(ours):
        return

    def describe(section: dict[str, Any]) -> str:
        generator = "" if section["generator"] == "model" else f" with generator {section['generator']!r}"
        return f"{section['name']!r}{generator}"

    raise ValueError(
        f"config.checkpoint.init_from: {initial} was trained with objective {describe(theirs)}, this run has "
        f"{describe(ours)}: their parameters differ. Use the same objective, or another run."
    )


def _check_same_model(
    initial: str, theirs: dict[str, Any], ours: dict[str, Any], unused: tuple[str, ...]
) -> None:
    """`unused`: beginnings of keys that the model of `initial` does not use."""
    lines = [
        f"  config.model.{key}: that run has {old!r}, this run has {new!r}"
        for key, (old, new) in differing_settings(theirs, ours).items()
        if not key.startswith(unused)
    ]
    if lines:
        raise ValueError(
            "\n".join([f"config.checkpoint.init_from: {initial} holds another model:", *lines])
            + f"\n--config=configs/continued.py:run={initial} uses the settings of that run."
        )
