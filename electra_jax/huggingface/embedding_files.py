"""What sentence-transformers reads beside the files of a model: how a text's states become one vector.

modules.json                       Transformer → Pooling → Normalize
sentence_bert_config.json          of the first: tokens in the longest text
1_Pooling/config.json              of the second; the third has none
config_sentence_transformers.json  the similarity of two vectors

The names of classes and keys are those of versions before 5.4, which are read by every version from 3.0 to
6.2: newer ones write other names, and replace these without a warning. Nothing here names code outside
sentence-transformers. Source: its base/model.py, base/modules/ and sentence_transformer/modules/pooling.py.
"""

from pathlib import Path
from typing import Any

import numpy as np

from data_pipelines.json_files import read_json, write_json
from electra_jax.huggingface.checks import Check
from electra_jax.huggingface.task_heads import Description, longest_row, pooling_of
from electra_jax.models.config import EncoderConfig

EMBEDDING = "embedding"  # config.task.kind
MODULES_FILE, LENGTH_FILE = "modules.json", "sentence_bert_config.json"
POOLING_FILE, SIMILARITY_FILE = "1_Pooling/config.json", "config_sentence_transformers.json"
MODULE_FILES = (MODULES_FILE, LENGTH_FILE, POOLING_FILE, SIMILARITY_FILE)
MODULES = [
    {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
    {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
    {"idx": 2, "name": "2", "path": "2_Normalize", "type": "sentence_transformers.models.Normalize"},
]
# config.model.pooling → the key of POOLING_FILE that is true.
POOLING_KEYS = {"cls": "pooling_mode_cls_token", "mean": "pooling_mode_mean_tokens"}
SMALLEST_NORM = 1e-12  # as PyTorch's normalize
# Its keys that are always false.
OTHER_POOLINGS = ("max_tokens", "mean_sqrt_len_tokens", "weightedmean_tokens", "lasttoken")


def unit_vectors(vectors: np.ndarray) -> np.ndarray:
    """Vectors [..., D] of length 1, in float32, as the module Normalize computes them; the vector 0 stays."""
    vectors = np.asarray(vectors, np.float32)
    return vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), SMALLEST_NORM)


def widths_of(description: Description) -> tuple[int, ...]:
    """How many first dimensions were also trained to be embeddings; () if none were."""
    return tuple(description["task"]["matryoshka"])


def module_files(encoder: EncoderConfig, description: Description) -> dict[str, Any]:
    """File → its content, for a model of the task "embedding"."""
    pooling = pooling_of(description)
    modes = {key: name == pooling for name, key in POOLING_KEYS.items()}
    modes |= {f"pooling_mode_{name}": False for name in OTHER_POOLINGS}
    return {
        MODULES_FILE: MODULES,
        LENGTH_FILE: {"max_seq_length": longest_row(encoder, description), "do_lower_case": False},
        POOLING_FILE: {"word_embedding_dimension": encoder.hidden_size, **modes, "include_prompt": True},
        SIMILARITY_FILE: {
            "model_type": "SentenceTransformer",
            "prompts": {},
            "default_prompt_name": None,
            "similarity_fn_name": "cosine",
        },
    }


def write_module_files(directory: Path, encoder: EncoderConfig, description: Description) -> None:
    """Write them into the directory of a model."""
    for name, content in module_files(encoder, description).items():
        path = directory / name
        path.parent.mkdir(exist_ok=True)
        write_json(path, content)


def check_module_files(directory: Path, encoder: EncoderConfig, description: Description) -> list[Check]:
    """Whether each of them is the exported one: they name classes, which sentence-transformers imports."""
    checks = []
    for name, wanted in module_files(encoder, description).items():
        try:
            is_own = read_json(directory / name, type(wanted)) == wanted
            detail = "as exported" if is_own else "is not what was exported"
        except (OSError, ValueError) as error:
            is_own, detail = False, str(error)
        checks.append(Check(name, is_own, detail))
    return checks
