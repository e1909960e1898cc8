"""The checks of verify.py that only discriminators and generators have: expected config.json, and logits.

Shapes: B batch, L length, D hidden, K recorded logits, V vocab.
"""

from pathlib import Path
from typing import Any

import numpy as np

from data_pipelines.command_errors import shorten
from data_pipelines.json_files import check_form, misread, read_json
from electra_jax.configuration.migration import upgrade_config
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
from electra_jax.huggingface.reference import detection_auc

# Of what a verification file notes, beside what verify.py requires.
NOTES_FORM = {"role": str, "config_additions": dict, "has_exact_logits": bool}


def wanted_config(directory: Path, notes: dict[str, Any]) -> dict[str, Any]:
    """config.json as the run's configuration gives it.

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
    training = read_json(path, {"config": {"model": dict, "objective": {"name": str}}}, advice=ADVICE)
    with misread(path, ADVICE):
        encoder = published_config(upgrade_config(training["config"]), notes["role"])
    fields = to_config_json(encoder, notes["role"], special=noted_special(notes), dtype=notes["dtype"])
    return fields | notes["config_additions"]


def check_outputs(torch, transformers, model, output, directory: Path, reference: Reference) -> list[Check]:
    """Logits, and the accuracy or AUC that they give. `output` is that of `model` on the recorded rows."""
    if reference.notes["role"] == "generator":
        return _check_generator(output, reference)
    if "logits" in output:
        logits_BL = output.logits.numpy()
    elif (directory / DETECTOR_FILE).is_file():
        logits_BL = detector_logits(transformers, output.last_hidden_state, directory).numpy()
    elif (directory / HEAD_FILE).is_file():
        states_BLD, epsilon = output.hidden_states[-1], model.config.layer_norm_eps
        logits_BL = detection_head(torch, states_BLD, directory, epsilon).numpy()
    else:
        detail = f"{HEAD_FILE} is missing: there is no head to compute them with"
        return [Check("detection logits", False, detail)]
    return _check_discriminator(logits_BL, reference.arrays)


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


def detector_logits(transformers, x_BLD, directory: Path):
    """Logits [B, L] of a detection head that a class of `transformers` loads, together with the encoder."""
    loader = transformers.AutoModelForTokenClassification
    detector = loader.from_pretrained(directory, variant=VARIANT, num_labels=1).float().eval()
    return detector.classifier(detector.head(x_BLD))[..., 0]


def detection_head(torch, x_BLD, directory: Path, epsilon: float):
    """Logits [B, L] of Microsoft's detection head, read from its file: LayerNorm(x + x of [CLS]) → dense →
    GELU → one logit."""
    weights = {
        name.removeprefix("mask_predictions."): torch.from_numpy(array).float()
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
