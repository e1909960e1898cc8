"""Parts of a verification: the lines of its report, what the export recorded (reference.py), comparisons.

Shapes: B batch, L length, N layers, S recorded positions, D hidden.
"""

from typing import Any, NamedTuple

import numpy as np

from data_pipelines.command_errors import shorten
from electra_jax.huggingface.export import CONFIG_FILE
from electra_jax.models.inputs import SpecialTokens

TOLERANCE = 1e-4  # of hidden states and logits
TOLERANCE_OF_RATES = 1e-3  # of AUC and accuracy


class Check(NamedTuple):
    """One line of the report."""

    name: str  # of what was checked
    is_passed: bool
    detail: str  # how far it agrees, or what differs


class Reference(NamedTuple):
    """The content of verification.safetensors."""

    arrays: dict[str, np.ndarray]
    notes: dict[str, Any]  # from its metadata


def noted_special(notes: dict[str, Any]) -> SpecialTokens:
    """The special tokens of an export. Where config.json has only [PAD], only that is noted; the others are
    then its id, too."""
    ids = notes.get("special_ids") or dict.fromkeys(SpecialTokens._fields, notes["pad_token_id"])
    return SpecialTokens(*(ids[name] for name in SpecialTokens._fields))


def check_states(states: list[np.ndarray], arrays: dict[str, np.ndarray]) -> Check:
    """Hidden states before and after every layer at the recorded positions; names the first that differs.

    Between ModernBERT's layers no LayerNorm keeps states small, and float32 rounds large ones more coarsely:
    a difference counts relative to the states' root mean square where that is above 1.
    """
    name, places = "hidden states", arrays["positions"][:, :, None]
    wanted = arrays["hidden_states"]
    if len(states) < len(wanted):
        return Check(name, False, f"got {len(states) - 1} layers, expected {len(wanted) - 1}")
    gaps = [
        _gap(np.take_along_axis(state, places, axis=1), expected) / max(1.0, _root_mean_square(expected))
        for state, expected in zip(states, wanted, strict=False)  # a decoder's last layer is not recorded
    ]
    for index, gap in enumerate(gaps):
        if not gap <= TOLERANCE:
            where = "the embeddings" if index == 0 else f"layer {index - 1}"
            return Check(
                name, False, f"first differ after {where}: max |Δ| {gap:.1e}, allowed {TOLERANCE:.0e}"
            )
    return Check(name, True, f"max |Δ| {max(gaps):.1e} over {len(gaps)} states, allowed {TOLERANCE:.0e}")


def compare_config(got: dict[str, Any], wanted: dict[str, Any]) -> Check:
    """config.json against the one that the trained model's configuration gives."""
    differing = [
        f"{key} is {got.get(key)!r}, trained with {wanted.get(key)!r}"
        for key in sorted(wanted.keys() | got.keys())
        if got.get(key) != wanted.get(key)
    ]
    return Check(CONFIG_FILE, not differing, shorten(differing) or f"{len(wanted)} fields as trained")


def compare(name: str, got: np.ndarray, wanted: np.ndarray) -> Check:
    """Two arrays of the same shape, within TOLERANCE."""
    if got.shape != wanted.shape:
        return Check(name, False, f"got shape {got.shape}, expected {wanted.shape}")
    gap = _gap(got, wanted)
    return Check(name, bool(gap <= TOLERANCE), f"max |Δ| {gap:.1e}, allowed {TOLERANCE:.0e}")


def compare_rates(name: str, got: float, wanted: float) -> Check:
    """Two rates in [0, 1], within TOLERANCE_OF_RATES."""
    return Check(name, bool(abs(got - wanted) <= TOLERANCE_OF_RATES), f"{got:.4f}, in JAX {wanted:.4f}")


def _root_mean_square(values: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(values, dtype=np.float64))))


def _gap(got: np.ndarray, wanted: np.ndarray) -> float:
    return float(np.abs(got - wanted).max())
