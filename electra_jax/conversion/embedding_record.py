"""What the export of an embedding model records: vectors of our own model for a few texts.

Shapes: B batch, L length, D hidden.
"""

from typing import Any

import jax.numpy as jnp
import numpy as np

from data_pipelines.tasks.encoding import encode_examples
from data_pipelines.tasks.examples import TextExample
from electra_jax.finetuning.model_files import SavedModel
from electra_jax.finetuning.models import TaskModel
from electra_jax.finetuning.padding import pad_rows
from electra_jax.huggingface.comparison_rows import MAX_LENGTH, comparison_rows
from electra_jax.huggingface.comparison_texts import VerificationText, comparison_singles
from electra_jax.huggingface.embedding_checks import VECTORS
from electra_jax.huggingface.embedding_files import EMBEDDING, unit_vectors
from electra_jax.huggingface.published_models import ModelWeights
from electra_jax.huggingface.reference import record_states, task_outputs
from electra_jax.huggingface.task_heads import longest_row, pooling_of
from electra_jax.models.inputs import SpecialTokens, derive_inputs


def record_embeddings(
    model: ModelWeights, saved: SavedModel, text: VerificationText
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Vectors of length 1 for texts of several lengths, the last one cut to the longest text that the model
    reads; without texts, for random ids.

    Returns:
      Arrays for verification.safetensors, and notes: the task type, and the texts.
    """
    special = SpecialTokens.from_ids(saved.tokenizer.special)
    length = longest_row(model.config, saved.description)
    texts = comparison_singles(text.plain, length)
    rows, _ = encode_examples(saved.tokenizer, [TextExample(one, None, None) for one in texts], length)
    kept = [(text, row.ids) for text, row in zip(texts, rows, strict=True) if len(row.ids) <= MAX_LENGTH]
    if kept:
        ids_BL = pad_rows([ids for _, ids in kept], len(kept), special.pad)
    else:
        ids_BL = comparison_rows((), special, saved.tokenizer.vocab_size, min(length, MAX_LENGTH))
    pooling = pooling_of(saved.description)
    embedder = TaskModel(model.config, special, EMBEDDING, 0, "published", 0.0, pooling)
    states_NBLD, pooled_BD = task_outputs(embedder, model.params, jnp.asarray(ids_BL))
    inputs = derive_inputs(jnp.asarray(ids_BL), special, model.config.type_vocab_size)
    recorded = record_states(jnp.asarray(ids_BL), inputs, states_NBLD)
    notes = {"kind": EMBEDDING, "texts": [text for text, _ in kept]}
    return recorded | {VECTORS: unit_vectors(pooled_BD)}, notes
