"""What datasets.json, in a run's directory, tells of the tokens that the run has read."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from data_pipelines.json_files import Maybe, misread, read_json
from electra_jax.configuration.migration import upgrade_datasets
from electra_jax.configuration.stages import Stage, make_stages

DATASETS_FILE = "datasets.json"
# The form of an entry of datasets.json; its readers need no more.
DATASET = {
    "fingerprint": str,
    "sources": {"train": [str]},
    "splits": {"train": {"rows": int, "documents": int, "tokens": int}},
    "first_step": Maybe(int),
    "weight": Maybe(float),
}


def read_datasets(workdir: Path, config: dict[str, Any], step: int) -> list[dict[str, Any]]:
    """The datasets that a run with this configuration had begun by `step`; none without the file, as in an
    imported model.

    Raises:
      ValueError, OSError: the file is there, but not as a run writes it.
    """
    path = workdir / DATASETS_FILE
    with misread(path):
        datasets = upgrade_datasets(read_json(path, [DATASET]) if path.is_file() else [], config)
        return [info for info in datasets if info["first_step"] < max(step, 1)]


def tokens_read(config: dict[str, Any], datasets: Sequence[dict[str, Any]], step: int) -> float:
    """About how many tokens the first `step` steps read, without padding; 0 without datasets."""
    stages = [stage for stage in make_stages(config) if stage.first_step < step]
    read = [stage._replace(end=min(stage.end, step)) for stage in stages]
    return sum(stage.num_examples * _tokens_per_row(datasets, stage) for stage in read)


def _tokens_per_row(datasets: Sequence[dict[str, Any]], stage: Stage) -> float:
    """Mean number of tokens in a row of a stage's mixture, without padding; 0 if it is unknown."""
    begun = [info for info in datasets if info["first_step"] <= stage.first_step]
    mixture = [info for info in begun if info["first_step"] == begun[-1]["first_step"]]
    if not mixture:
        return 0.0
    tokens = [
        info["weight"] * info["splits"]["train"]["tokens"] / info["splits"]["train"]["rows"]
        for info in mixture
    ]
    return sum(tokens) / sum(info["weight"] for info in mixture)
