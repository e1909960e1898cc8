"""The encoder that a fine-tuning starts from, and its tokenizer.

It comes from a pre-training run, a fine-tuned model or a Hugging Face directory; "random:" before the
directory keeps its shapes and its tokenizer, and uses newly initialised weights.
"""

import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Any, NamedTuple

import jax
from flax.traverse_util import flatten_dict, unflatten_dict

from data_pipelines.json_files import Maybe, misread, read_json
from data_pipelines.tokenizers.adopt import adopt_tokenizer, declared_length
from data_pipelines.tokenizers.load import Tokenizer, load_tokenizer
from electra_jax.configuration.checkpoint_names import parse_checkpoint
from electra_jax.finetuning.encoder_shapes import abstract_encoder, encoder_params
from electra_jax.finetuning.experiment_directory import MODELS
from electra_jax.finetuning.model_files import is_saved_model, load_model
from electra_jax.huggingface.array_files import digests
from electra_jax.huggingface.configuration import from_config_json
from electra_jax.huggingface.names import from_file
from electra_jax.huggingface.published_models import Params, to_published
from electra_jax.huggingface.readers import merge_deltas, read_directory
from electra_jax.huggingface.sizes import check_layers
from electra_jax.models.config import EncoderConfig, PretrainingConfig, make_encoder_config
from electra_jax.models.inputs import SpecialTokens
from electra_jax.runs.bucket_runs import local_directory
from electra_jax.runs.trained import find_step, load_run

RANDOM = "random:"  # before a directory: its shapes and its tokenizer with newly initialised weights


class PretrainedEncoder(NamedTuple):
    """An encoder to fine-tune."""

    name: str  # as in --init_from
    config: EncoderConfig
    tokenizer: Tokenizer
    params: Params | None  # {"embeddings", "encoder"} on the host; None: initialised from each run's seed
    digest: str = ""  # of params
    step: int | None = None  # of the run's checkpoint; None: it comes from no run, or is newly initialised
    trained_length: int = 0  # tokens in the longest rows that it was trained on; 0: newly initialised

    @property
    def special(self) -> SpecialTokens:
        return SpecialTokens.from_ids(self.tokenizer.special)


def load_encoder(name: str, cache: Path, step: int | None = None) -> PretrainedEncoder:
    """Load the encoder of a pre-training run, of a fine-tuned model or of a Hugging Face directory.

    Of a run it is the discriminator's, or the only encoder that the run has. Hugging Face directories may
    hold ELECTRA, BERT, DeBERTa-v2/v3 or ModernBERT.

    Args:
      name: a directory or its URL in a bucket, after "random:" or not; of a run also DIR:STEP.
      cache: where the tokenizer of a Hugging Face directory is kept.
      step: of the checkpoint of a run whose name has none; None: the newest.

    Raises:
      FileNotFoundError, ValueError, OSError: the directory holds none of these, or it cannot be read.
    """
    checkpoint = parse_checkpoint(name.removeprefix(RANDOM))
    path = local_directory(checkpoint.directory)
    if is_saved_model(path):
        saved = load_model(path)
        encoder = PretrainedEncoder(
            name,
            saved.encoder,
            saved.tokenizer,
            encoder_params(saved.params),
            trained_length=saved.trained_length,
        )
    elif "config" in _description(name, path):
        run = load_run(path, step if checkpoint.step is None else checkpoint.step)
        encoder = encoder_of_run(name, run.params, run.model, run.tokenizer)
        encoder = encoder._replace(step=run.step, trained_length=run.trained_length)
    else:
        encoder = _of_hugging_face(name, path, cache)
    if name.startswith(RANDOM):
        return encoder._replace(params=None, step=None, trained_length=0)
    leaves = digests(flatten_dict(encoder.params, sep="/"))
    return encoder._replace(digest=hashlib.sha256(json.dumps(sorted(leaves.items())).encode()).hexdigest())


def first_layers(encoder: PretrainedEncoder, num_layers: int) -> PretrainedEncoder:
    """The encoder without the layers above the first `num_layers`; 0: all of them.

    A LayerNorm after the last layer follows the last one that is kept.

    Raises:
      ValueError: it has fewer layers.
    """
    config, params = encoder.config, encoder.params
    if num_layers > config.num_layers:
        raise ValueError(
            f"config.model.num_layers: got {num_layers}, expected at most {config.num_layers}, the layers of "
            f"{encoder.name}. Pass --config.model.num_layers={config.num_layers}, or 0 for all."
        )
    if num_layers in (0, config.num_layers):
        return encoder
    if params is not None:
        above = {f"layer_{layer}" for layer in range(num_layers, config.num_layers)}
        kept = {name: value for name, value in params["encoder"].items() if name not in above}
        params = {**params, "encoder": kept}
    return encoder._replace(config=dataclasses.replace(config, num_layers=num_layers), params=params)


def check_start(name: str, step: int | None = None) -> int | None:
    """Check that a name of --init_from leads to what `load_encoder` takes, without reading arrays.

    Returns:
      The step of the checkpoint whose weights it gives: that of the name, or `step`, or the newest. None for
      what has no checkpoints, and for new weights.

    Raises:
      FileNotFoundError, ValueError, OSError: see `load_encoder`.
    """
    if not name.removeprefix(RANDOM).strip():
        raise ValueError(f"--init_from: got {name!r}, expected a directory, or {RANDOM}DIR.")
    checkpoint = parse_checkpoint(name.removeprefix(RANDOM))
    path, is_run = local_directory(checkpoint.directory), False
    if not is_saved_model(path):
        description = _description(name, path)
        is_run = "config" in description
        if not is_run:
            with misread(path):
                _config_of_hugging_face(description)
    if not is_run:
        if checkpoint.step is not None:
            raise ValueError(
                f"--init_from={name}: got a step for {checkpoint.directory}, expected it only for a "
                "pre-training run, which has checkpoints. Leave it out."
            )
        return None
    if name.startswith(RANDOM):
        find_step(path, checkpoint.step)
        return None
    return find_step(path, step if checkpoint.step is None else checkpoint.step)


def _description(name: str, path: Path) -> dict[str, Any]:
    """config.json of a pre-training run or of a Hugging Face model."""
    config_file = path / "config.json"
    if not config_file.is_file():
        raise FileNotFoundError(
            f"--init_from={name}: expected the directory of a run, of a fine-tuned model or of a Hugging "
            f"Face model, but there is no {config_file}."
        )
    description = read_json(config_file, {"config": Maybe(dict)})
    if "task" in description.get("config", {}):
        raise ValueError(
            f"--init_from={name}: got the directory of a fine-tuning, expected one of its models: "
            f"{path / MODELS}/…"
        )
    return description


def _config_of_hugging_face(description: dict[str, Any]) -> EncoderConfig:
    fields = from_config_json(description, enhanced_mask_decoder=False, dtype="float32")
    return make_encoder_config(fields)


def encoder_of_run(
    name: str, params: Params, model: PretrainingConfig, tokenizer: Tokenizer
) -> PretrainedEncoder:
    """The discriminator's encoder, or the only one, among the parameters of a pre-training run.

    Position embeddings that only an enhanced mask decoder reads are left out.
    """
    published = to_published(jax.device_get(params), model)
    module = published["discriminator" if "discriminator" in published else "generator"]
    wanted = flatten_dict(encoder_params(abstract_encoder(module.config, tokenizer)), sep="/")
    leaves = flatten_dict(module.params, sep="/")
    kept = unflatten_dict({path: leaves[path] for path in wanted}, sep="/")
    return PretrainedEncoder(name, module.config, tokenizer, kept)


def _of_hugging_face(name: str, path: Path, cache: Path) -> PretrainedEncoder:
    model, _ = merge_deltas(read_directory(path), None)
    with misread(path):
        config = _config_of_hugging_face(model.config)
        check_layers(config.num_layers, model.arrays)
    adopt_tokenizer(path, cache, lowercase=None)
    tokenizer = load_tokenizer(str(cache))
    abstract = flatten_dict(encoder_params(abstract_encoder(config, tokenizer)), sep="/")
    shapes = {leaf: value.shape for leaf, value in abstract.items()}
    with misread(path):
        found = from_file(model.family, "discriminator", model.arrays, shapes)
    if found.missing:
        raise ValueError(
            f"{path}: the file has no arrays for {', '.join(found.missing[:4])}. Is it another type of model?"
        )
    length = declared_length(path) or config.max_position_embeddings
    params = unflatten_dict(found.leaves, sep="/")
    return PretrainedEncoder(name, config, tokenizer, params, trained_length=length)
