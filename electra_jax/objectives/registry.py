"""The objective that a configuration names."""

from typing import Any

from electra_jax.models.config import PretrainingConfig
from electra_jax.models.flops import mlm_flops, rtd_flops
from electra_jax.models.inputs import SpecialTokens
from electra_jax.objectives.base import Objective
from electra_jax.objectives.mlm import make_mlm_objective
from electra_jax.objectives.rtd import make_deberta_v3_objective, make_electra_objective

OBJECTIVES = {"electra": (make_electra_objective, rtd_flops), "deberta_v3": (make_deberta_v3_objective, rtd_flops),
              "mlm": (make_mlm_objective, mlm_flops)}


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
    return OBJECTIVES[name][1](model, config["data"]["sequence_length"], config["objective"]["mask_prob"])
