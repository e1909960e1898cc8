"""What a run directory holds: its configuration, its tokenizer, its model, and the parameters of a
checkpoint."""

import contextlib
import json
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from data_pipelines.tokenizers.load import Tokenizer, load_tokenizer
from electra_jax.configuration.migration import upgrade_config
from electra_jax.configuration.stages import stage_at
from electra_jax.distributed.mesh import make_mesh
from electra_jax.distributed.sharding import replicated
from electra_jax.models.config import PretrainingConfig, make_pretraining_config
from electra_jax.models.inputs import SpecialTokens
from electra_jax.objectives.registry import find_row, first_stage_from, make_objective, parameter_form
from electra_jax.runs.directory import flatten
from electra_jax.training.checkpointing import Checkpointer, with_shardings
from electra_jax.training.state import abstract_params

# Of config.model: what may differ between a checkpoint and a run that starts from it, since it changes no
# parameter's meaning.
MAY_DIFFER_IN_MODEL = (
    "hidden_dropout",
    "attention_dropout",
    "initializer",
    "initializer_range",
    "dtype",
    "disentangled.implementation",
)


class TrainedRun(NamedTuple):
    """`description` is the run's config.json, `config` the configuration in it; `params` are those after
    `step` steps, or their moving average where the run keeps one."""

    workdir: Path
    description: dict[str, Any]
    model: PretrainingConfig
    tokenizer: Tokenizer
    step: int
    params: Any

    @property
    def config(self) -> dict[str, Any]:
        return self.description["config"]


def load_run(workdir: Path, step: int | None = None) -> TrainedRun:
    """The newest checkpoint of a run, or that of `step`; replicated on the devices at hand, whatever mesh it
    was trained on.

    Raises: FileNotFoundError: `workdir` is not a run directory, lacks its tokenizer, or has no such
      checkpoint; names those it has. OSError: the checkpoint is damaged.
    """
    description = read_description(workdir)
    config = description["config"]
    model = make_pretraining_config(config["model"])
    tokenizer = load_tokenizer(str(workdir / "tokenizer"))
    objective = make_objective(config, model, SpecialTokens.from_ids(tokenizer.special))
    params, _ = abstract_params(objective, config["data"]["sequence_length"])
    everywhere = replicated(make_mesh({"data": -1, "fsdp": 1, "tensor": 1}))
    step, params = restore_params(
        workdir, step, with_shardings(params, jax.tree.map(lambda _: everywhere, params))
    )
    return TrainedRun(workdir, description, model, tokenizer, step, params)


def read_description(workdir: Path) -> dict[str, Any]:
    """A run's config.json.

    Raises:
      FileNotFoundError: `workdir` is not a run directory.
    """
    path = workdir / "config.json"
    if not path.is_file() or "config" not in (description := json.loads(path.read_text())):
        raise FileNotFoundError(
            f"{workdir}: expected a run directory of electra_jax.pretrain, or one that "
            "`electra_jax.convert import` made, but it has no config.json of one."
        )
    return description | {"config": upgrade_config(description["config"])}


def dataset_paths(workdir: Path, config: dict[str, Any], step: int) -> list[str]:
    """Directories of the datasets of the stage that a run is in after `step` steps, which have rows of one
    length: where training found them, or, of an imported run, where its `config` says they were."""
    path, stage = workdir / "datasets.json", stage_at(config, step)
    if not path.is_file():
        return list(stage.config["data"]["datasets"])
    # A run made before there were stages has no such key.
    entries = [{"first_step": 0} | entry for entry in json.loads(path.read_text())]
    newest = max(entry["first_step"] for entry in entries if entry["first_step"] <= stage.first_step)
    return [entry["path"] for entry in entries if entry["first_step"] == newest]


def restore_params(workdir: Path, step: int | None, abstract: Any) -> tuple[int, Any]:
    """(step, parameters) of a run's newest checkpoint, or that of `step`, laid out as `abstract` says; their
    moving average where the checkpoint has one, since by that the run was measured.

    Raises:
      FileNotFoundError: no such checkpoint; names those there are. OSError: it is damaged.
    """
    with contextlib.closing(Checkpointer(str(workdir / "checkpoints"), keep=None)) as checkpointer:
        step = _choose_step(workdir, step, checkpointer)
        return step, checkpointer.restore_params(step, abstract)


def find_step(workdir: Path, step: int | None) -> int:
    """Step of a run's newest checkpoint, or `step`; raises FileNotFoundError when there is no such
    checkpoint."""
    with contextlib.closing(Checkpointer(str(workdir / "checkpoints"), keep=None)) as checkpointer:
        return _choose_step(workdir, step, checkpointer)


def _choose_step(workdir: Path, step: int | None, checkpointer: Checkpointer) -> int:
    steps = checkpointer.all_steps()
    if not steps or (step is not None and step not in steps):
        wanted = "any step" if step is None else f"step {step}"
        raise FileNotFoundError(f"{workdir}: expected a checkpoint of {wanted}, found those of {steps}.")
    return steps[-1] if step is None else step


def initial_params(initial: Path, params: Any, abstract: Any) -> tuple[int, Any]:
    """(step, parameters) of the run `initial` for one that starts from it: `abstract` says how they are laid
    out, `params` are the fresh ones. A run in the second of two stages (objectives/two_stage.py) may start
    from the first, plain masked language modelling: both of its encoders are then the one that was trained
    there, and the detection head is fresh.

    Raises:
      FileNotFoundError, OSError: see `restore_params`.
    """
    stage = first_stage_from(read_description(initial)["config"]["objective"]["name"], abstract)
    if stage is None:
        return restore_params(initial, None, abstract)
    step, first = restore_params(
        initial, None, {theirs: abstract[own] for own, theirs in stage.modules.items()}
    )
    # A step donates its arrays: none may occur twice.
    copies = {
        own: {name: first[theirs][name] for name in abstract[own]} for own, theirs in stage.copies.items()
    }
    started = {own: first[theirs] for own, theirs in stage.modules.items()}
    return step, params | started | jax.tree.map(jnp.copy, copies)


def differing_settings(one: dict[str, Any], other: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Of two sections config.model what gives parameters another shape or meaning: key → values of the
    two."""
    one, other = flatten(one), flatten(other)
    return {
        key: (one.get(key), other.get(key))
        for key in sorted(one.keys() | other.keys())
        if one.get(key) != other.get(key) and key not in MAY_DIFFER_IN_MODEL
    }


def check_initial(initial: str, config: dict[str, Any], tokenizer_fingerprint: str) -> None:
    """Raises ValueError when the parameters of the run `initial` mean something else than those of a run with
    `config`: another objective, model or tokenizer; lists what differs and how to set it. And when a run that
    cannot do without has no start."""
    name = config["objective"]["name"]
    stage = find_row(name).first_stage
    if not initial:
        if stage is not None:
            raise ValueError(
                f"config.checkpoint.init_from: got '', expected with config.objective.name={name!r} the run "
                f"of its first stage, with objective={stage.objective} and the same size."
            )
        return
    theirs = read_description(Path(initial))["config"]
    spell = lambda config: " with generator ".join(
        repr(config["objective"][key]) for key in ("name", "generator") if config["objective"][key] != "model"
    )
    is_next_stage = stage is not None and theirs["objective"]["name"] == stage.objective
    if parameter_form(theirs["objective"]) != parameter_form(config["objective"]) and not is_next_stage:
        raise ValueError(
            f"config.checkpoint.init_from: {initial} was trained with objective {spell(theirs)}, this run "
            f"has {spell(config)}: they have other parameters."
        )
    differing = {
        key: values
        for key, values in differing_settings(theirs["model"], config["model"]).items()
        if not (is_next_stage and key.startswith(stage.unused_model_keys))
    }
    if differing:
        lines = "\n".join(
            f"  config.model.{key}: there {old!r}, here {new!r}" for key, (old, new) in differing.items()
        )
        raise ValueError(
            f"config.checkpoint.init_from: {initial} holds another model:\n{lines}\n"
            f"--config=configs/continued.py:run={initial} takes its settings over."
        )
    fingerprint = load_tokenizer(str(Path(initial, "tokenizer"))).fingerprint
    if fingerprint != tokenizer_fingerprint:
        raise ValueError(
            f"config.checkpoint.init_from: {initial} was trained with another tokenizer "
            f"({fingerprint[:16]}…) than that of the datasets ({tokenizer_fingerprint[:16]}…), so the same "
            f"ids would mean other words. Build the datasets with --tokenizer {Path(initial, 'tokenizer')}."
        )
