"""Load an exported model with `transformers` and compare it with what was recorded at the export (reference.py).

Everything needed lies in the model's own directory, so this runs anywhere, with any version of `transformers`: the one module
of the package that imports it and PyTorch.

Shapes: B batch, L length, N layers, S recorded positions, D hidden, K recorded logits, V vocab.
"""

import json
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from safetensors import safe_open
from safetensors.numpy import load_file

from electra_jax.huggingface.configuration import to_config_json
from electra_jax.huggingface.export import (
    CONFIG_FILE,
    HEAD_FILE,
    REFERENCE_FILE,
    TRAINING_FILE,
    WEIGHTS_FILE,
    published_config,
)
from electra_jax.huggingface.parts import ROLES
from electra_jax.huggingface.reference import detection_auc, digest

TOLERANCE = 1e-4  # of hidden states and logits
TOLERANCE_OF_RATES = 1e-3  # of AUC and accuracy
MAX_SHOWN = 4


class Check(NamedTuple):
    """One line of the report."""

    name: str
    is_passed: bool
    detail: str


class Reference(NamedTuple):
    """verification.safetensors: arrays, and what is written in its metadata."""

    arrays: dict[str, np.ndarray]
    notes: dict[str, Any]


def find_models(directory: Path) -> list[Path]:
    """The exported models in `directory`, or itself.

    Raises:
      FileNotFoundError: there are none.
    """
    found = [path for path in (directory, *(directory / role for role in ROLES)) if (path / REFERENCE_FILE).is_file()]
    if not found:
        raise FileNotFoundError(f"{directory}: no {REFERENCE_FILE} in it nor in its folders discriminator and generator; "
                                "expected a directory made by `python -m electra_jax.convert export`.")
    return found


def verify(directory: Path) -> list[Check]:
    """Every check of one model, in order; what cannot be loaded at all ends the list.

    Raises:
      ImportError: PyTorch or transformers is not installed.
    """
    try:
        import torch
        import transformers
    except ImportError as error:
        raise ImportError(f"{error}: PyTorch and transformers are what the export is compared with. `pip install torch "
                          "transformers`.") from error

    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    reference = read_reference(directory)
    checks = [check_config(directory, reference), *check_arrays(directory, reference)]
    config = json.loads((directory / CONFIG_FILE).read_text())
    try:
        model, loading = load_model(transformers, directory, config)
    except Exception as error:  # whatever stops a user of `transformers` here is what this command is to find
        return [*checks, Check("transformers loads it", False, f"{type(error).__name__}: {error}")]
    problems = {kind: sorted(map(str, loading[kind])) for kind in ("missing_keys", "unexpected_keys", "mismatched_keys")
                if loading[kind]}
    said = ", ".join(f"{kind}: {_some(names)}" for kind, names in problems.items())
    checks.append(Check("transformers loads it", not problems, said or f"{type(model).__name__} of {transformers.__version__}: "
                        "nothing missing, unexpected or of another size"))
    with torch.no_grad():
        checks += check_outputs(torch, model, directory, config, reference)
    checks.append(check_saved_again(directory, model))
    checks.append(check_tokenizer(transformers, directory, reference))
    return checks


def read_reference(directory: Path) -> Reference:
    """What was recorded at the export."""
    path = directory / REFERENCE_FILE
    with safe_open(path, framework="np") as file:
        notes = json.loads(file.metadata()["notes"])
    return Reference(load_file(path), notes)


def check_config(directory: Path, reference: Reference) -> Check:
    """config.json against what the trained model's configuration comes to."""
    role = reference.notes["role"]
    training = json.loads((directory / TRAINING_FILE).read_text())["config"]
    wanted = to_config_json(published_config(training, role), role, pad_token_id=reference.notes["pad_token_id"],
                            dtype=reference.notes["dtype"]) | reference.notes["config_additions"]
    got = json.loads((directory / CONFIG_FILE).read_text())
    differing = [f"{key} is {got.get(key)!r}, trained with {wanted.get(key)!r}" for key in sorted(wanted.keys() | got.keys())
                 if got.get(key) != wanted.get(key)]
    return Check(CONFIG_FILE, not differing, _some(differing) or f"{len(wanted)} fields as trained")


def check_arrays(directory: Path, reference: Reference) -> list[Check]:
    """The weights' files: the arrays that were exported, each under its name."""
    checks = []
    for file, digests in reference.notes["digests"].items():
        if not (directory / file).is_file():
            checks.append(Check(file, False, "missing"))
            continue
        found = {name: digest(array) for name, array in load_file(directory / file).items()}
        problems = [f"{name} is {'missing' if name not in found else 'new' if name not in digests else 'not what was exported'}"
                    for name in sorted(found.keys() | digests.keys()) if found.get(name) != digests.get(name)]
        checks.append(Check(file, not problems, _some(problems) or f"{len(digests)} arrays as exported"))
    return checks


def load_model(transformers, directory: Path, config: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """The model in float32, and what `transformers` says about loading it."""
    if "auto_map" in config:
        model, loading = transformers.AutoModelForPreTraining.from_pretrained(directory, output_loading_info=True,
                                                                              trust_remote_code=True)
    else:
        model, loading = getattr(transformers, config["architectures"][0]).from_pretrained(directory, output_loading_info=True)
    return model.float().eval(), loading


def check_outputs(torch, model, directory: Path, config: dict[str, Any], reference: Reference) -> list[Check]:
    """Hidden states, logits, and the rate that the logits give."""
    arrays, notes = reference
    inputs = {name: torch.from_numpy(arrays[name]) for name in ("input_ids", "attention_mask", "token_type_ids")}
    if not config["type_vocab_size"]:
        del inputs["token_type_ids"]
    output = model(**inputs, output_hidden_states=True)
    checks = [check_states([state.numpy() for state in output.hidden_states], arrays)]
    if notes["role"] == "generator":
        if not notes["has_exact_logits"]:
            return checks
        places, wanted = arrays["places"], arrays["logits"]
        logits_BLV = output.logits.numpy()
        checks.append(compare("masked language model logits", logits_BLV[tuple(places[: len(wanted)].T)], wanted))
        is_correct = logits_BLV[tuple(places.T)].argmax(axis=-1) == arrays["targets"]
        return [*checks, compare_rates("masked token accuracy", is_correct.mean(), arrays["is_correct"].mean())]
    if "logits" in output:
        logits_BL = output.logits.numpy()
    elif not (directory / HEAD_FILE).is_file():
        return [*checks, Check("detection logits", False, f"{HEAD_FILE} is missing: there is no head to compute them with")]
    else:
        logits_BL = detection_head(torch, output.hidden_states[-1], directory, config).numpy()
    is_token = arrays["attention_mask"].astype(bool)
    checks.append(compare("detection logits", logits_BL[is_token], arrays["logits"][is_token]))
    rates = [detection_auc(logits[is_token], arrays["is_replaced"][is_token]) for logits in (logits_BL, arrays["logits"])]
    return checks if np.isnan(rates[1]) else [*checks, compare_rates("detection AUC", *rates)]


def check_states(states: list[np.ndarray], arrays: dict[str, np.ndarray]) -> Check:
    """States before and after every layer, at the recorded positions; names the first that differs."""
    name, places = "hidden states", arrays["positions"][:, :, None]
    wanted = arrays["hidden_states"]
    if len(states) < len(wanted):
        return Check(name, False, f"got {len(states) - 1} layers, expected {len(wanted) - 1}")
    gaps = [_gap(np.take_along_axis(state, places, axis=1), expected)
            for state, expected in zip(states, wanted, strict=False)]  # a decoder's last layer has no counterpart
    for index, gap in enumerate(gaps):
        if not gap <= TOLERANCE:
            where = "the embeddings" if index == 0 else f"layer {index - 1}"
            return Check(name, False, f"first differ after {where}: max |Δ| {gap:.1e}, allowed {TOLERANCE:.0e}")
    return Check(name, True, f"max |Δ| {max(gaps):.1e} over {len(gaps)} states, allowed {TOLERANCE:.0e}")


def detection_head(torch, x_BLD, directory: Path, config: dict[str, Any]):
    """Microsoft's detection head from its file: LayerNorm(x + x of [CLS]) → dense → GELU → one logit [B, L]."""
    weights = {name.removeprefix("mask_predictions."): torch.from_numpy(array).float()
               for name, array in load_file(directory / HEAD_FILE).items()}
    functional = torch.nn.functional
    x_BLD = functional.layer_norm(x_BLD + x_BLD[:, :1], x_BLD.shape[-1:], weights["LayerNorm.weight"],
                                  weights["LayerNorm.bias"], config["layer_norm_eps"])
    x_BLD = functional.gelu(functional.linear(x_BLD, weights["dense.weight"], weights["dense.bias"]))
    return functional.linear(x_BLD, weights["classifier.weight"], weights["classifier.bias"])[..., 0]


def check_saved_again(directory: Path, model) -> Check:
    """`save_pretrained` keeps every parameter: nothing hangs on a name that the class does not know."""
    with tempfile.TemporaryDirectory() as again:
        model.save_pretrained(again)
        saved, exported = (set(load_file(Path(path) / WEIGHTS_FILE)) for path in (again, directory))
    # DebertaV2Model saves itself without the prefix that all its task models know it by.
    strip = lambda names: {name.removeprefix("deberta.") for name in names}  # noqa: E731
    problems = sorted(strip(saved) ^ strip(exported))
    return Check("saved again", not problems, _some(problems) or f"the same {len(exported)} parameters")


def check_tokenizer(transformers, directory: Path, reference: Reference) -> Check:
    """Token ids of the recorded lines."""
    name = "tokenizer"
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(directory)
    except Exception as error:
        return Check(name, False, f"{type(error).__name__}: {error}")
    for text, wanted in reference.notes["lines"]:
        got = tokenizer(text)["input_ids"]
        if got != wanted:
            place = next((i for i, (a, b) in enumerate(zip(got, wanted, strict=False)) if a != b), min(len(got), len(wanted)))
            return Check(name, False, f"ids of {text[:60]!r} differ from token {place} on: got {got[place : place + 8]}, "
                                      f"expected {wanted[place : place + 8]}")
    return Check(name, True, f"the ids of {len(reference.notes['lines'])} lines")


def compare(name: str, got: np.ndarray, wanted: np.ndarray) -> Check:
    """Two arrays of one shape, to TOLERANCE."""
    if got.shape != wanted.shape:
        return Check(name, False, f"got shape {got.shape}, expected {wanted.shape}")
    gap = _gap(got, wanted)
    return Check(name, bool(gap <= TOLERANCE), f"max |Δ| {gap:.1e}, allowed {TOLERANCE:.0e}")


def compare_rates(name: str, got: float, wanted: float) -> Check:
    """Two rates in [0, 1], to TOLERANCE_OF_RATES."""
    return Check(name, bool(abs(got - wanted) <= TOLERANCE_OF_RATES), f"{got:.4f}, in JAX {wanted:.4f}")


def report(name: str, checks: list[Check]) -> bool:
    """Print a line a check; whether all passed."""
    print(name)
    for check in checks:
        print(f"  {'ok    ' if check.is_passed else 'FAILED'} {check.name:30s} {check.detail}")
    return all(check.is_passed for check in checks)


def _gap(got: np.ndarray, wanted: np.ndarray) -> float:
    return float(np.abs(got - wanted).max())


def _some(items: list[str]) -> str:
    rest = f" and {len(items) - MAX_SHOWN} more" if len(items) > MAX_SHOWN else ""
    return ", ".join(items[:MAX_SHOWN]) + rest
