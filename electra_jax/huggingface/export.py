"""A trained run as Hugging Face repositories: DIR/discriminator and DIR/generator, each complete by itself.

config.json  model.safetensors             the model
tokenizer.json, tokenizer_config.json, …   its tokenizer (tokenizer.py)
modeling_*.py                              classes of its own: where the bias of distances has none in
                                           `transformers`, or DeBERTa's detection head shall have one
rtd_head.safetensors                       DeBERTa's detection head, for which `transformers` has no class
enhanced_mask_decoder.safetensors          the position table of a DeBERTa generator's decoder, for which it
                                           has none either
README.md  training_config.json            model card (card.py); the run's configuration
verification.safetensors                   what our own model computes (reference.py), for verify.py
"""

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from safetensors.numpy import save_file

from electra_jax.huggingface.configuration import RELATIVE_BIAS_FILE, to_config_json
from electra_jax.huggingface.names import DEBERTA_V2, ELECTRA, to_file
from electra_jax.huggingface.published_models import ModelWeights, with_token_types
from electra_jax.huggingface.reference import CorruptedRows, digest, record
from electra_jax.models.config import EncoderConfig, make_pretraining_config
from electra_jax.models.pretraining import has_decoder
from electra_jax.objectives.registry import find_row

CONFIG_FILE, WEIGHTS_FILE = "config.json", "model.safetensors"
HEAD_FILE, DECODER_FILE = "rtd_head.safetensors", "enhanced_mask_decoder.safetensors"
REFERENCE_FILE, TRAINING_FILE, CARD_FILE = "verification.safetensors", "training_config.json", "README.md"
FINETUNING_FILE = "finetuning.json"  # in place of the training configuration, of a model for a task
CODE_FILE, CODE_CLASS = "modeling_deberta_v2_rtd.py", "DebertaV2ForReplacedTokenDetection"
# Stored dtype of the weights.
DTYPES = {"float32": np.dtype(np.float32), "bfloat16": np.dtype(jnp.bfloat16)}


class VerificationInputs(NamedTuple):
    """What the export is compared on: corrupted rows, and (text, token ids) of lines."""

    rows: CorruptedRows
    lines: list[tuple[str, list[int]]]
    pad_token_id: int


def published_config(config: dict[str, Any], role: str) -> EncoderConfig:
    """The encoder of a role from a run's whole configuration."""
    model = make_pretraining_config(config["model"])
    predicts_tokens = find_row(config["objective"]["name"]).predicts_tokens
    return model.discriminator if predicts_tokens else getattr(model, role)


def has_exact_logits(encoder: EncoderConfig, role: str) -> bool:
    """Whether `transformers` can compute what the model was trained to: not through an enhanced mask
    decoder."""
    return not (role == "generator" and has_decoder(encoder))


def cast_weights(published: ModelWeights, dtype: str) -> ModelWeights:
    """The parameters as `dtype` can hold them, in float32; what is computed with them is float32 too, as in
    `verify`."""
    params = jax.tree.map(lambda x: np.asarray(x).astype(DTYPES[dtype]).astype(np.float32), published.params)
    return published._replace(config=dataclasses.replace(published.config, dtype="float32"), params=params)


def write_model(
    directory: Path,
    role: str,
    published: ModelWeights,
    evidence: VerificationInputs,
    description: dict[str, Any],
    *,
    dtype: str,
    custom_code: bool,
) -> None:
    """Write the model's files but for tokenizer and card into `directory`, which must exist. `published` is
    `rounded`.

    `custom_code` puts DeBERTa's detection head into the model itself, with a class of its own to load it.
    """
    encoder = published.config
    with_code = custom_code and encoder.disentangled is not None and role == "discriminator"
    files = _files(role, published, dtype, with_code)
    for name, arrays in files.items():
        save_file(arrays, directory / name, metadata={"format": "pt"})
    additions = {}
    if with_code:
        additions = {
            "architectures": [CODE_CLASS],
            "auto_map": {"AutoModelForPreTraining": f"{Path(CODE_FILE).stem}.{CODE_CLASS}"},
        }
        copy_code(CODE_FILE, directory)
    if encoder.relative_bias is not None:
        copy_code(RELATIVE_BIAS_FILE, directory)
    config = to_config_json(encoder, role, pad_token_id=evidence.pad_token_id, dtype=dtype) | additions
    write_json(directory / CONFIG_FILE, config)
    write_json(directory / TRAINING_FILE, description)
    notes = {
        "role": role,
        "dtype": dtype,
        "pad_token_id": evidence.pad_token_id,
        "config_additions": additions,
        "has_exact_logits": has_exact_logits(encoder, role),
        "lines": evidence.lines,
        "digests": {
            name: {key: digest(array) for key, array in arrays.items()} for name, arrays in files.items()
        },
    }
    # One entry: the library writes several in any order.
    save_file(
        record(published, role, evidence.rows),
        directory / REFERENCE_FILE,
        metadata={"notes": json.dumps(notes)},
    )


def _files(
    role: str, published: ModelWeights, dtype: str, with_code: bool
) -> dict[str, dict[str, np.ndarray]]:
    """File → its arrays: what the class of `transformers` takes, and what it has no place for."""
    encoder = published.config
    family = ELECTRA if encoder.disentangled is None else DEBERTA_V2
    params = with_token_types(published.params, encoder)
    arrays = {name: array.astype(DTYPES[dtype]) for name, array in to_file(family, role, params).items()}
    files: dict[str, dict[str, np.ndarray]] = {WEIGHTS_FILE: {}}
    for name, array in arrays.items():
        file = WEIGHTS_FILE
        if name.startswith("mask_predictions.") and not with_code:
            file = HEAD_FILE
        elif not has_exact_logits(encoder, role) and name == "deberta.embeddings.position_embeddings.weight":
            file = DECODER_FILE
        files.setdefault(file, {})[name] = array
    return files


def copy_code(name: str, directory: Path) -> None:
    """Put a file of custom_code/ beside a model."""
    shutil.copyfile(Path(__file__).with_name("custom_code") / name, directory / name)


def write_json(path: Path, value: Any) -> None:
    """A file of a published model; the same bytes each time."""
    path.write_text(json.dumps(value, indent=2, sort_keys=True) + "\n", encoding="utf-8")
