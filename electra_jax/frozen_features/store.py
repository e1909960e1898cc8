"""What is kept of an interrupted command: the features of each model and set of texts, and the results of
each model and task. A file is found by what it was made from, and is written whole."""

import hashlib
import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from data_pipelines.json_files import read_json, write_json
from data_pipelines.whole_files import written_whole
from electra_jax.finetuning.folders import folder_names
from electra_jax.frozen_features.texts import TextSet
from electra_jax.huggingface.array_files import read_safetensors, write_arrays

FEATURES, RESULTS = "features", "results"  # of the workdir
METHOD = 1  # of features and results; another number when they change, so that older ones are computed again
DIGEST_LETTERS = 12
ADVICE = "Remove it: the same command computes it again."
MAX_BYTES = 1 << 28
Features = dict[str, np.ndarray]  # pooling → [S, N, D]


class FrozenModel(NamedTuple):
    """What identifies a model."""

    name: str  # as in --init_from
    step: int | None  # of the run's checkpoint; None: it comes from no run, or is newly initialised
    digest: str  # of its weights, its vocabulary, and of what else decides its features
    num_states: int  # S of the features of all layers


class Store:
    """The files of some models below a directory."""

    def __init__(self, workdir: Path, names: list[str]):
        self._workdir, self._folders = workdir, folder_names(names)

    def has_features(self, model: FrozenModel, texts: TextSet) -> bool:
        return self._features_path(model, texts).is_file()

    def features(self, model: FrozenModel, texts: TextSet) -> Features:
        """Raises ValueError if the file is damaged or does not fit the texts."""
        path = self._features_path(model, texts)
        arrays = read_safetensors(path, ADVICE).arrays
        for name, array in arrays.items():
            if array.ndim != 3 or array.shape[1] != len(texts.examples):
                raise ValueError(
                    f"{path}: got {array.shape} for {name}, expected features of {len(texts.examples)} "
                    f"texts. {ADVICE}"
                )
        return arrays

    def keep_features(self, model: FrozenModel, texts: TextSet, features: Features) -> None:
        path = self._features_path(model, texts)
        path.parent.mkdir(parents=True, exist_ok=True)
        with written_whole(path) as temporary:
            write_arrays(temporary, features)

    def result(self, model: FrozenModel, task: str, made_from: Any) -> dict[str, Any] | None:
        """What was kept of a model and a task; None if nothing was, or of other settings.

        Raises:
          ValueError: the file is damaged.
        """
        path = self._result_path(model, task)
        if not path.is_file():
            return None
        kept = read_json(path, {"made_from": str, "result": dict}, advice=ADVICE, max_bytes=MAX_BYTES)
        return kept["result"] if kept["made_from"] == _digest(model, made_from) else None

    def keep_result(self, model: FrozenModel, task: str, made_from: Any, result: dict[str, Any]) -> None:
        path = self._result_path(model, task)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, {"made_from": _digest(model, made_from), "result": result})

    def _features_path(self, model: FrozenModel, texts: TextSet) -> Path:
        digest = _digest(model, texts.digest)[:DIGEST_LETTERS]
        [stem] = folder_names([texts.name]).values()
        folder, ending = self._workdir / FEATURES / self._folders[model.name], f"-{digest}.safetensors"
        # Sets of the same content have one file, under the name of that which was read first.
        return min(folder.glob(f"*{ending}"), default=folder / f"{stem}{ending}")

    def _result_path(self, model: FrozenModel, task: str) -> Path:
        return self._workdir / RESULTS / self._folders[model.name] / f"{task}.json"


def _digest(model: FrozenModel, made_from: Any) -> str:
    text = json.dumps([METHOD, model.digest, made_from], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()
