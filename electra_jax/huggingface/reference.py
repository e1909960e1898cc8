"""Records outputs of our own model beside an export, so that anyone can verify the files without JAX.

Rows of text and of random ids (comparison_rows.py) are corrupted as in training. The model's hidden states,
logits and predictions on them are recorded. huggingface/verify.py compares them with the outputs of the
classes in `transformers`, to 1e-4. All is therefore computed in float32 at the highest precision, whatever
the run's dtype, the device and the settings of the process.

Shapes: B batch, L length, P masked positions, S recorded positions, N layers, D hidden, V vocab, E
embedding_size.
"""

import dataclasses
import functools
import re
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from electra_jax.huggingface.published_models import ModelWeights, PublishedModule
from electra_jax.models.config import EncoderConfig
from electra_jax.models.inputs import EncoderInputs, SpecialTokens
from electra_jax.models.layers import einsum_f32
from electra_jax.models.pretraining import gather_positions
from electra_jax.objectives.corruption import MaskedBatch, mask_tokens, write_tokens
from electra_jax.objectives.fixed_generators import draw_unigrams
from electra_jax.objectives.vocabulary import VocabularyPredictions, predict_vocabulary

NUM_ROWS = 8
# Positions of each row whose states are recorded. Few suffice: attention carries an error anywhere in the row
# to all of them.
NUM_POSITIONS = 4
NUM_LOGITS = 8  # masked positions whose logits over the whole vocabulary are recorded
VOCAB_CHUNK = 16_384
MASK_PROB = 0.15
_OF_STATES = re.compile(r"embeddings|embeddings_project|conv|layer_\d+")  # modules that return hidden states


class CorruptedRows(NamedTuple):
    """Rows as the two models read them."""

    batch: MaskedBatch  # the generator's input
    corrupted_BL: jax.Array  # the discriminator's input


def single_documents(rows_BL: np.ndarray, special: SpecialTokens, type_vocab_size: int) -> np.ndarray:
    """The first document of each of NUM_ROWS packed rows, padded: `transformers` cannot read packed rows.

    With token types every second row is a pair of documents, "[CLS] a [SEP] b [SEP]", cut to the length.
    """
    length = rows_BL.shape[1]
    documents = []
    for row in rows_BL:
        starts = np.flatnonzero(row == special.cls)
        end = starts[1] if len(starts) > 1 else int((row != special.pad).sum())
        documents.append(row[:end].tolist())
    if type_vocab_size > 1:
        pairs = zip(documents, documents[1:] + documents[:1], strict=True)
        documents = [ids for one, other in pairs for ids in (one, one[: length // 2] + other[1:])]
    out = np.full((NUM_ROWS, length), special.pad, np.int32)
    for row, ids in zip(out, documents, strict=False):
        row[: min(len(ids), length)] = ids[:length]
    used = out[(out != special.pad).any(axis=1)]
    return used[:, : int((used != special.pad).sum(axis=1).max())]


def corrupt(
    generator: ModelWeights | None, ids_BL: np.ndarray, special: SpecialTokens, type_vocab_size: int
) -> CorruptedRows:
    """Mask 15 % of the tokens and replace them by the generator's samples, or without a generator by tokens
    from other positions."""
    batch = mask_tokens(
        jax.random.key(0),
        jnp.asarray(ids_BL),
        special,
        masking="uniform",
        mask_prob=MASK_PROB,
        mask_token_prob=1.0,
        type_vocab_size=type_vocab_size,
    )
    if generator is None:
        samples_BP = draw_unigrams(batch.uniforms_BP, batch.ids_BL, special)
    else:
        samples_BP = _predict(generator.config, generator.params, batch).samples_BP
    return CorruptedRows(batch, write_tokens(batch.ids_BL, batch.positions_BP, samples_BP, batch.weights_BP))


@functools.partial(jax.jit, static_argnums=0)
def _predict(config: EncoderConfig, params, batch: MaskedBatch) -> VocabularyPredictions:
    """The generator's predictions and samples at the masked positions."""
    outputs = PublishedModule(in_float32(config), "generator").apply(
        {"params": params}, batch.masked_ids_BL, batch.inputs
    )
    return predict_vocabulary(
        gather_positions(outputs.x_BPE, batch.positions_BP),
        outputs.table_VE,
        outputs.bias_V,
        batch.targets_BP,
        batch.uniforms_BP,
        temperature=1.0,
        chunk_size=VOCAB_CHUNK,
        dtype="float32",
    )


def record(weights: ModelWeights, role: str, rows: CorruptedRows) -> dict[str, np.ndarray]:
    """The model's outputs on `rows`, as arrays for verification.safetensors."""
    batch = rows.batch
    ids_BL = rows.corrupted_BL if role == "discriminator" else batch.masked_ids_BL
    states_NBLD, outputs = _forward(weights.config, role, weights.params, ids_BL, batch.inputs)
    recorded = record_states(ids_BL, batch.inputs, states_NBLD)
    if role == "discriminator":
        is_replaced_BL = np.asarray(ids_BL != batch.ids_BL)
        return recorded | {"logits": np.asarray(outputs), "is_replaced": is_replaced_BL.astype(np.uint8)}
    slots = np.argwhere(np.asarray(batch.weights_BP) > 0)
    at_slots = lambda x_BP: np.asarray(x_BP)[tuple(slots.T)]
    places = np.stack([slots[:, 0], at_slots(batch.positions_BP)], axis=1).astype(np.int64)  # (row, position)
    logits = _logits_at(outputs, places[:NUM_LOGITS])
    predictions = _predict(weights.config, weights.params, batch)
    return recorded | {
        "places": places,
        "logits": logits,
        "targets": at_slots(batch.targets_BP).astype(np.int64),
        "is_correct": at_slots(predictions.is_correct_BP).astype(np.uint8),
    }


def record_states(ids_BL: jax.Array, inputs: EncoderInputs, states_NBLD: jax.Array) -> dict[str, np.ndarray]:
    """The inputs for `transformers` and the hidden states at some positions, as arrays for
    verification.safetensors."""
    is_token_BL = np.asarray(inputs.is_token_BL)
    positions_BS = np.stack(
        [np.round(np.linspace(0, count - 1, NUM_POSITIONS)) for count in is_token_BL.sum(axis=1)]
    )
    positions_BS = positions_BS.astype(np.int64)
    return {
        "input_ids": np.asarray(ids_BL, np.int64),
        "attention_mask": is_token_BL.astype(np.int64),
        "token_type_ids": np.asarray(inputs.token_types_BL, np.int64),
        "positions": positions_BS,
        "hidden_states": np.take_along_axis(np.asarray(states_NBLD), positions_BS[None, :, :, None], axis=2),
    }


@functools.partial(jax.jit, static_argnums=(0, 1))
def _forward(config: EncoderConfig, role: str, params, ids_BL: jax.Array, inputs: EncoderInputs):
    return with_states(PublishedModule(in_float32(config), role), params, ids_BL, inputs)


def in_float32(config: EncoderConfig) -> EncoderConfig:
    """The same encoder, computed in float32: then its products have the highest precision (layers.py)."""
    return dataclasses.replace(config, dtype="float32")


def with_states(model: nn.Module, params, *arguments, method: Callable | None = None):
    """Hidden states before the first layer and after every layer [N + 1, B, L, D], and `model`'s outputs.

    `model` has "embeddings" and an "encoder"; `arguments` are those of its `method` (default: `__call__`).
    """
    is_state = lambda module, method: method == "__call__" and bool(_OF_STATES.fullmatch(module.name or ""))
    outputs, captured = model.apply(
        {"params": params},
        *arguments,
        method=method,
        capture_intermediates=is_state,
        mutable=["intermediates"],
    )
    captured = captured["intermediates"]
    first = captured["encoder"].get("embeddings_project", captured["embeddings"])
    layers = [captured["encoder"][f"layer_{index}"] for index in range(model.config.num_layers)]
    if "conv" in captured["encoder"]:
        layers[0] = captured["encoder"]["conv"]
    if "final_LayerNorm" in params["encoder"]:
        # The last state of `transformers` is that before this LayerNorm in 4, and that after it in 5.
        del layers[-1]
    # The last layer of an enhanced mask decoder runs twice, which no class in `transformers` does: its
    # outputs have no counterpart there.
    states = [state["__call__"][0] for state in (first, *layers) if len(state["__call__"]) == 1]
    return jnp.stack(states), outputs


@functools.partial(jax.jit, static_argnums=0)
def task_outputs(model: nn.Module, params, ids_BL: jax.Array):
    """`with_states` of a fine-tuned model, whose dropout is off."""
    return with_states(model, params, ids_BL, False)


def _logits_at(outputs, places: np.ndarray) -> np.ndarray:
    """Logits [K, V] at (row, position) places [K, 2]."""
    x_KE = outputs.x_BPE[places[:, 0], places[:, 1]]
    return np.asarray(einsum_f32("KE,VE->KV", "float32", x_KE, outputs.table_VE) + outputs.bias_V[None])


def detection_auc(logits: np.ndarray, is_replaced: np.ndarray) -> float:
    """Area under the ROC curve of flat arrays; ties count one half. NaN if no or all tokens are replaced."""
    num_replaced = int(is_replaced.sum())
    num_original = is_replaced.size - num_replaced
    if not num_replaced or not num_original:
        return float("nan")
    from scipy.stats import rankdata  # slow to import

    ranks = rankdata(logits)[is_replaced.astype(bool)].sum()
    return float((ranks - num_replaced * (num_replaced + 1) / 2) / (num_replaced * num_original))
