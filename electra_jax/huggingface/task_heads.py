"""A fine-tuned model in the form of a task class of `transformers`: the class, its config.json, its arrays.

`description` is what finetuning/model_files.py keeps about a model: "task", "labels", "config" and more. A
head with the shape of the class only gets other names. ELECTRA's own head for classification and regression
(state of [CLS] → dense) lacks the inner layer of ElectraClassificationHead (dense → GELU → dense); the export
adds an inner layer that does not change the outputs.

Shapes: D hidden, C outputs of the task.
"""

from typing import Any

import numpy as np

from electra_jax.huggingface.configuration import to_config_json
from electra_jax.huggingface.families import family_of
from electra_jax.huggingface.names import ELECTRA, to_file
from electra_jax.huggingface.published_models import Params, with_token_types
from electra_jax.models.config import EncoderConfig
from electra_jax.models.inputs import SpecialTokens

Description = dict[str, Any]
# Task type → class of `transformers`, without the family's name.
CLASSES = {
    "classification": "ForSequenceClassification",
    "regression": "ForSequenceClassification",
    "tagging": "ForTokenClassification",
    "question_answering": "ForQuestionAnswering",
    "embedding": "Model",
}
OF_SEQUENCES, OF_TOKENS = ("classification", "regression"), ("tagging", "question_answering")
WITH_LABELS = (*OF_SEQUENCES, "tagging")  # their config.json names the outputs
REMEDY = "Fine-tune with --config.model.head=transformers, and export that model"


def check_exportable(encoder: EncoderConfig, description: Description) -> None:
    """Raises ValueError if no class of `transformers` can compute the outputs of the trained model."""
    pooling, is_of_sequences = pooling_of(description), description["task"]["kind"] in OF_SEQUENCES
    if is_of_sequences and pooling != "cls" and family_of(encoder).pooling_field is None:
        raise ValueError(
            f"config.model.pooling: got {pooling!r}, expected 'cls': the classes of transformers for "
            f"{family_of(encoder).name} read the state of [CLS]. Fine-tune with "
            "--config.model.pooling=cls, and export that model."
        )
    if not _has_electras_own_head(encoder, description):
        return
    if description["task"]["kind"] == "question_answering":
        raise ValueError(
            "config.model.head: got a model with ELECTRA's own head for questions, which predicts an "
            "answer's end given its start; expected the head of "
            f"{class_name(encoder, 'question_answering')}, two logits per token, since transformers has no "
            f"other. {REMEDY}."
        )
    num_labels = len(description["labels"])
    if has_added_layer(encoder, description) and 2 * num_labels > encoder.hidden_size:
        raise ValueError(
            f"config.model.head: got a model with ELECTRA's own head, {encoder.hidden_size} wide, for "
            f"{num_labels} labels, expected at most {encoder.hidden_size // 2}: each label takes two units "
            f"of the inner layer that the class of transformers has. {REMEDY}."
        )


def pooling_of(description: Description) -> str:
    """What the head for whole texts reads: the state of "cls", or the "mean" of all states."""
    return description["config"]["model"].get("pooling", "cls")


def longest_row(encoder: EncoderConfig, description: Description) -> int:
    """Tokens in the longest row that a model reads, [CLS] and [SEP] among them; it cuts longer texts."""
    return min(description["task"]["max_length"], encoder.max_position_embeddings)


def _has_electras_own_head(encoder: EncoderConfig, description: Description) -> bool:
    return family_of(encoder).names is ELECTRA and description["config"]["model"]["head"] == "published"


def has_added_layer(encoder: EncoderConfig, description: Description) -> bool:
    """Whether the exported head has an inner layer that the trained one lacks; see `with_inner_layer`."""
    return _has_electras_own_head(encoder, description) and description["task"]["kind"] in OF_SEQUENCES


def class_name(encoder: EncoderConfig, task_type: str) -> str:
    """The class that loads the export: one of `transformers`, or with a relative bias one of custom_code/."""
    return family_of(encoder).class_prefix + CLASSES[task_type]


def task_config_json(
    encoder: EncoderConfig, description: Description, *, special: SpecialTokens, dtype: str
) -> dict[str, Any]:
    """config.json of a fine-tuned model. `dtype` is that of its weights, "float32" or "bfloat16"."""
    task_type, dropout = description["task"]["kind"], description["config"]["model"]["head_dropout"]
    family = family_of(encoder)
    fields = to_config_json(encoder, "discriminator", special=special, dtype=dtype)
    fields |= {"architectures": [class_name(encoder, task_type)]}
    if task_type in WITH_LABELS:
        names = ["LABEL_0"] if task_type == "regression" else description["labels"]
        fields |= {
            "id2label": {str(index): name for index, name in enumerate(names)},
            "label2id": {name: index for index, name in enumerate(names)},
        }
    if task_type in OF_SEQUENCES:
        is_regression = task_type == "regression"
        fields["problem_type"] = "regression" if is_regression else "single_label_classification"
        if family.pooling_field:
            fields[family.pooling_field] = pooling_of(description)
    if task_type in family.dropout_fields:
        # After the added layer dropout would drop whole logits.
        rate = 0.0 if has_added_layer(encoder, description) else dropout
        fields[family.dropout_fields[task_type]] = rate
    return fields


def in_units_of_labels(params: Params, description: Description) -> Params:
    """Parameters whose outputs have the units of the labels: regressions are trained on labels divided by
    label_scale."""
    if description["task"]["kind"] != "regression":
        return params
    scale, head = np.float32(description["task"]["label_scale"]), params["head"]
    classifier = {name: np.asarray(value, np.float32) * scale for name, value in head["classifier"].items()}
    return params | {"head": head | {"classifier": classifier}}


def task_arrays(encoder: EncoderConfig, description: Description, params: Params) -> dict[str, np.ndarray]:
    """Parameters {"embeddings", "encoder", "head"} under the names of the class in `transformers`, in its
    layouts."""
    if has_added_layer(encoder, description):
        params = params | {"head": with_inner_layer(params["head"])}
    family = family_of(encoder)
    if family.needs_token_types:
        params = with_token_types(params, encoder)
    return to_file(family.names, description["task"]["kind"], params)


def with_inner_layer(head: Params) -> Params:
    """ELECTRA's own head with an inner layer that does not change the outputs, for C ≤ D/2 outputs.

    gelu(z) − gelu(−z) = zΦ(z) + zΦ(−z) = z. Of the D units of the inner layer, C are the outputs z, C are −z
    and the rest are zero; the last layer takes the differences. No intermediate number is larger than z, so
    this holds in any precision.
    """
    kernel_DC, bias_C = (np.asarray(head["classifier"][name]) for name in ("kernel", "bias"))
    width, count = kernel_DC.shape
    rest = width - 2 * count
    signs_DC = np.concatenate([np.eye(count), -np.eye(count), np.zeros((rest, count))]).astype(np.float32)
    return {
        "pooler": {
            "kernel": np.concatenate([kernel_DC, -kernel_DC, np.zeros((width, rest), np.float32)], axis=1),
            "bias": np.concatenate([bias_C, -bias_C, np.zeros(rest, np.float32)]),
        },
        "classifier": {"kernel": signs_DC, "bias": np.zeros(count, np.float32)},
    }
