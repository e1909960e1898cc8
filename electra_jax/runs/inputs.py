"""The inputs of a run, opened and checked: whether configuration, data, devices and run directory fit
together."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from jax.sharding import Mesh

from data_pipelines.dataset_cache import local_dataset
from data_pipelines.dataset_info import read_fingerprint
from data_pipelines.mixture import DatasetSource, Mixture, continue_sources, make_mixture, make_sequential
from data_pipelines.problems import Problems
from data_pipelines.sample.prepare import PREFIX as SAMPLE_PREFIX
from data_pipelines.sample.prepare import prepare_sample
from data_pipelines.tokenizers.load import load_tokenizer
from electra_jax.configuration.resolve import ResolvedConfig
from electra_jax.configuration.stages import Stage, stage_errors
from electra_jax.distributed.mesh import make_mesh
from electra_jax.distributed.processes import barrier, is_main_process
from electra_jax.distributed.sharding import check_batch
from electra_jax.models.config import PretrainingConfig, make_pretraining_config
from electra_jax.models.inputs import SpecialTokens
from electra_jax.objectives.base import Objective
from electra_jax.objectives.registry import forward_flops, make_objective
from electra_jax.runs.directory import check_run_directory
from electra_jax.runs.piece_tables import piece_tables
from electra_jax.runs.teachers import check_teachers
from electra_jax.runs.trained import check_initial


class StageInputs(NamedTuple):
    """A `Stage` and its data."""

    first_step: int
    end: int
    config: dict[str, Any]
    mixture: Mixture  # starts with the examples of `first_step`
    held_out: Mixture
    flops_per_token: float  # forward
    keeps_datasets: bool  # whether its datasets and weights are those of the stage before

    @property
    def stage(self) -> Stage:
        """The stage without its data."""
        return Stage(self.first_step, self.end, self.config)


class RunInputs(NamedTuple):
    """Everything that training needs."""

    config: dict[str, Any]  # resolved, and frozen
    model: PretrainingConfig
    mesh: Mesh
    stages: tuple[StageInputs, ...]
    objective: Objective
    description: dict[str, Any]  # what the run directory and checkpoints keep: "config" and "data"
    changes_length: bool = False  # whether the run may have had another config.train.num_steps before

    @property
    def tokenizer(self) -> Path:
        """Directory of the tokenizer that the datasets were built with."""
        return tokenizer_of(self.stages[0].mixture)


def open_inputs(resolved: ResolvedConfig, workdir: Path, *, changes_length: bool = False) -> RunInputs:
    """Open and check everything that training needs. Writes nothing but the sample corpus, if config.data
    names it.

    Raises:
      ValueError: config, data, mesh and run directory do not fit together.
      OSError: a dataset cannot be read.
    """
    config, model, problems = resolved.values, resolved.model, Problems()
    with problems.kept():
        mesh = make_mesh(config["mesh"])
        _check_batches(resolved.stages, mesh)
    with problems.kept():
        stages = open_stages(resolved.stages, model, workdir)
    problems.report()
    description = {
        "config": config,
        "data": [
            info.fingerprint for stage in stages if not stage.keeps_datasets for info in stage.mixture.infos
        ],
    }
    with problems.kept():
        _check_own_tokenizer(stages[0].mixture)
    with problems.kept():
        objective = make_run_objective(config, model, stages[0].mixture)
    is_new = not (workdir / "config.json").exists()
    tokenizer_fingerprint = stages[0].mixture.infos[0].tokenizer_fingerprint
    with problems.kept():
        check_run_directory(workdir, description, changes_length=changes_length)
    with problems.kept():
        if is_new:  # a run that resumes does not need its initial parameters
            check_initial(config["checkpoint"]["init_from"], config, tokenizer_fingerprint)
    with problems.kept():
        check_teachers(config, [stage.stage for stage in stages], tokenizer_fingerprint, is_new=is_new)
    problems.report()
    return RunInputs(config, model, mesh, stages, objective, description, changes_length)


def make_run_objective(config: dict[str, Any], model: PretrainingConfig, mixture: Mixture) -> Objective:
    """The objective of a stage that trains on `mixture`, with what it has to know of the tokenizer.

    Raises:
      ValueError, OSError: the objective rejects its settings; the tokenizer is missing or does not fit them.
    """
    pieces = piece_tables(config["objective"], tokenizer_of(mixture))
    return make_objective(config, model, SpecialTokens.from_ids(mixture.special), pieces)


def tokenizer_of(mixture: Mixture) -> Path:
    """Directory of the tokenizer that the rows of a mixture were made with."""
    return Path(local_dataset(mixture.sources[0].path)) / "tokenizer"


def _check_own_tokenizer(mixture: Mixture) -> None:
    """Raises ValueError or OSError if the tokenizer of the first dataset, which a run keeps, is missing or
    another one than its rows were made with."""
    directory = tokenizer_of(mixture)
    fingerprint, recorded = load_tokenizer(str(directory)).fingerprint, mixture.infos[0].tokenizer_fingerprint
    if fingerprint != recorded:
        raise ValueError(
            f"{directory}: got the tokenizer {fingerprint[:16]}…, expected that of the dataset's rows, "
            f"{recorded[:16]}…. Copy or build the dataset again."
        )


def _check_batches(stages: Sequence[Stage], mesh: Mesh) -> None:
    problems = Problems()
    for stage in stages:
        with problems.kept(), stage_errors(stage):
            check_batch(stage.config["train"]["batch_size"], stage.config["train"]["num_microbatches"], mesh)
    problems.report()


def open_stages(
    stages: Sequence[Stage], model: PretrainingConfig, workdir: Path, num_passed_over: Sequence[int] = ()
) -> tuple[StageInputs, ...]:
    """Open and check the data of every stage.

    Args:
      num_passed_over: batches that rollbacks left out in each stage; () if there were none.

    Raises:
      ValueError, OSError: see `open_inputs`.
    """
    num_passed_over = num_passed_over or [0] * len(stages)
    all_sources = continue_sources(
        [
            (
                make_sources(stage.config["data"], workdir),
                stage.num_examples + batches * stage.config["train"]["batch_size"],
            )
            for stage, batches in zip(stages, num_passed_over, strict=True)
        ]
    )
    opened: list[StageInputs] = []
    problems = Problems()
    for stage, sources in zip(stages, all_sources, strict=True):
        mixtures, held_out = [one.mixture for one in opened], [one.held_out for one in opened]
        data = stage.config["data"]
        with stage_errors(stage):
            mixture = make_mixture(sources, seed=data["seed"], opened_by=mixtures)
            with problems.kept(), stage_errors(stage):
                check_mixture_sizes(stage.config, mixture)
            with problems.kept(), stage_errors(stage):
                check_tokenizer(mixture, (mixtures or [mixture])[0])
            validation = make_sequential(
                [DatasetSource(source.path, split="validation") for source in sources], opened_by=held_out
            )
            flops_per_token = forward_flops(stage.config, model_of_stage(stage.config, model))
        keeps_datasets = bool(opened) and data == opened[-1].config["data"]
        opened.append(StageInputs(*stage, mixture, validation, flops_per_token, keeps_datasets))
    problems.report()
    return tuple(opened)


def model_of_stage(config: dict[str, Any], model: PretrainingConfig) -> PretrainingConfig:
    """The model of a stage with this configuration, in a run with `model`; they differ only if the stage
    changes config.model."""
    return make_pretraining_config(config["model"], model.execution)


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


def check_mixture_sizes(config: dict[str, Any], mixture: Mixture) -> None:
    """`check_row_sizes` for the rows of a mixture."""
    check_row_sizes(config, mixture.sequence_length, max(info.vocab_size for info in mixture.infos))


def check_row_sizes(config: dict[str, Any], length: int, vocab_size: int) -> None:
    """Raises ValueError unless rows of `length` ids below `vocab_size` are those that a stage's configuration
    expects and its model allows. Sizes of 0 expect nothing."""
    expected = config["data"]["sequence_length"]
    model = config["model"] | config["model"]["discriminator"]
    problems = Problems()
    if expected not in (0, length):
        problems.add_text(
            f"config.data.sequence_length: got {expected}, but the datasets hold rows of {length}. Set "
            f"config.data.sequence_length=0, which means {length} here, or build a dataset with "
            f"--sequence_length {expected}."
        )
    if length > model["max_position_embeddings"]:
        problems.add_text(
            f"config.model.max_position_embeddings: got {model['max_position_embeddings']}, expected at "
            f"least the row length {length}. Set config.model.max_position_embeddings={length}, or build a "
            "dataset with shorter rows."
        )
    if 0 < model["vocab_size"] < vocab_size:
        problems.add_text(
            f"config.model.vocab_size: got {model['vocab_size']}, but the datasets' tokenizer has "
            f"{vocab_size} entries. Set config.model.vocab_size=0, which means {vocab_size} here, or more."
        )
    problems.report()


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
