"""What a configuration, its data, the devices and a run directory come to, and whether they fit together."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from jax.sharding import Mesh

from data_pipelines.mixture import DatasetSource, Mixture, continue_sources, make_mixture, make_sequential
from data_pipelines.sample.prepare import PREFIX as SAMPLE_PREFIX
from data_pipelines.sample.prepare import prepare_sample
from electra_jax.configuration.stages import Stage, make_stages, stage_errors
from electra_jax.distributed.mesh import make_mesh
from electra_jax.distributed.processes import barrier, is_main_process
from electra_jax.distributed.sharding import check_batch
from electra_jax.models.config import LayerExecution, PretrainingConfig, make_pretraining_config
from electra_jax.models.inputs import SpecialTokens
from electra_jax.objectives.base import Objective
from electra_jax.objectives.registry import forward_flops, make_objective
from electra_jax.runs.directory import check_run_directory


class StageInputs(NamedTuple):
    """A `Stage` and what it trains on. `mixture` begins with its first step; `reads_on` says that its
    datasets and weights are those of the stage before."""

    first_step: int
    end: int
    config: dict[str, Any]
    mixture: Mixture
    held_out: Mixture
    flops_per_token: float
    reads_on: bool


class RunInputs(NamedTuple):
    """`config` with its datasets and weights as tuples; `description` is what the run directory and
    checkpoints keep."""

    config: dict[str, Any]
    model: PretrainingConfig
    mesh: Mesh
    stages: tuple[StageInputs, ...]
    objective: Objective
    description: dict[str, Any]

    @property
    def tokenizer(self) -> Path:
        """Directory of the tokenizer that the datasets were built with."""
        return Path(self.stages[0].mixture.sources[0].path) / "tokenizer"

    @property
    def tokenizer_fingerprint(self) -> str:
        return self.stages[0].mixture.infos[0].tokenizer_fingerprint


def open_inputs(config: dict[str, Any], workdir: Path) -> RunInputs:
    """All that training needs, opened and checked. Writes nothing but the sample corpus, where config.data
    asks for it.

    Raises:
      ValueError: config, data, mesh and run directory do not fit together.
      OSError: a dataset cannot be read.
    """
    config = config | {"data": config["data"] | dataset_values(config["data"])}
    model = make_pretraining_config(
        config["model"], LayerExecution(config["train"]["layers"], config["train"]["remat"])
    )
    mesh = make_mesh(config["mesh"])
    check_intervals(config)
    stages = open_stages(make_stages(config), model, mesh, workdir)
    objective = make_objective(config, model, SpecialTokens.from_ids(stages[0].mixture.special))
    description = {
        "config": config,
        "data": [info.fingerprint for stage in stages if not stage.reads_on for info in stage.mixture.infos],
    }
    check_run_directory(workdir, description)
    return RunInputs(config, model, mesh, stages, objective, description)


def open_stages(
    stages: Sequence[Stage], model: PretrainingConfig, mesh: Mesh, workdir: Path
) -> tuple[StageInputs, ...]:
    """The data of every stage, opened and checked.

    Raises:
      ValueError, OSError: see `open_inputs`.
    """
    found = []
    for stage in stages:
        with stage_errors(stage):
            data, train = stage.config["data"] | dataset_values(stage.config["data"]), stage.config["train"]
            check_batch(train["batch_size"], train["num_microbatches"], mesh)
        found.append((stage._replace(config=stage.config | {"data": data}), make_sources(data, workdir)))
    all_sources = continue_sources([(sources, stage.num_examples) for stage, sources in found])
    opened: list[StageInputs] = []
    for (stage, _), sources in zip(found, all_sources, strict=True):
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
        reads_on = bool(opened) and data == opened[-1].config["data"]
        opened.append(StageInputs(*stage, mixture, validation, flops_per_token, reads_on))
    return tuple(opened)


def dataset_values(data: dict[str, Any]) -> dict[str, Any]:
    """config.data.datasets and weights as tuples of one length: a single directory may be a plain string.

    Raises:
      ValueError: no directory is given, or not one weight for each.
    """
    datasets = data["datasets"].split(",") if isinstance(data["datasets"], str) else data["datasets"]
    datasets = tuple(str(path) for path in datasets if path != "")
    if not datasets:
        raise ValueError(
            "config.data.datasets: no dataset is given. Build one with `python -m data_pipelines.corpus "
            f"--train … --validation … --tokenizer … --sequence_length {data['sequence_length']} --packing "
            "documents --out DIR` (--help explains it), then pass --config.data.datasets=DIR."
        )
    weights = data["weights"] if isinstance(data["weights"], list | tuple) else (data["weights"],)
    if len(weights) != len(datasets) or not all(isinstance(weight, int | float) for weight in weights):
        raise ValueError(
            f"config.data.weights: got {tuple(weights)} for {len(datasets)} datasets, expected a number for "
            f"each. Pass --config.data.weights={','.join('1' for _ in datasets)} for equal shares."
        )
    return {"datasets": datasets, "weights": tuple(float(weight) for weight in weights)}


def make_sources(data: dict[str, Any], workdir: Path) -> list[DatasetSource]:
    """The datasets of config.data; the sample corpus is prepared under `workdir` first, by the first process.

    Raises:
      ValueError, OSError: see `prepare_sample`.
    """
    has_sample = any(path.startswith(SAMPLE_PREFIX) for path in data["datasets"])
    if has_sample and not is_main_process():
        barrier("sample")
    sources = [
        DatasetSource(
            prepare_sample(path, workdir / "sample", sequence_length=data["sequence_length"])
            if path.startswith(SAMPLE_PREFIX)
            else path,
            weight,
        )
        for path, weight in zip(data["datasets"], data["weights"], strict=True)
    ]
    if has_sample and is_main_process():
        barrier("sample")
    return sources


def check_intervals(config: dict[str, Any]) -> None:
    """Raises ValueError when something should happen every zero or fewer steps."""
    for key in ("log.every", "eval.every", "checkpoint.every", "checkpoint.keep", "train.num_steps"):
        section, name = key.split(".")
        if config[section][name] < 1:
            raise ValueError(f"config.{key}: got {config[section][name]}, expected 1 or more.")
    if config["probe"]["every"] < 0:
        raise ValueError(f"config.probe.every: got {config['probe']['every']}, expected 0 (never) or more.")


def check_data(config: dict[str, Any], model: PretrainingConfig, mixture: Mixture) -> None:
    """Raises ValueError when rows are longer, or ids larger, than the model can take."""
    length, expected = mixture.sequence_length, config["data"]["sequence_length"]
    if length != expected:
        raise ValueError(
            f"config.data.sequence_length: got {expected}, but the datasets hold rows of {length}. Set "
            f"config.data.sequence_length={length}, or build a dataset with --sequence_length {expected}."
        )
    if length > model.discriminator.max_position_embeddings:
        raise ValueError(
            f"config.model.max_position_embeddings: got {model.discriminator.max_position_embeddings}, "
            f"expected at least the row length {length}."
        )
    vocab_size = max(info.vocab_size for info in mixture.infos)
    if vocab_size > model.discriminator.vocab_size:
        raise ValueError(
            f"config.model.vocab_size: got {model.discriminator.vocab_size}, but the datasets' tokenizer has "
            f"{vocab_size} entries. Set config.model.vocab_size={vocab_size} or more."
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
