"""What verify.py checks of a discriminator or a generator alone: what its config.json should say, and its
logits.

Shapes: B batch, L length, D hidden, K recorded logits, V vocab.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file

from electra_jax.huggingface.checks import Check, Reference, compare, compare_rates
from electra_jax.huggingface.configuration import to_config_json
from electra_jax.huggingface.export import HEAD_FILE, TRAINING_FILE, published_config
from electra_jax.huggingface.reference import detection_auc


def wanted_config(directory: Path, notes: dict[str, Any]) -> dict[str, Any]:
    """config.json as the run's configuration has it."""
    training, role = json.loads((directory / TRAINING_FILE).read_text())["config"], notes["role"]
    return (
        to_config_json(
            published_config(training, role), role, pad_token_id=notes["pad_token_id"], dtype=notes["dtype"]
        )
        | notes["config_additions"]
    )


def check_outputs(torch, model, output, directory: Path, reference: Reference) -> list[Check]:
    """Logits, and the rate that they give. `output` is what `model` gives for the recorded rows."""
    arrays, notes = reference
    if notes["role"] == "generator":
        if not notes["has_exact_logits"]:
            return []
        places, wanted = arrays["places"], arrays["logits"]
        logits_BLV = output.logits.numpy()
        is_correct = logits_BLV[tuple(places.T)].argmax(axis=-1) == arrays["targets"]
        return [
            compare("masked language model logits", logits_BLV[tuple(places[: len(wanted)].T)], wanted),
            compare_rates("masked token accuracy", is_correct.mean(), arrays["is_correct"].mean()),
        ]
    if "logits" in output:
        logits_BL = output.logits.numpy()
    elif not (directory / HEAD_FILE).is_file():
        return [
            Check("detection logits", False, f"{HEAD_FILE} is missing: there is no head to compute them with")
        ]
    else:
        logits_BL = detection_head(
            torch, output.hidden_states[-1], directory, model.config.layer_norm_eps
        ).numpy()
    is_token = arrays["attention_mask"].astype(bool)
    checks = [compare("detection logits", logits_BL[is_token], arrays["logits"][is_token])]
    rates = [
        detection_auc(logits[is_token], arrays["is_replaced"][is_token])
        for logits in (logits_BL, arrays["logits"])
    ]
    return checks if np.isnan(rates[1]) else [*checks, compare_rates("detection AUC", *rates)]


def detection_head(torch, x_BLD, directory: Path, epsilon: float):
    """Microsoft's detection head from its file: LayerNorm(x + x of [CLS]) → dense → GELU → one logit [B,
    L]."""
    weights = {
        name.removeprefix("mask_predictions."): torch.from_numpy(array).float()
        for name, array in load_file(directory / HEAD_FILE).items()
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
