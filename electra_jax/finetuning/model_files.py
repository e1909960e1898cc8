"""A fine-tuned model on disk, to export it or to fine-tune it further.

model.json            encoder, task, labels, configuration, and how the model was made
params.safetensors    {"embeddings", "encoder", "head"}; an array's name is its path
tokenizer/
checksums.json        of all of that (training/checksums.py)
"""

import dataclasses
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from etils import epath
from flax.traverse_util import flatten_dict, unflatten_dict

from data_pipelines.json_files import Maybe, misread, read_json, write_json
from data_pipelines.tokenizers.adopt import adopt_tokenizer
from data_pipelines.tokenizers.load import Tokenizer, load_tokenizer
from data_pipelines.whole_files import named_errors
from electra_jax.configuration.migration import upgrade_encoder, upgrade_head
from electra_jax.finetuning.encoder_shapes import check_encoder
from electra_jax.huggingface.array_files import finite_float32, read_safetensors, write_arrays
from electra_jax.models.config import EncoderConfig, make_encoder_config
from electra_jax.training.checksums import CHECKSUMS_FILE, compute_checksums, find_damage, write_checksums

HAS_CHECKSUMS = "has_checksums"  # key of MODEL_FILE
MODEL_FILE, PARAMS_FILE, TOKENIZER = "model.json", "params.safetensors", "tokenizer"
# Of MODEL_FILE, for `read_json`.
MODEL_FORM = {
    "encoder": dict,
    "task": {"kind": str},
    "labels": list,
    "dataset": Maybe(str),
    "config": {"model": dict},
    "start": Maybe(str),
    "metrics": Maybe({str: float}),
    "trained_length": Maybe(int),
}


class SavedModel(NamedTuple):
    """A fine-tuned model, as it was saved."""

    encoder: EncoderConfig
    # "task" (config.task), "labels", "dataset" (of TensorFlow Datasets: the name of the one that was trained
    # on, else ""), "start", "start_step" (None: it comes from no run), "seed", "settings", "metrics",
    # "config", "trained_length"; of tagging also "word_separator" (data_pipelines/tasks/words.py). Older
    # models lack "dataset", "start_step" and the last two.
    description: dict[str, Any]
    tokenizer: Tokenizer
    params: Any

    @property
    def trained_length(self) -> int:
        """Tokens in the longest rows that the model was trained on, by pre-training or here; of an older
        model, which does not record it, what its configuration allows."""
        return self.description.get("trained_length", self.encoder.max_position_embeddings)


def save_model(
    directory: Path, encoder: EncoderConfig, description: dict[str, Any], tokenizer: Tokenizer, params: Any
) -> None:
    """Write a model to `directory`, replacing an older one; `params` are on the host."""
    directory.parent.mkdir(parents=True, exist_ok=True)
    with (
        named_errors(directory),
        tempfile.TemporaryDirectory(prefix=f".{directory.name}.", dir=directory.parent) as temporary,
    ):
        unfinished = Path(temporary, directory.name)
        unfinished.mkdir()
        write_json(
            unfinished / MODEL_FILE,
            {"encoder": dataclasses.asdict(encoder), **description, HAS_CHECKSUMS: True},
        )
        arrays = {path: np.ascontiguousarray(leaf) for path, leaf in flatten_dict(params, sep="/").items()}
        write_arrays(unfinished / PARAMS_FILE, arrays)
        adopt_tokenizer(tokenizer.directory, unfinished / TOKENIZER, lowercase=None)
        names = [path.relative_to(unfinished).as_posix() for path in unfinished.rglob("*") if path.is_file()]
        checksums = compute_checksums(epath.Path(unfinished), names)
        write_checksums(epath.Path(unfinished / CHECKSUMS_FILE), checksums)
        put_in_place(unfinished, directory, Path(temporary, "older"))


def put_in_place(unfinished: Path, directory: Path, older: Path) -> None:
    """Rename `unfinished` to `directory`, and what is there to `older`: nothing is deleted before its
    successor is in its place."""
    if directory.exists():
        directory.rename(older)
    try:
        unfinished.rename(directory)
    except OSError:
        if older.exists():
            older.rename(directory)
        raise


def is_saved_model(directory: Path) -> bool:
    """Whether `directory` holds a model that `save_model` wrote."""
    return (directory / MODEL_FILE).is_file()


def load_model(directory: Path) -> SavedModel:
    """Read a model that `save_model` wrote.

    Raises:
      FileNotFoundError: `directory` holds no such model.
      OSError: it is damaged; names a file.
      ValueError: a file is of another form, or its files do not belong together.
    """
    if not is_saved_model(directory):
        raise FileNotFoundError(
            f"{directory}: no {MODEL_FILE} in it, expected a directory under models/ of a fine-tuning run."
        )
    checksums = epath.Path(directory / CHECKSUMS_FILE)
    if checksums.exists():
        _refuse_damage(directory, find_damage(epath.Path(directory), checksums))
    description = read_json(directory / MODEL_FILE, MODEL_FORM)
    if description.pop(HAS_CHECKSUMS, False) and not checksums.exists():  # older versions did not write it
        _refuse_damage(directory, f"{checksums.name} is missing")
    with misread(directory / MODEL_FILE):
        encoder = make_encoder_config(upgrade_encoder(description.pop("encoder")))
        model = upgrade_head(description["config"]["model"])
        description["config"] = description["config"] | {"model": model}
    tokenizer, path = load_tokenizer(str(directory / TOKENIZER)), directory / PARAMS_FILE
    arrays = finite_float32(read_safetensors(path).arrays, path)
    check_encoder(arrays, encoder, tokenizer, path)
    with misread(path):
        params = unflatten_dict(arrays, sep="/")
    return SavedModel(encoder, description, tokenizer, params)


def _refuse_damage(directory: Path, damage: str) -> None:
    """Raises OSError unless `damage` is ""."""
    if damage:
        raise OSError(
            f"{directory} is damaged: {damage}. Copy it from a backup, or remove it and give the command "
            "that made it again."
        )
