"""Exports a fine-tuned model as one Hugging Face repository, for the task class of `transformers`.

    config.json  model.safetensors             the model (huggingface/task_heads.py)
    modeling_*.py                              its classes, if `transformers` has none
    tokenizer.json, tokenizer_config.json, …   its tokenizer (huggingface/tokenizer.py)
    README.md  finetuning.json                 model card (huggingface/task_card.py); the model's description
    verification.safetensors                   outputs of our own model, for huggingface/verify.py
    modules.json, 1_Pooling/config.json, …     of embedding models, for sentence-transformers
                                               (huggingface/embedding_files.py)

Shapes: B batch, L length, N layers, D hidden.
"""

import dataclasses
import itertools
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from data_pipelines.json_files import write_json
from data_pipelines.tasks.encoding import encode_examples
from data_pipelines.tasks.load import TextExample
from data_pipelines.tasks.words import spell_words
from data_pipelines.whole_files import write_text
from electra_jax.conversion.embedding_record import record_embeddings
from electra_jax.conversion.export_run import check_new, verified
from electra_jax.finetuning.encoders import RANDOM
from electra_jax.finetuning.model_files import SavedModel, load_model
from electra_jax.finetuning.models import TaskModel
from electra_jax.huggingface.array_files import digests, write_arrays
from electra_jax.huggingface.card_parts import Publication
from electra_jax.huggingface.comparison_rows import MAX_LENGTH, comparison_rows
from electra_jax.huggingface.comparison_texts import (
    SAMPLE_TEXT,
    VerificationText,
    comparison_examples,
    comparison_lines,
)
from electra_jax.huggingface.configuration import RELATIVE_BIAS_FILE
from electra_jax.huggingface.embedding_files import EMBEDDING, write_module_files
from electra_jax.huggingface.export import (
    CARD_FILE,
    CONFIG_FILE,
    DTYPES,
    FINETUNING_FILE,
    WEIGHTS_FILE,
    cast_weights,
    copy_code,
    special_notes,
    write_reference,
)
from electra_jax.huggingface.families import family_of, readable_length
from electra_jax.huggingface.public_names import public_description
from electra_jax.huggingface.published_models import ModelWeights
from electra_jax.huggingface.reference import record_states, task_outputs
from electra_jax.huggingface.task_card import make_task_card
from electra_jax.huggingface.task_checks import scored_logits
from electra_jax.huggingface.task_heads import (
    check_exportable,
    in_units_of_labels,
    pooling_of,
    task_arrays,
    task_config_json,
)
from electra_jax.huggingface.tokenizer import write_tokenizer
from electra_jax.models.inputs import SpecialTokens, derive_inputs

EXAMPLE_WORDS = ("Every", "word", "of", "a", "sentence", ".")


def export_task(
    workdir: Path,
    out: Path,
    dtype: str,
    publication: Publication,
    text: VerificationText = SAMPLE_TEXT,
) -> Path:
    """Export the fine-tuned model in `workdir` (finetuning/model_files.py) to `out`; returns `out`.

    Raises:
      ValueError: `transformers` has no class for the model, or the export failed its verification.
      OSError: `out` exists, or the model cannot be read.
    """
    check_new(out)
    saved = load_model(workdir)
    check_exportable(saved.encoder, saved.description)
    params = in_units_of_labels(saved.params, saved.description)
    model = cast_weights(ModelWeights(saved.encoder, params), dtype)
    with verified(out) as directory:
        _write_model(directory, model, saved, dtype, text)
        write_tokenizer(
            Path(saved.tokenizer.directory),
            directory,
            model_max_length=readable_length(saved.encoder, saved.trained_length),
            input_names=family_of(saved.encoder).input_names,
        )
        start = saved.description["start"]
        card = make_task_card(
            saved.encoder,
            saved.description,
            publication,
            start=start.removeprefix(RANDOM),
            is_fresh=start.startswith(RANDOM),
        )
        write_text(directory / CARD_FILE, card)
    return out


def _write_model(
    directory: Path, model: ModelWeights, saved: SavedModel, dtype: str, text: VerificationText
) -> None:
    description, special = saved.description, SpecialTokens.from_ids(saved.tokenizer.special)
    arrays = task_arrays(model.config, description, model.params)
    arrays = {name: array.astype(DTYPES[dtype]) for name, array in arrays.items()}
    write_arrays(directory / WEIGHTS_FILE, arrays, metadata={"format": "pt"})
    if model.config.relative_bias is not None:
        copy_code(RELATIVE_BIAS_FILE, directory)
    config = task_config_json(model.config, description, special=special, dtype=dtype)
    write_json(directory / CONFIG_FILE, config, sort_keys=True)
    described = {"encoder": dataclasses.asdict(saved.encoder), **public_description(description)}
    write_json(directory / FINETUNING_FILE, described, sort_keys=True)
    is_embedding = description["task"]["kind"] == EMBEDDING
    if is_embedding:
        write_module_files(directory, saved.encoder, description)
    recorded, notes = (record_embeddings if is_embedding else record_task)(model, saved, text)
    if description["task"]["kind"] == "tagging":
        notes["words"] = record_words(saved)
    notes |= {
        "dtype": dtype,
        **special_notes(special, config),
        "lines": comparison_lines(saved.tokenizer, text.lines),
        "digests": {WEIGHTS_FILE: digests(arrays)},
    }
    write_reference(directory, recorded, notes)


def record_task(
    model: ModelWeights, saved: SavedModel, text: VerificationText
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Outputs of our own model for a few texts or pairs of texts.

    Returns:
      Arrays for verification.safetensors, and notes: the task type, the names of the outputs, and the
      predicted labels if the task has labels.
    """
    task, special = saved.description["task"], SpecialTokens.from_ids(saved.tokenizer.special)
    task_type, labels = task["kind"], saved.description["labels"]
    settings = saved.description["config"]["model"]
    ids_BL = jnp.asarray(example_rows(task_type, saved, text, model.config.max_position_embeddings))
    num_outputs = model.params["head"]["classifier"]["bias"].shape[0]
    task_model = TaskModel(
        model.config,
        special,
        task_type,
        num_outputs,
        settings["head"],
        settings["head_dropout"],
        pooling_of(saved.description),
    )
    states_NBLD, outputs = task_outputs(task_model, model.params, ids_BL)
    inputs = derive_inputs(ids_BL, special, model.config.type_vocab_size)
    recorded = record_states(ids_BL, inputs, states_NBLD)
    named = outputs._asdict() if task_type == "question_answering" else {"logits": outputs}
    named = {name: np.asarray(output) for name, output in named.items()}
    predictions = []
    if labels:
        best = scored_logits(named["logits"], recorded["attention_mask"], task_type).argmax(axis=-1)
        predictions = [labels[index] for index in best]
    return recorded | named, {"kind": task_type, "outputs": list(named), "predictions": predictions}


def record_words(saved: SavedModel) -> dict[str, Any]:
    """A sentence of words, spelled as the model was trained on them, and its ids."""
    words = spell_words(EXAMPLE_WORDS, saved.description.get("word_separator", ""))
    special = saved.tokenizer.special
    pieces = [pieces or [special.unk] for pieces in saved.tokenizer.encode_batch(words)]
    return {"words": words, "ids": [special.cls, *itertools.chain(*pieces), special.sep]}


def example_rows(task_type: str, saved: SavedModel, text: VerificationText, max_length: int) -> np.ndarray:
    """Texts as rows [B, L] of several lengths: pairs for questions, single texts for tagging, both for other
    tasks. Without texts, random ids."""
    special, max_length = saved.tokenizer.special, min(max_length, MAX_LENGTH)
    examples = [TextExample(one, pair, None) for one, pair in comparison_examples(text.plain)]
    if task_type == "question_answering":
        examples = [example for example in examples if example.pair is not None]
    elif task_type == "tagging":
        examples = [example for example in examples if example.pair is None]
    if not examples:
        rows_BL = comparison_rows((), SpecialTokens.from_ids(special), saved.tokenizer.vocab_size, max_length)
        if task_type != "tagging":
            rows_BL[::2, max_length // 4] = special.sep
        return rows_BL
    rows, _ = encode_examples(saved.tokenizer, examples, max_length)
    ids_BL = np.full((len(rows), max(len(row.ids) for row in rows)), special.pad, np.int32)
    for ids_L, row in zip(ids_BL, rows, strict=True):
        ids_L[: len(row.ids)] = row.ids
    return ids_BL
