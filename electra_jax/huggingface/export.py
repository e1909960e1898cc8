"""Files of an exported pre-training model. A run becomes two self-contained Hugging Face repositories,
DIR/discriminator and DIR/generator:

config.json  model.safetensors             the model
tokenizer.json, tokenizer_config.json, …   its tokenizer (tokenizer.py)
modeling_*.py                              classes that `transformers` lacks, if the model needs them: for a
                                           relative position bias, or with custom_code for DeBERTa's detection
                                           head
rtd_head.safetensors                       the detection head of DeBERTa (without custom_code) and of
                                           ModernBERT
model.safetensors.index.detector.json      ModernBERT: lists the arrays of encoder and head, for
                                           from_pretrained(…, variant="detector")
enhanced_mask_decoder.safetensors          the position table of a DeBERTa generator's enhanced mask decoder,
                                           for which `transformers` has no class
README.md  training_config.json            model card (card.py); the run's configuration, names for paths
verification.safetensors                   outputs of our own model (reference.py), for verify.py
"""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from data_pipelines.json_files import write_json
from electra_jax.huggingface.array_files import digests, write_arrays
from electra_jax.huggingface.configuration import RELATIVE_BIAS_FILE, to_config_json
from electra_jax.huggingface.families import family_of
from electra_jax.huggingface.names import to_file
from electra_jax.huggingface.public_names import public_description
from electra_jax.huggingface.published_models import ModelWeights, with_token_types
from electra_jax.huggingface.reference import CorruptedRows, in_float32, record
from electra_jax.models.config import EncoderConfig, make_pretraining_config
from electra_jax.models.inputs import SpecialTokens
from electra_jax.models.pretraining import has_decoder
from electra_jax.objectives.registry import find_row

CONFIG_FILE, WEIGHTS_FILE = "config.json", "model.safetensors"
HEAD_FILE, DECODER_FILE = "rtd_head.safetensors", "enhanced_mask_decoder.safetensors"
VARIANT = "detector"  # of from_pretrained
DETECTOR_FILE = f"{WEIGHTS_FILE}.index.{VARIANT}.json"
REFERENCE_FILE, TRAINING_FILE, CARD_FILE = "verification.safetensors", "training_config.json", "README.md"
FINETUNING_FILE = "finetuning.json"  # what TRAINING_FILE is for a run, for a fine-tuned model
CODE_FILE, CODE_CLASS = "modeling_deberta_v2_rtd.py", "DebertaV2ForReplacedTokenDetection"
# Fields of config.json of a model with that class.
CODE_ADDITIONS = {
    "architectures": [CODE_CLASS],
    "auto_map": {"AutoModelForPreTraining": f"{Path(CODE_FILE).stem}.{CODE_CLASS}"},
}
# Stored dtype of the weights.
DTYPES = {"float32": np.dtype(np.float32), "bfloat16": np.dtype(jnp.bfloat16)}


class VerificationInputs(NamedTuple):
    """The inputs on which an export is compared with our own model. They become part of it."""

    rows: CorruptedRows
    lines: list[tuple[str, list[int]]]  # (text, token ids)
    special: SpecialTokens


def published_config(config: dict[str, Any], role: str) -> EncoderConfig:
    """The encoder of a published role, from the configuration of a run."""
    model = make_pretraining_config(config["model"])
    predicts_tokens = find_row(config["objective"]["name"]).predicts_tokens
    return model.discriminator if predicts_tokens else getattr(model, role)


def has_exact_logits(encoder: EncoderConfig, role: str) -> bool:
    """Whether `transformers` computes the logits that were trained: it has no enhanced mask decoder."""
    return not (role == "generator" and has_decoder(encoder))


def cast_weights(published: ModelWeights, dtype: str) -> ModelWeights:
    """The parameters rounded to `dtype`, as float32 arrays; the model computes in float32, as `verify`
    does."""
    params = jax.tree.map(lambda x: np.asarray(x).astype(DTYPES[dtype]).astype(np.float32), published.params)
    return published._replace(config=in_float32(published.config), params=params)


def write_model(
    directory: Path,
    role: str,
    weights: ModelWeights,
    inputs: VerificationInputs,
    description: dict[str, Any],
    *,
    dtype: str,
    custom_code: bool,
) -> None:
    """Write all files of a model except tokenizer and card.

    Args:
      directory: an existing directory.
      role: "discriminator" or "generator".
      weights: the model, cast by `cast_weights`.
      inputs: what verification.safetensors records the model's outputs on.
      description: the content of the run's config.json.
      dtype: of the stored weights.
      custom_code: whether DeBERTa's detection head becomes part of the model, with a class that loads it.
    """
    encoder = weights.config
    with_code = custom_code and encoder.disentangled is not None and role == "discriminator"
    files = _files(role, weights, dtype, with_code)
    for name, arrays in files.items():
        write_arrays(directory / name, arrays, metadata={"format": "pt"})
    additions = {}
    if with_code:
        additions = CODE_ADDITIONS
        copy_code(CODE_FILE, directory)
    if encoder.relative_bias is not None:
        copy_code(RELATIVE_BIAS_FILE, directory)
    if HEAD_FILE in files and family_of(encoder).detector:
        write_json(directory / DETECTOR_FILE, detector_index(files), sort_keys=True)
    config = to_config_json(encoder, role, special=inputs.special, dtype=dtype) | additions
    write_json(directory / CONFIG_FILE, config, sort_keys=True)
    write_json(directory / TRAINING_FILE, public_description(description), sort_keys=True)
    notes = {
        "role": role,
        "dtype": dtype,
        **special_notes(inputs.special, config),
        "config_additions": additions,
        "has_exact_logits": has_exact_logits(encoder, role),
        "lines": inputs.lines,
        "digests": {name: digests(arrays) for name, arrays in files.items()},
    }
    write_reference(directory, record(weights, role, inputs.rows), notes)


def _files(role: str, weights: ModelWeights, dtype: str, with_code: bool) -> dict[str, dict[str, np.ndarray]]:
    """File → its arrays. What the class in `transformers` has no place for goes into other files."""
    encoder = weights.config
    family, params = family_of(encoder), weights.params
    if family.needs_token_types:
        params = with_token_types(params, encoder)
    in_head_file = set()
    if role == "discriminator" and family.has_head_file and not with_code:
        in_head_file = set(to_file(family.names, role, {"head": params["head"]}))
    arrays = to_file(family.names, role, params)
    files: dict[str, dict[str, np.ndarray]] = {WEIGHTS_FILE: {}}
    for name, array in arrays.items():
        file = WEIGHTS_FILE
        if name in in_head_file:
            file = HEAD_FILE
        elif not has_exact_logits(encoder, role) and name == "deberta.embeddings.position_embeddings.weight":
            file = DECODER_FILE
        files.setdefault(file, {})[name] = array.astype(DTYPES[dtype])
    return files


def detector_index(files: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """What `from_pretrained(directory, variant="detector")` reads: names of arrays → the file that has them.

    Encoder and head are in separate files: a `classifier` in the main file would be taken for that of any
    token or text classifier, and `transformers` refuses to load one with another number of labels."""
    return {"metadata": {}, "weight_map": {name: file for file, arrays in files.items() for name in arrays}}


def special_notes(special: SpecialTokens, config: dict[str, Any]) -> dict[str, Any]:
    """What verification.safetensors notes of the special tokens: those that `config`, the model's
    config.json, has. `checks.noted_special` reads it."""
    notes = {"pad_token_id": special.pad}
    return notes | ({"special_ids": special._asdict()} if "cls_token_id" in config else {})


def copy_code(name: str, directory: Path) -> None:
    """Copy a file of custom_code/ into the directory of a model."""
    shutil.copyfile(Path(__file__).with_name("custom_code") / name, directory / name)


def write_reference(directory: Path, arrays: dict[str, np.ndarray], notes: dict[str, Any]) -> None:
    """Write verification.safetensors: recorded arrays, and notes in its metadata."""
    # A single metadata entry, since the library writes several in an arbitrary order.
    write_arrays(directory / REFERENCE_FILE, arrays, metadata={"notes": json.dumps(notes)})
