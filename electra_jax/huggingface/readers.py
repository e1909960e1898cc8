"""Reads arrays and configuration from checkpoint files of other projects, without unpickling any.

huggingface  a directory with config.json and model.safetensors (one file or several) or pytorch_model.bin
microsoft    Microsoft's own files, with the same names: the encoder with its heads; with GDES its deltas are
             named "…word_embeddings._weight"
google       a TensorFlow checkpoint of google-research/electra, named by its prefix: DIR/model.ckpt-1000000
"""

import re
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from data_pipelines.command_errors import shorten
from data_pipelines.json_files import Maybe, misread, read_json
from data_pipelines.plain_names import check_plain_name
from electra_jax.huggingface.array_files import finite_float32, read_safetensors, reader_errors
from electra_jax.huggingface.configuration import RELATIVE_BIAS_TYPE
from electra_jax.huggingface.export import CONFIG_FILE, DECODER_FILE, HEAD_FILE, WEIGHTS_FILE
from electra_jax.huggingface.modernbert import MODEL_TYPE, MODERN_BERT
from electra_jax.huggingface.names import (
    BERT,
    DEBERTA_V2,
    ELECTRA,
    MICROSOFT_DEBERTA,
    Family,
    google_electra,
    has_ambiguous_detection_names,
    word_table,
)
from electra_jax.huggingface.published_models import ROLES
from electra_jax.huggingface.recorded_digests import check_as_exported

FAMILIES = {
    "electra": ELECTRA,
    RELATIVE_BIAS_TYPE: ELECTRA,
    "bert": BERT,
    "deberta-v2": DEBERTA_V2,
    MODEL_TYPE: MODERN_BERT,
}
# Prefixes by which a file of one family could be taken for another's; RoBERTa's could be taken for BERT's.
PREFIXES = {"roberta.", ELECTRA.prefix, BERT.prefix, DEBERTA_V2.prefix}
OTHER_FORMATS = (".h5", ".msgpack")
INDEX_FILE, PICKLE_FILE = f"{WEIGHTS_FILE}.index.json", "pytorch_model.bin"
# Of a generator in the directory of its discriminator: Microsoft's name, and those of conversions of it.
GENERATOR_FILES = (
    "model.generator.safetensors",
    "pytorch_model.generator.safetensors",
    "pytorch_model.generator.bin",
)
MAX_STATE_DEPTH = 8  # dictionaries around the weights in a checkpoint of a trainer
STATE_KEYS = ("state_dict", "model_state_dict", "model", "module")  # of checkpoints with more than a model
DELTA, TABLE = "word_embeddings._weight", "word_embeddings.weight"


class SourceModel(NamedTuple):
    """One model as read from files."""

    path: Path
    family: Family  # of its arrays' names
    config: dict[str, Any]  # with the fields of a Hugging Face config.json
    arrays: dict[str, np.ndarray]


def read_directory(path: Path) -> SourceModel:
    """A Hugging Face or Microsoft model: a directory, or a weights file with its configuration beside it.

    Raises:
      FileNotFoundError: no weights, or no configuration.
      ValueError: another type of model, a damaged file, weights that are not finite numbers, or an export of
        this project whose weights are not those that it recorded.
      ImportError: a .bin file, and PyTorch is not installed.
    """
    file = path if path.is_file() else _weights_of(path)
    config = _read_config(file)
    model_type = config.get("model_type")
    if not isinstance(model_type, str) or model_type not in FAMILIES:
        raise ValueError(
            f"{file.parent / CONFIG_FILE}: got model_type {model_type!r}, expected one of "
            f"{sorted(FAMILIES)}. Only these can be imported."
        )
    family = FAMILIES[model_type]
    arrays = _read_weights(file)
    files = {file.name: dict(arrays)}
    for extra in (HEAD_FILE, DECODER_FILE):
        if (file.parent / extra).is_file():
            files[extra] = read_safetensors(file.parent / extra).arrays
            arrays |= files[extra]
    parameters = {
        name: array
        for name, array in usual_names(file, arrays, family).items()
        if not name.endswith(("position_ids", "token_type_ids"))  # constants that transformers once saved
    }
    parameters = finite_float32(parameters, file)
    check_as_exported(file.parent, files)  # after what tells more about an array
    if any(name.startswith("lm_predictions.") for name in parameters):
        family = MICROSOFT_DEBERTA
    if HEAD_FILE not in files and has_ambiguous_detection_names(family):
        family = family._replace(heads=family.heads | {"discriminator": ()})
    return SourceModel(path, family, config, parameters)


def usual_names(file: Path, arrays: dict[str, np.ndarray], family: Family) -> dict[str, np.ndarray]:
    """The arrays of a file by the names that `transformers` gives them now.

    Wrappers put a prefix before every name, which is left out: DataParallel "module.", torch.compile
    "_orig_mod.", a model within a model "model." or "discriminator.". The oldest files call scale and bias of
    a LayerNorm gamma and beta.

    Raises:
      ValueError: the file holds several encoders, or none with the family's names.
    """
    prefix, table = family.prefix, word_table(family)
    usual = {_usual_name(name): array for name, array in arrays.items()}
    if len(usual) < len(arrays):
        raise ValueError(
            f"{file}: got several arrays of one name without the names of wrappers, among "
            f"{shorten(sorted(arrays.keys() - usual.keys()))}, expected each once. Save the model alone."
        )
    pattern = re.compile(rf"(^|(?<=\.)){re.escape(table)}\._?weight$")
    wrappers = {pattern.sub("", name) for name in usual if pattern.search(name)}
    wrappers = {re.sub(rf"(^|(?<=\.)){re.escape(prefix)}$", "", wrapper) for wrapper in wrappers}
    others = [wrapper for wrapper in wrappers if wrapper.endswith(tuple(PREFIXES - {prefix}))]
    if len(wrappers) != 1 or others:
        found = f"encoders below {shorten(sorted(wrappers))}" if wrappers else shorten(sorted(arrays))
        raise ValueError(
            f"{file}: got {found or 'no arrays'}, expected one encoder, with {prefix}{table}.weight and "
            "the other names of PyTorch's `transformers`. Load each model with its own class there, and "
            "save it alone with save_pretrained."
        )
    [wrapper] = wrappers
    return {name.removeprefix(wrapper): array for name, array in usual.items()}


def _usual_name(name: str) -> str:
    name = re.sub(r"(^|\.)_(orig_mod|fsdp_wrapped_module|checkpoint_wrapped_module)(?=\.)", "", name)
    name = re.sub(r"LayerNorm\.gamma$", "LayerNorm.weight", name.removeprefix("."))
    return re.sub(r"LayerNorm\.beta$", "LayerNorm.bias", name)


def _weights_of(directory: Path) -> Path:
    for name in (WEIGHTS_FILE, INDEX_FILE, PICKLE_FILE):
        if (directory / name).is_file():
            return directory / name
    others = [path.name for path in sorted(directory.glob("*")) if path.suffix in OTHER_FORMATS]
    raise FileNotFoundError(
        f"{directory}: expected {WEIGHTS_FILE}, {INDEX_FILE} or {PICKLE_FILE} in it, or the path of a "
        "weights file."
        + (
            f" {' and '.join(others)}: files of TensorFlow and Flax are not read. `transformers` before "
            "version 5 loads them with from_tf=True or from_flax=True; save_pretrained then writes "
            f"{WEIGHTS_FILE}."
            if others
            else ""
        )
    )


def generator_beside(path: Path) -> Path | None:
    """The generator's file in the directory of a discriminator (as of `read_directory`), None if it has none
    or `path` is a weights file with a name of its own."""
    if not path.is_dir() and path.name not in (WEIGHTS_FILE, INDEX_FILE, PICKLE_FILE):
        return None
    directory = path if path.is_dir() else path.parent
    return next((directory / name for name in GENERATOR_FILES if (directory / name).is_file()), None)


def _read_weights(file: Path) -> dict[str, np.ndarray]:
    if file.name.endswith(".index.json"):
        return _read_parts(file)
    return read_safetensors(file).arrays if file.suffix == ".safetensors" else _read_pickle(file)


def _read_parts(index: Path) -> dict[str, np.ndarray]:
    """The arrays of several safetensors files, which an index lists. All lie beside it."""
    listed = read_json(index, {"weight_map": {str: str}}, advice="Fetch it again.")["weight_map"].values()
    arrays: dict[str, np.ndarray] = {}
    for part in sorted({check_plain_name(name, index) for name in listed}):
        found = read_safetensors(index.parent / part).arrays
        if twice := arrays.keys() & found.keys():
            raise ValueError(
                f"{index}: {shorten(sorted(twice))}: in {part} and in a file before it, expected each array "
                "once. Fetch the files again."
            )
        arrays |= found
    return arrays


def _read_pickle(file: Path) -> dict[str, np.ndarray]:
    """Read a PyTorch file with PyTorch's own reader, in the mode that only builds tensors."""
    try:
        import torch
    except ImportError as error:
        raise ImportError(
            f"{file}: reading a PyTorch file needs PyTorch: `pip install torch`, or save the model with "
            "safe_serialization=True, which writes model.safetensors."
        ) from error
    kind = "a file of PyTorch's that can be read without running code in it"
    advice = "Save the model with safe_serialization=True, which writes model.safetensors."
    with reader_errors(file, kind, advice):
        state = torch.load(file, map_location="cpu", weights_only=True)
    for _ in range(MAX_STATE_DEPTH):
        if not isinstance(state, dict) or any(isinstance(value, torch.Tensor) for value in state.values()):
            break
        state = next((state[key] for key in STATE_KEYS if isinstance(state.get(key), dict)), None)
    if not isinstance(state, dict):
        raise ValueError(f"{file}: holds no dictionary of arrays, expected the state_dict of a model.")
    return {
        name: _as_numpy(torch, tensor)
        for name, tensor in state.items()
        if isinstance(name, str) and isinstance(tensor, torch.Tensor)
    }


def _as_numpy(torch: Any, tensor: Any) -> np.ndarray:
    """A tensor with its type; one of bfloat16, which NumPy lacks, in float32."""
    dense = tensor.to_dense() if tensor.is_sparse else tensor
    return (dense.float() if dense.dtype == torch.bfloat16 else dense).detach().numpy()


def _read_config(file: Path) -> dict[str, Any]:
    """config.json beside the weights, or generator_config.json for a generator in the same directory."""
    names = ["generator_config.json"] * ("generator" in file.name) + [CONFIG_FILE]
    for name in names:
        if (file.parent / name).is_file():
            config = read_json(file.parent / name, {"model": Maybe(dict)})
            return config.get("model", config)  # a section in Microsoft's training configuration
    raise FileNotFoundError(
        f"{file.parent}: no {' or '.join(names)} beside {file.name}, expected one to give the model's shape."
    )


def merge_deltas(discriminator: SourceModel, generator: SourceModel | None) -> tuple[SourceModel, list[str]]:
    """The discriminator with complete embedding tables, and notes for the user about them.

    A file saved during training with GDES holds E_Δ as `_weight` and, as `weight`, the sum E_G + E_Δ of the
    last forward pass, which is one update old.

    Raises:
      ValueError: E_Δ is given, but neither E_G nor a sum.
    """
    arrays = dict(discriminator.arrays)
    names = [name for name in arrays if name.endswith(DELTA)]
    if not names:
        return discriminator, []
    for name in [name for name in arrays if name.endswith("position_embeddings._weight")]:
        del arrays[name]  # never read by DeBERTaV3's discriminator
    delta, table = arrays.pop(names[0]), names[0].replace(DELTA, TABLE)
    if generator is not None:
        base = next(array for name, array in generator.arrays.items() if name.endswith(TABLE))
        arrays[table] = base + delta
        return discriminator._replace(arrays=arrays), ["word embeddings: the generator's plus the delta"]
    if table not in arrays:
        raise ValueError(
            f"{discriminator.path}: {names[0]} is only the difference to the generator's embeddings, "
            "which are not in the file. Give the generator's file with --generator."
        )
    return discriminator._replace(arrays=arrays), [
        "word embeddings: the sum stored in the file, one update older than the rest; give --generator to "
        "compute the current one"
    ]


def read_google(prefix: Path) -> dict[str, SourceModel]:
    """Role → model, from a google-research/electra checkpoint. A fine-tuned one has no generator.

    Raises:
      ImportError: TensorFlow is not installed.
      FileNotFoundError: no such checkpoint.
      ValueError: not an ELECTRA checkpoint.
    """
    arrays = _read_tensorflow(prefix)
    if "electra/embeddings/word_embeddings" not in arrays:
        raise ValueError(
            f"{prefix}: got a checkpoint with {sorted(arrays)[:3]} …, expected google-research/electra's, "
            "with electra/embeddings/word_embeddings."
        )
    is_shared = "generator/embeddings/word_embeddings" not in arrays
    models = {}
    for role in ROLES:
        family = google_electra(role, is_shared)
        if any(name.startswith(f"{family.prefix}encoder/") for name in arrays):
            with misread(prefix, "Fetch the checkpoint again."):
                config = _google_config(arrays, family.prefix, is_shared)
            models[role] = SourceModel(prefix, family, config, arrays)
    return models


def _read_tensorflow(prefix: Path) -> dict[str, np.ndarray]:
    try:
        import tensorflow
    except ImportError as error:
        raise ImportError(
            f"{prefix}: reading a TensorFlow checkpoint needs TensorFlow: `pip install tensorflow`, in a "
            "separate environment if its dependencies conflict with the installed ones."
        ) from error
    if not prefix.with_name(f"{prefix.name}.index").is_file():
        raise FileNotFoundError(
            f"{prefix}: expected the prefix of a TensorFlow checkpoint, beside {prefix.name}.index."
        )
    try:
        reader = tensorflow.train.load_checkpoint(str(prefix))
        arrays = {
            name: np.asarray(reader.get_tensor(name))
            for name in reader.get_variable_to_shape_map()
            if not re.search(r"(^|/)(adam_[mv]|global_step)$", name)
        }
    except tensorflow.errors.OpError as error:
        raise ValueError(f"{prefix}: damaged ({error.message}). Fetch the checkpoint again.") from error
    return finite_float32(arrays, prefix)


def _google_config(arrays: dict[str, np.ndarray], scope: str, is_shared: bool) -> dict[str, Any]:
    """The configuration, which Google's files lack: from the arrays' shapes, and from constants in Google's
    model/modeling.py."""
    embeddings = f"{'electra/' if is_shared else scope}embeddings/"
    kernel = arrays[f"{scope}encoder/layer_0/intermediate/dense/kernel"]
    layers = {name.split("/")[2] for name in arrays if name.startswith(f"{scope}encoder/layer_")}
    vocab_size, embedding_size = arrays[f"{embeddings}word_embeddings"].shape
    hidden_size, intermediate_size = kernel.shape
    return {
        "model_type": "electra",
        "vocab_size": vocab_size,
        "embedding_size": embedding_size,
        "hidden_size": hidden_size,
        "num_hidden_layers": len(layers),
        "num_attention_heads": max(1, hidden_size // 64),
        "intermediate_size": intermediate_size,
        "max_position_embeddings": len(arrays[f"{embeddings}position_embeddings"]),
        "type_vocab_size": len(arrays[f"{embeddings}token_type_embeddings"]),
        "hidden_act": "gelu",
        "hidden_dropout_prob": 0.1,
        "attention_probs_dropout_prob": 0.1,
        "layer_norm_eps": 1e-12,
        "initializer_range": 0.02,
    }
