"""A fine-tuned model on disk, to export it or to fine-tune it further.

model.json            encoder, task, labels, configuration, and how the model was made
params.safetensors    {"embeddings", "encoder", "head"}; an array's name is its path
tokenizer/
"""

import dataclasses
import shutil
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from data_pipelines.json_files import Maybe, misread, read_json, write_json
from data_pipelines.tokenizers.adopt import adopt_tokenizer
from data_pipelines.tokenizers.load import Tokenizer, load_tokenizer
from electra_jax.configuration.migration import upgrade_encoder
from electra_jax.finetuning.encoder_shapes import check_encoder
from electra_jax.huggingface.array_files import finite_float32, read_safetensors, write_arrays
from electra_jax.models.config import EncoderConfig, make_encoder_config

MODEL_FILE, PARAMS_FILE, TOKENIZER = "model.json", "params.safetensors", "tokenizer"
# Of MODEL_FILE, for `read_json`.
MODEL_FORM = {
    "encoder": dict,
    "task": {"kind": str},
    "labels": list,
    "config": {"model": dict},
    "start": Maybe(str),
    "metrics": Maybe({str: float}),
}


class SavedModel(NamedTuple):
    """A fine-tuned model, as it was saved."""

    encoder: EncoderConfig
    # "task" (config.task), "labels", "start", "seed", "settings", "metrics", "config"; of tagging also
    # "word_separator" (data_pipelines/tasks/words.py), which older models lack
    description: dict[str, Any]
    tokenizer: Tokenizer
    params: Any


def save_model(
    directory: Path, encoder: EncoderConfig, description: dict[str, Any], tokenizer: Tokenizer, params: Any
) -> None:
    """Write a model to `directory`, replacing an older one; `params` are on the host."""
    directory.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{directory.name}.", dir=directory.parent) as temporary:
        unfinished = Path(temporary, directory.name)
        unfinished.mkdir()
        write_json(unfinished / MODEL_FILE, {"encoder": dataclasses.asdict(encoder), **description})
        arrays = {path: np.ascontiguousarray(leaf) for path, leaf in flatten_dict(params, sep="/").items()}
        write_arrays(unfinished / PARAMS_FILE, arrays)
        adopt_tokenizer(tokenizer.directory, unfinished / TOKENIZER, lowercase=None)
        if directory.exists():
            shutil.rmtree(directory)
        unfinished.rename(directory)


def is_saved_model(directory: Path) -> bool:
    """Whether `directory` holds a model that `save_model` wrote."""
    return (directory / MODEL_FILE).is_file()


def load_model(directory: Path) -> SavedModel:
    """Read a model that `save_model` wrote.

    Raises:
      FileNotFoundError: `directory` holds no such model, or one of its files is missing.
      ValueError: a file is damaged, or they do not belong together.
    """
    if not is_saved_model(directory):
        raise FileNotFoundError(
            f"{directory}: no {MODEL_FILE} in it, expected a directory under models/ of a fine-tuning run."
        )
    description = read_json(directory / MODEL_FILE, MODEL_FORM)
    with misread(directory / MODEL_FILE):
        encoder = make_encoder_config(upgrade_encoder(description.pop("encoder")))
    tokenizer, path = load_tokenizer(str(directory / TOKENIZER)), directory / PARAMS_FILE
    arrays = finite_float32(read_safetensors(path).arrays, path)
    check_encoder(arrays, encoder, tokenizer, path)
    with misread(path):
        params = unflatten_dict(arrays, sep="/")
    return SavedModel(encoder, description, tokenizer, params)
