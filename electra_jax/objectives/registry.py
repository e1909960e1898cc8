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
    name = config["objective"]["name"]
    if name not in OBJECTIVES:
        raise ValueError(f"config.objective.name: got {name!r}, expected one of {sorted(OBJECTIVES)}.")
    make, count_flops = OBJECTIVES[name]
    flops = count_flops(model, config["data"]["sequence_length"], config["objective"]["mask_prob"])
    return make(model, config["objective"], special), flops
