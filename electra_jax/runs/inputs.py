"""The inputs of a run, opened and checked: whether configuration, data, devices and run directory fit
together."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from jax.sharding import Mesh

from data_pipelines.dataset_cache import local_dataset
from data_pipelines.dataset_info import read_fingerprint
from data_pipelines.mixture import DatasetSource, Mixture, continue_sources, make_mixture, make_sequential
from data_pipelines.sample.prepare import PREFIX as SAMPLE_PREFIX
from data_pipelines.sample.prepare import prepare_sample
from electra_jax.configuration.resolve import ResolvedConfig
from electra_jax.configuration.stages import Stage, stage_errors
from electra_jax.distributed.mesh import make_mesh
from electra_jax.distributed.processes import barrier, is_main_process
from electra_jax.distributed.sharding import check_batch
from electra_jax.models.config import PretrainingConfig
from electra_jax.models.inputs import SpecialTokens
from electra_jax.objectives.base import Objective
from electra_jax.objectives.registry import forward_flops, make_objective
from electra_jax.runs.directory import check_run_directory


class StageInputs(NamedTuple):
    """A `Stage` and its data."""

    first_step: int
    end: int
    config: dict[str, Any]
    mixture: Mixture  # starts with the examples of `first_step`
    held_out: Mixture
    flops_per_token: float  # forward
    keeps_datasets: bool  # whether its datasets and weights are those of the stage before


class RunInputs(NamedTuple):
    """Everything that training needs."""

    config: dict[str, Any]  # resolved, and frozen
    model: PretrainingConfig
    mesh: Mesh
    stages: tuple[StageInputs, ...]
    objective: Objective
    description: dict[str, Any]  # what the run directory and checkpoints keep: "config" and "data"

    @property
    def tokenizer(self) -> Path:
        """Directory of the tokenizer that the datasets were built with."""
        return Path(local_dataset(self.stages[0].mixture.sources[0].path)) / "tokenizer"

    @property
    def tokenizer_fingerprint(self) -> str:
        return self.stages[0].mixture.infos[0].tokenizer_fingerprint


def open_inputs(resolved: ResolvedConfig, workdir: Path) -> RunInputs:
    """Open and check everything that training needs. Writes nothing but the sample corpus, if config.data
    names it.

    Raises:
      ValueError: config, data, mesh and run directory do not fit together.
      OSError: a dataset cannot be read.
    """
    config, model = resolved.values, resolved.model
    mesh = make_mesh(config["mesh"])
    stages = open_stages(resolved.stages, model, mesh, workdir)
    objective = make_objective(config, model, SpecialTokens.from_ids(stages[0].mixture.special))
    description = {
        "config": config,
        "data": [
            info.fingerprint for stage in stages if not stage.keeps_datasets for info in stage.mixture.infos
        ],
    }
    check_run_directory(workdir, description)
    return RunInputs(config, model, mesh, stages, objective, description)


def open_stages(
    stages: Sequence[Stage], model: PretrainingConfig, mesh: Mesh, workdir: Path
) -> tuple[StageInputs, ...]:
    """Open and check the data of every stage.

    Raises:
      ValueError, OSError: see `open_inputs`.
    """
    for stage in stages:
        with stage_errors(stage):
            check_batch(stage.config["train"]["batch_size"], stage.config["train"]["num_microbatches"], mesh)
    all_sources = continue_sources(
        [(make_sources(stage.config["data"], workdir), stage.num_examples) for stage in stages]
    )
    opened: list[StageInputs] = []
    for stage, sources in zip(stages, all_sources, strict=True):
        mixtures, held_out = [one.mixture for one in opened], [one.held_out for one in opened]
        data = stage.config["data"]
        with stage_errors(stage):
            mixture = make_mixture(sources, seed=data["seed"], opened_by=mixtures)
            check_data(stage.config, model, mixture)
            check_tokenizer(mixture, (mixtures or [mixture])[0])
            validation = make_sequential(
                [DatasetSource(source.path, split="validation") for source in sources], opened_by=held_out
            )
            flops_per_token = forward_flops(stage.config, model)
        keeps_datasets = bool(opened) and data == opened[-1].config["data"]
        opened.append(StageInputs(*stage, mixture, validation, flops_per_token, keeps_datasets))
    return tuple(opened)


def make_sources(data: dict[str, Any], workdir: Path) -> list[DatasetSource]:
    """The datasets of config.data. The main process prepares the sample corpus under `workdir` first.

    Raises:
      ValueError, OSError: see `prepare_sample`.
    """
    has_sample = any(path.startswith(SAMPLE_PREFIX) for path in data["datasets"])
    if has_sample and not is_main_process():
        barrier("sample")
    paths = [
        prepare_sample(path, workdir / "sample", sequence_length=data["sequence_length"])
        if path.startswith(SAMPLE_PREFIX)
        else path
        for path in data["datasets"]
    ]
    sources = [
        DatasetSource(path, weight, fingerprint=read_fingerprint(local_dataset(path)))
        for path, weight in zip(paths, data["weights"], strict=True)
    ]
    if has_sample and is_main_process():
        barrier("sample")
    return sources


def check_data(config: dict[str, Any], model: PretrainingConfig, mixture: Mixture) -> None:
    """Raises ValueError when rows are longer, or ids larger, than the model allows."""
    length, expected = mixture.sequence_length, config["data"]["sequence_length"]
    if length != expected:
        raise ValueError(
            f"config.data.sequence_length: got {expected}, but the datasets hold rows of {length}. Set "
            f"config.data.sequence_length=0, which means {length} here, or build a dataset with "
            f"--sequence_length {expected}."
        )
    if length > model.discriminator.max_position_embeddings:
        raise ValueError(
            f"config.model.max_position_embeddings: got {model.discriminator.max_position_embeddings}, "
            f"expected at least the row length {length}. Set config.model.max_position_embeddings={length}, "
            "or build a dataset with shorter rows."
        )
    vocab_size = max(info.vocab_size for info in mixture.infos)
    if vocab_size > model.discriminator.vocab_size:
        raise ValueError(
            f"config.model.vocab_size: got {model.discriminator.vocab_size}, but the datasets' tokenizer has "
            f"{vocab_size} entries. Set config.model.vocab_size=0, which means {vocab_size} here, or more."
        )


def check_tokenizer(mixture: Mixture, first: Mixture) -> None:
    """Raises ValueError when the datasets of a stage were built with another tokenizer than those of the
    first."""
    mine, expected = ((one.infos[0].tokenizer_fingerprint, one.special) for one in (mixture, first))
    if mine != expected:
        raise ValueError(
            f"config.data.datasets: got {mixture.sources[0].path} with the tokenizer {mine[0][:16]}… "
            f"({mine[1]}), expected that of the first stage's datasets, {expected[0][:16]}… "
            f"({expected[1]}): the same ids would mean other words. Build it with --tokenizer "
            f"{first.sources[0].path}/tokenizer."
        )
