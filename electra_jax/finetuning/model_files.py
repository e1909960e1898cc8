"""A fine-tuned model on disk: what it is, its parameters and its tokenizer, for exporting it or fine-tuning
it further.

model.json            encoder, task, labels, configuration, and how it came about
params.safetensors    {"embeddings", "encoder", "head"}, with paths for names
tokenizer/
"""

import dataclasses
import json
import shutil
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from safetensors.numpy import load_file, save_file

from data_pipelines.tokenizers.adopt import adopt_tokenizer
from data_pipelines.tokenizers.load import Tokenizer, load_tokenizer
from electra_jax.configuration.migration import upgrade_encoder
from electra_jax.huggingface.names import flatten, unflatten
from electra_jax.models.config import EncoderConfig, make_encoder_config

MODEL_FILE, PARAMS_FILE, TOKENIZER = "model.json", "params.safetensors", "tokenizer"


class SavedModel(NamedTuple):
    """`description`: "task" (config.task), "labels", "start", "seed", "settings", "metrics", "config"."""

    encoder: EncoderConfig
    description: dict[str, Any]
    tokenizer: Tokenizer
    params: Any


def save_model(
    directory: Path, encoder: EncoderConfig, description: dict[str, Any], tokenizer: Tokenizer, params: Any
) -> None:
    """Write a model to `directory`, in place of one that is there; `params` are on the host."""
    directory.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{directory.name}.", dir=directory.parent) as temporary:
        unfinished = Path(temporary, directory.name)
        unfinished.mkdir()
        (unfinished / MODEL_FILE).write_text(
            json.dumps({"encoder": dataclasses.asdict(encoder), **description}, indent=2), encoding="utf-8"
        )
        save_file(
            {path: np.ascontiguousarray(leaf) for path, leaf in flatten(params).items()},
            unfinished / PARAMS_FILE,
        )
        adopt_tokenizer(tokenizer.directory, unfinished / TOKENIZER, lowercase=None)
        if directory.exists():
            shutil.rmtree(directory)
        unfinished.rename(directory)


def is_saved_model(directory: Path) -> bool:
    """Whether `directory` holds what `save_model` writes."""
    return (directory / MODEL_FILE).is_file()


def load_model(directory: Path) -> SavedModel:
    """What `save_model` wrote.

    Raises:
      FileNotFoundError: there is no such model, or a file of it is missing.
    """
    if not is_saved_model(directory):
        raise FileNotFoundError(
            f"{directory}: no {MODEL_FILE} in it, expected a directory under models/ of a fine-tuning run."
        )
    description = json.loads((directory / MODEL_FILE).read_text(encoding="utf-8"))
    encoder = make_encoder_config(upgrade_encoder(description.pop("encoder")))
    return SavedModel(
        encoder,
        description,
        load_tokenizer(str(directory / TOKENIZER)),
        unflatten(load_file(directory / PARAMS_FILE)),
    )
