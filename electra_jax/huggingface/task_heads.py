"""A fine-tuned model as the task classes of `transformers` have it: which class, what its config.json says,
its arrays.

`description` is what finetuning/saved.py keeps about a model: "task", "labels", "config" and more. Heads that
are those of `transformers` only get other names. ELECTRA's own head of classification and regression (state
of [CLS] → dense) lacks the layer that ElectraClassificationHead has in between (dense → GELU → dense), and
gets one that changes nothing.

Shapes: D hidden, C outputs of the task.
"""

from typing import Any

import numpy as np

from electra_jax.huggingface.configuration import RELATIVE_BIAS_PREFIX, to_config_json
from electra_jax.huggingface.names import DEBERTA_V2, ELECTRA, to_file
from electra_jax.huggingface.published_models import Params, with_token_types
from electra_jax.models.config import EncoderConfig

Description = dict[str, Any]
# Kind of task → class of `transformers`, after the family's name.
CLASSES = {
    "classification": "ForSequenceClassification",
    "regression": "ForSequenceClassification",
    "tagging": "ForTokenClassification",
    "question_answering": "ForQuestionAnswering",
}
OF_SEQUENCES, OF_TOKENS = ("classification", "regression"), ("tagging", "question_answering")
REMEDY = "Fine-tune with --config.model.head=transformers, and export that model"


def check_exportable(encoder: EncoderConfig, description: Description) -> None:
    """Raises ValueError where no class of `transformers` can compute what the model was trained to."""
    if not _has_electras_own_head(encoder, description):
        return
    if description["task"]["kind"] == "question_answering":
        raise ValueError(
            "config.model.head: got a model with ELECTRA's own head for questions, which predicts an "
            "answer's end given its start; expected the head that "
            f"{class_name(encoder, 'question_answering')} has, two logits a token, since transformers has "
            f"no other. {REMEDY}."
        )
    num_labels = len(description["labels"])
    if has_added_layer(encoder, description) and 2 * num_labels > encoder.hidden_size:
        raise ValueError(
            f"config.model.head: got a model with ELECTRA's own head, {encoder.hidden_size} wide, for "
            f"{num_labels} labels, expected at most {encoder.hidden_size // 2}: two units a label of the "
            f"layer that the class of transformers has in between. {REMEDY}."
        )


def _has_electras_own_head(encoder: EncoderConfig, description: Description) -> bool:
    return encoder.disentangled is None and description["config"]["model"]["head"] == "published"


def has_added_layer(encoder: EncoderConfig, description: Description) -> bool:
    """Whether the exported head has an inner layer that the trained one has not; see `with_inner_layer`."""
    return _has_electras_own_head(encoder, description) and description["task"]["kind"] in OF_SEQUENCES


def class_name(encoder: EncoderConfig, kind: str) -> str:
    """Class that loads the export: one of `transformers`, but for a relative bias."""
    prefix = {"absolute": "Electra", "relative_bias": RELATIVE_BIAS_PREFIX, "disentangled": "DebertaV2"}[
        encoder.position
    ]
    return prefix + CLASSES[kind]


def task_config_json(
    encoder: EncoderConfig, description: Description, *, pad_token_id: int, dtype: str
) -> dict[str, Any]:
    """config.json of a fine-tuned model. `dtype` is that of its weights, "float32" or "bfloat16"."""
    kind, dropout = description["task"]["kind"], description["config"]["model"]["head_dropout"]
    fields = to_config_json(encoder, "discriminator", pad_token_id=pad_token_id, dtype=dtype)
    fields |= {"architectures": [class_name(encoder, kind)]}
    if kind != "question_answering":
        names = ["LABEL_0"] if kind == "regression" else description["labels"]
        fields |= {
            "id2label": {str(index): name for index, name in enumerate(names)},
            "label2id": {name: index for index, name in enumerate(names)},
        }
    if kind in OF_SEQUENCES:
        fields["problem_type"] = "regression" if kind == "regression" else "single_label_classification"
    if encoder.disentangled is None and kind != "question_answering":
        # Behind the added layer dropout would strike the logits themselves.
        fields["classifier_dropout"] = 0.0 if has_added_layer(encoder, description) else dropout
    elif kind in OF_SEQUENCES:
        fields["cls_dropout"] = dropout
    return fields


def in_units_of_labels(params: Params, description: Description) -> Params:
    """Parameters whose outputs are predictions: a regression is trained on its labels divided by
    label_scale."""
    if description["task"]["kind"] != "regression":
        return params
    scale, head = np.float32(description["task"]["label_scale"]), params["head"]
    classifier = {name: np.asarray(value, np.float32) * scale for name, value in head["classifier"].items()}
    return params | {"head": head | {"classifier": classifier}}


def task_arrays(encoder: EncoderConfig, description: Description, params: Params) -> dict[str, np.ndarray]:
    """Parameters {"embeddings", "encoder", "head"} under the names of the class, in its layouts."""
    if has_added_layer(encoder, description):
        params = params | {"head": with_inner_layer(params["head"])}
    params = with_token_types(params, encoder)
    return to_file(
        ELECTRA if encoder.disentangled is None else DEBERTA_V2, description["task"]["kind"], params
    )


def with_inner_layer(head: Params) -> Params:
    """ELECTRA's own head with a layer in between that changes nothing, for C ≤ D/2 outputs.

    gelu(z) − gelu(−z) = zΦ(z) + zΦ(−z) = z: of the D units of the inner layer C are the outputs z and C are
    −z, the others are nothing, and the last layer takes the differences. No number is larger than z, so this
    holds in any precision.
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
