"""What a configuration leaves to the data, from the data of a run: sizes (configuration/sizes.py) and, if the
length of the run is given in epochs, its number of steps (configuration/length.py)."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from data_pipelines.buckets import absolute_place
from data_pipelines.dataset_cache import read_dataset_info
from data_pipelines.mixture import check_same_rows
from data_pipelines.problems import Problems
from data_pipelines.sample.prepare import PREFIX as SAMPLE_PREFIX
from data_pipelines.sample.prepare import VOCAB_SIZE as SAMPLE_VOCAB_SIZE
from electra_jax.configuration.checkpoint_names import parse_checkpoint
from electra_jax.configuration.length import with_num_steps, without_end
from electra_jax.configuration.resolve import ResolvedConfig, dataset_paths, dataset_values, resolve
from electra_jax.configuration.sizes import assumed_sizes, needs_chunk_size, with_sizes
from electra_jax.configuration.stages import make_stages, stage_errors
from electra_jax.runs.bucket_runs import local_directory
from electra_jax.runs.inputs import check_row_sizes, make_sources
from electra_jax.runs.teachers import with_teacher_models
from electra_jax.runs.trained import read_description


def resolve_run(config: dict[str, Any], workdir: Path) -> ResolvedConfig:
    """`resolve` for the run in `workdir`, with what it leaves to its data.

    Raises:
      ValueError, OSError: see `resolve` and `with_data_values`. All that is wrong comes together, also what
        the datasets tell of sizes that are given.
    """
    initial = config["checkpoint"]["init_from"]
    if isinstance(initial, str):  # config.json is read from anywhere
        checkpoint = config["checkpoint"] | {"init_from": absolute_place(initial)}
        config = config | {"checkpoint": checkpoint}
    problems = Problems()
    with problems.kept():
        config = with_teacher_models(config, workdir)
    filled = without_end(config)
    with problems.kept():
        filled = with_data_values(config, [workdir], workdir)
    with problems.kept():
        resolved = resolve(filled, has_begun=(workdir / "config.json").is_file())
    if problems:
        _keep_problems_of_rows(filled, problems)
    problems.report()
    return resolved


def _keep_problems_of_rows(config: dict[str, Any], problems: Problems) -> None:
    """Keep what the datasets that can be read have against the sizes of the configuration."""
    with problems.kept():
        for stage in make_stages(config):
            infos = []
            for path in dataset_paths(stage.config["data"]):
                if not _is_sample(path):
                    with problems.kept(), stage_errors(stage):
                        info = read_dataset_info(path)
                        infos.append((path, info))
                        check_row_sizes(stage.config, info.sequence_length, info.vocab_size)
            with problems.kept(), stage_errors(stage):
                check_same_rows(infos)


def with_data_values(config: dict[str, Any], runs: Sequence[Path], workdir: Path) -> dict[str, Any]:
    """The configuration with a number for every size that is 0 in it, and its length in steps.

    Args:
      runs: as for `with_data_sizes`.
      workdir: where the sample is prepared, if the number of its rows is needed.

    Raises:
      ValueError, OSError: see `with_data_sizes`, `with_num_steps`.
    """
    config = with_data_sizes(config, runs)

    def num_rows() -> int:
        data = config["data"] | dataset_values(config["data"])
        infos = [read_dataset_info(source.path) for source in make_sources(data, workdir)]
        return sum(info.splits["train"]["rows"] for info in infos)

    return with_num_steps(config, num_rows)


def with_data_sizes(config: dict[str, Any], runs: Sequence[Path]) -> dict[str, Any]:
    """The configuration with a number for every size that is 0 in it.

    A row length is that of the stage's datasets. The vocabulary is that of the run itself, if it has begun:
    an older version may have given it more rows than its data needs. Otherwise it is that of the run that
    this one starts from (config.checkpoint.init_from), or else of the datasets. The sample has the row length
    that the recipe assumes.

    Args:
      runs: directories of this run, or of the runs of one comparison; they may be missing.

    Raises:
      ValueError: see `with_sizes`, `dataset_values`. OSError: a dataset or run cannot be read.
    """
    begun = next((_pretraining_of(run) for run in runs if (run / "config.json").is_file()), None)
    if begun is not None and needs_chunk_size(config["objective"]):
        chunk_size = begun["objective"]["vocab_chunk_size"]
        config = config | {"objective": config["objective"] | {"vocab_chunk_size": chunk_size}}
    for stage in make_stages(without_end(config)):
        with stage_errors(stage):
            dataset_values(stage.config["data"])
    initial = config["checkpoint"]["init_from"]

    def vocab_size() -> int:
        if begun is not None:
            return begun["model"]["vocab_size"]
        if initial:
            theirs = _pretraining_of(local_directory(parse_checkpoint(initial).directory))
            if theirs is None:
                raise ValueError(
                    f"config.checkpoint.init_from: got {initial!r}, a fine-tuning, expected a run of "
                    "pre-training or an imported model. Give its directory."
                )
            return theirs["model"]["vocab_size"]
        path = _first_dataset(config["data"])
        return SAMPLE_VOCAB_SIZE if _is_sample(path) else read_dataset_info(path).vocab_size

    def row_length(data: dict[str, Any]) -> int:
        path = _first_dataset(data)
        if _is_sample(path):
            return assumed_sizes(config)["sequence_length"]
        return read_dataset_info(path).sequence_length

    return with_sizes(config, vocab_size, row_length)


def _pretraining_of(run: Path) -> dict[str, Any] | None:
    """The configuration of a pre-training run; None for another kind, which `check_run_directory` reports."""
    config = read_description(run)["config"]
    return config if "objective" in config else None


def _first_dataset(data: dict[str, Any]) -> str:
    """The datasets of a mixture have one row length and one tokenizer, which `make_mixture` checks."""
    return dataset_paths(data)[0]


def _is_sample(path: str) -> bool:
    return path.startswith(SAMPLE_PREFIX)
