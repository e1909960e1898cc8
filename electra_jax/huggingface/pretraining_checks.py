"""The checks of verify.py that only discriminators and generators have: expected config.json, and logits.

Shapes: B batch, L length, D hidden, K recorded logits, V vocab.
"""

from pathlib import Path
from typing import Any

import numpy as np

from data_pipelines.command_errors import shorten
from data_pipelines.json_files import Maybe, check_form, misread, read_json
from electra_jax.configuration.migration import upgrade_config
from electra_jax.configuration.stages import stage_at
from electra_jax.huggingface.array_files import ADVICE, read_safetensors
from electra_jax.huggingface.checks import Check, Reference, compare, compare_rates, noted_special
from electra_jax.huggingface.configuration import to_config_json
from electra_jax.huggingface.export import (
    CODE_ADDITIONS,
    DETECTOR_FILE,
    HEAD_FILE,
    REFERENCE_FILE,
    TRAINING_FILE,
    VARIANT,
    published_config,
)
from electra_jax.huggingface.published_models import ROLES
from electra_jax.huggingface.recorded_digests import DIGESTS
from electra_jax.huggingface.reference import detection_auc

# What is read of training_config.json.
TRAINING_FORM = {
    "config": {"model": dict, "objective": {"name": str}, "train": Maybe({"num_steps": int})},
    "step": Maybe(int),
}
MICROSOFT_HEAD_PREFIX = "mask_predictions."  # prefix of its array names
# What a verification file must note beyond what verify.py requires.
NOTES_FORM = {"role": str, "config_additions": dict, "has_exact_logits": bool}


def wanted_config(directory: Path, notes: dict[str, Any]) -> dict[str, Any]:
    """config.json as the run's configuration gives it, in the stage of the exported step.

    Raises:
      OSError: training_config.json cannot be read. ValueError: it, or `notes`, is of another form.
    """
    check_form(notes, NOTES_FORM, REFERENCE_FILE, ADVICE)
    if notes["role"] not in ROLES or notes["config_additions"] not in ({}, CODE_ADDITIONS):
        raise ValueError(
            f"{REFERENCE_FILE}: got role {notes['role']!r:.60} and config_additions of "
            f"{shorten(list(notes['config_additions']))}, expected what an export of this project records. "
            f"{ADVICE}"
        )
    path = directory / TRAINING_FILE
    training = read_json(path, TRAINING_FORM, advice=ADVICE)
    with misread(path, ADVICE):
        config = upgrade_config(training["config"])
        if "step" in training:
            config = stage_at(config, min(training["step"], config["train"]["num_steps"])).config
        encoder = published_config(config, notes["role"])
    fields = to_config_json(encoder, notes["role"], special=noted_special(notes), dtype=notes["dtype"])
    return fields | notes["config_additions"]


def check_outputs(torch, transformers, model, output, directory: Path, reference: Reference) -> list[Check]:
    """Logits, and the accuracy or AUC that they give. `output` is that of `model` on the recorded rows."""
    if reference.notes["role"] == "generator":
        return _check_generator(output, reference)
    arrays = reference.arrays
    if "logits" in output:
        return _check_discriminator(output.logits.numpy(), arrays)
    of_head = reference.notes[DIGESTS].get(HEAD_FILE, {})
    is_microsofts = any(name.startswith(MICROSOFT_HEAD_PREFIX) for name in of_head)
    for file in (HEAD_FILE,) if is_microsofts else (HEAD_FILE, DETECTOR_FILE):
        if not (directory / file).is_file():
            detail = f"{file} is missing: there is no head to compute them with"
            return [Check("detection logits", False, detail)]
    if is_microsofts:
        states_BLD, epsilon = output.hidden_states[-1], model.config.layer_norm_eps
        return _check_discriminator(detection_head(torch, states_BLD, directory, epsilon).numpy(), arrays)
    inputs = {name: torch.from_numpy(arrays[name]) for name in ("input_ids", "attention_mask")}
    return _check_discriminator(detector_logits(transformers, inputs, directory).numpy(), arrays)


def _check_generator(output, reference: Reference) -> list[Check]:
    arrays = reference.arrays
    if not reference.notes["has_exact_logits"]:
        return []
    places, wanted = arrays["places"], arrays["logits"]
    logits_BLV = output.logits.numpy()
    is_correct = logits_BLV[tuple(places.T)].argmax(axis=-1) == arrays["targets"]
    return [
        compare("masked language model logits", logits_BLV[tuple(places[: len(wanted)].T)], wanted),
        compare_rates("masked token accuracy", is_correct.mean(), arrays["is_correct"].mean()),
    ]


def _check_discriminator(logits_BL: np.ndarray, arrays: dict[str, np.ndarray]) -> list[Check]:
    is_token = arrays["attention_mask"].astype(bool)
    got, wanted, is_replaced = (x[is_token] for x in (logits_BL, arrays["logits"], arrays["is_replaced"]))
    checks = [compare("detection logits", got, wanted)]
    wanted_auc = detection_auc(wanted, is_replaced)
    if not np.isnan(wanted_auc):
        checks.append(compare_rates("detection AUC", detection_auc(got, is_replaced), wanted_auc))
    return checks


def detector_logits(transformers, inputs: dict[str, Any], directory: Path):
    """Logits [B, L] of encoder and detection head as a class of `transformers` loads both. `inputs`: its
    arguments."""
    loader = transformers.AutoModelForTokenClassification
    detector = loader.from_pretrained(directory, variant=VARIANT, num_labels=1).float().eval()
    return detector(**inputs).logits[..., 0]


def detection_head(torch, x_BLD, directory: Path, epsilon: float):
    """Logits [B, L] of Microsoft's detection head, read from its file: LayerNorm(x + x of [CLS]) → dense →
    GELU → one logit."""
    weights = {
        name.removeprefix(MICROSOFT_HEAD_PREFIX): torch.from_numpy(array).float()
        for name, array in read_safetensors(directory / HEAD_FILE).arrays.items()
    }
    functional = torch.nn.functional
    x_BLD = functional.layer_norm(
        x_BLD + x_BLD[:, :1],
        x_BLD.shape[-1:],
        weights["LayerNorm.weight"],
        weights["LayerNorm.bias"],
        epsilon,
    )
    x_BLD = functional.gelu(functional.linear(x_BLD, weights["dense.weight"], weights["dense.bias"]))
    return functional.linear(x_BLD, weights["classifier.weight"], weights["classifier.bias"])[..., 0]
