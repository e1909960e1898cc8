"""The checks of verify.py that only fine-tuned models have: expected config.json, logits, predicted labels.

Shapes: n rows, or tokens of all rows; C outputs of the task.
"""

from pathlib import Path
from typing import Any

import numpy as np

from data_pipelines.command_errors import shorten
from data_pipelines.json_files import Maybe, check_form, misread, read_json
from electra_jax.configuration.migration import upgrade_encoder
from electra_jax.huggingface.array_files import ADVICE
from electra_jax.huggingface.checks import TOLERANCE, Check, Reference, compare, noted_special
from electra_jax.huggingface.export import FINETUNING_FILE, REFERENCE_FILE
from electra_jax.huggingface.task_heads import OF_TOKENS, Description, task_config_json
from electra_jax.models.config import EncoderConfig, make_encoder_config

# Of what a verification file notes, beside what verify.py requires.
NOTES_FORM = {
    "kind": str,
    "outputs": [str],
    "predictions": [str],
    "words": Maybe({"words": [str], "ids": [int]}),
}


def wanted_config(directory: Path, notes: dict[str, Any]) -> dict[str, Any]:
    """config.json as the fine-tuned model's description gives it.

    Raises:
      OSError: finetuning.json cannot be read. ValueError: it, or `notes`, is of another form.
    """
    check_form(notes, NOTES_FORM, REFERENCE_FILE, ADVICE)
    return described_config(directory, notes)


def described_config(directory: Path, notes: dict[str, Any]) -> dict[str, Any]:
    """config.json as finetuning.json gives it; raises as `wanted_config`."""
    encoder, description = read_description(directory)
    with misread(directory / FINETUNING_FILE, ADVICE):
        return task_config_json(encoder, description, special=noted_special(notes), dtype=notes["dtype"])


def read_description(directory: Path) -> tuple[EncoderConfig, Description]:
    """The encoder's shape and the description in finetuning.json.

    Raises:
      OSError: it cannot be read. ValueError: it is of another form.
    """
    path = directory / FINETUNING_FILE
    description = read_json(path, {"encoder": dict, "task": {"kind": str}, "config": dict}, advice=ADVICE)
    with misread(path, ADVICE):
        return make_encoder_config(upgrade_encoder(description["encoder"])), description


def check_outputs(torch, transformers, model, output, directory: Path, reference: Reference) -> list[Check]:
    """Logits and, if the task has labels, the predicted ones. `output` is that of `model` on the recorded
    rows."""
    arrays, notes = reference
    scored = lambda logits: scored_logits(logits, arrays["attention_mask"], notes["kind"])
    got = {name: scored(output[name].numpy()) for name in notes["outputs"]}
    checks = [compare(name.replace("_", " "), logits, scored(arrays[name])) for name, logits in got.items()]
    if notes["predictions"]:
        checks.append(
            check_labels(got["logits"], scored(arrays["logits"]), notes["predictions"], model.config.id2label)
        )
    return checks


def check_words(tokenizer, recorded: dict[str, Any]) -> Check:
    """Ids of a sentence that is given word by word, as the model card does it."""
    got, wanted = tokenizer(recorded["words"], is_split_into_words=True)["input_ids"], recorded["ids"]
    detail = (
        f"the ids of {len(recorded['words'])} words" if got == wanted else f"got {got}, expected {wanted}"
    )
    return Check("words one by one", got == wanted, detail)


def scored_logits(logits: np.ndarray, attention_mask: np.ndarray, task_type: str) -> np.ndarray:
    """The logits that have a meaning: all, or for tasks about tokens those of tokens other than padding."""
    return logits[attention_mask.astype(bool)] if task_type in OF_TOKENS else logits


def check_labels(
    got_nC: np.ndarray, recorded_nC: np.ndarray, wanted: list[str], names: dict[int, str]
) -> Check:
    """Names of the most likely labels; compared where our own model's lead exceeds twice TOLERANCE."""
    if got_nC.shape != recorded_nC.shape:
        return Check(
            "predicted labels", False, f"got logits of shape {got_nC.shape}, expected {recorded_nC.shape}"
        )
    lead_n = np.diff(np.sort(recorded_nC, axis=-1)[:, -2:], axis=-1).min(axis=-1, initial=np.inf)
    is_clear_n = lead_n > 2 * TOLERANCE
    found = [names.get(int(index)) for index in got_nC.argmax(axis=-1)]
    differing = [
        f"got {name!r}, expected {label!r}"
        for name, label, is_clear in zip(found, wanted, is_clear_n, strict=True)
        if is_clear and name != label
    ]
    return Check("predicted labels", not differing, shorten(differing) or f"the same {int(is_clear_n.sum())}")
