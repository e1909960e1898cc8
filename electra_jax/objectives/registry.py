"""The objective that a configuration names."""

from collections.abc import Callable
from typing import Any

from electra_jax.models.config import PretrainingConfig
from electra_jax.models.flops import mlm_flops, rtd_flops
from electra_jax.models.inputs import SpecialTokens
from electra_jax.objectives.base import Objective
from electra_jax.objectives.mcl import make_mcl_objective, mcl_flops
from electra_jax.objectives.mlm import make_mlm_objective
from electra_jax.objectives.rtd import make_deberta_v3_objective, make_electra_objective


def _by_mask_prob(flops: Callable[[PretrainingConfig, int, float], float]) -> Callable[..., float]:
    return lambda model, sequence_length, objective: flops(model, sequence_length, objective["mask_prob"])


# name → (maker, forward FLOPs a token of a model, a row length and config.objective)
OBJECTIVES = {
    "electra": (make_electra_objective, _by_mask_prob(rtd_flops)),
    "deberta_v3": (make_deberta_v3_objective, _by_mask_prob(rtd_flops)),
    "mlm": (make_mlm_objective, _by_mask_prob(mlm_flops)),
    "mcl": (make_mcl_objective, mcl_flops),
}


def make_objective(config: dict[str, Any], model: PretrainingConfig, special: SpecialTokens) -> tuple[Objective, float]:
    """The objective that config.objective.name chooses, and its forward FLOPs a token.

    Raises:
      ValueError: there is no such objective, or it rejects its settings.
    """
    flops = forward_flops(config, model)  # first, since it knows the names
    return OBJECTIVES[config["objective"]["name"]][0](model, config["objective"], special), flops


def forward_flops(config: dict[str, Any], model: PretrainingConfig) -> float:
    """Forward FLOPs a token of the objective that config.objective.name chooses.

    Raises:
      ValueError: there is no such objective.
    """
    name = config["objective"]["name"]
    if name not in OBJECTIVES:
        raise ValueError(f"config.objective.name: got {name!r}, expected one of {sorted(OBJECTIVES)}.")
    return OBJECTIVES[name][1](model, config["data"]["sequence_length"], config["objective"])
