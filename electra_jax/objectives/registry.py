"""The objective that a configuration names."""

from collections.abc import Callable
from typing import Any

from electra_jax.models.config import PretrainingConfig
from electra_jax.models.flops import (
    adversarial_flops,
    all_tokens_mlm_flops,
    discriminator_flops,
    electric_flops,
    mlm_flops,
    replace_mlm_flops,
    rtd_flops,
    two_stage_flops,
)
from electra_jax.models.inputs import SpecialTokens
from electra_jax.objectives.ablations import (
    make_all_tokens_mlm_objective,
    make_electra_15_objective,
    make_replace_mlm_objective,
    make_two_stage_objective,
)
from electra_jax.objectives.adversarial import make_adversarial_objective
from electra_jax.objectives.base import Objective
from electra_jax.objectives.electric import make_electric_objective
from electra_jax.objectives.fixed_generators import FIXED_GENERATORS, make_fixed_generator_objective
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
    # ELECTRA's ablations, and Electric.
    "electra_15": (make_electra_15_objective, _by_mask_prob(rtd_flops)),
    "two_stage": (make_two_stage_objective, _by_mask_prob(two_stage_flops)),
    "replace_mlm": (make_replace_mlm_objective, _by_mask_prob(replace_mlm_flops)),
    "all_tokens_mlm": (make_all_tokens_mlm_objective, _by_mask_prob(all_tokens_mlm_flops)),
    "adversarial": (make_adversarial_objective, _by_mask_prob(adversarial_flops)),
    "electric": (make_electric_objective, _by_mask_prob(electric_flops)),
}
# Those that can do without a model in the generator's place.
TAKES_FIXED_GENERATOR = ("electra", "electra_15", "deberta_v3")
# Those whose parameters are a generator's and a discriminator's, and nothing else.
OF_TWO_ENCODERS = ("electra", "deberta_v3", "electra_15", "two_stage")


def make_objective(
    config: dict[str, Any], model: PretrainingConfig, special: SpecialTokens
) -> tuple[Objective, float]:
    """The objective that config.objective.name chooses, and its forward FLOPs a token.

    Raises:
      ValueError: there is no such objective, or it rejects its settings.
    """
    make, _ = _chosen(config["objective"])
    return make(model, config["objective"], special), forward_flops(config, model)


def forward_flops(config: dict[str, Any], model: PretrainingConfig) -> float:
    """Forward FLOPs a token of the objective that config.objective.name chooses.

    Raises:
      ValueError: there is no such objective.
    """
    _, flops = _chosen(config["objective"])
    return flops(model, config["data"]["sequence_length"], config["objective"])


def parameter_kind(objective: dict[str, Any]) -> str:
    """The same for two sections config.objective whose parameters are of one form, for models of one form."""
    if objective["generator"] != "model":
        return "discriminator"
    return OF_TWO_ENCODERS[0] if objective["name"] in OF_TWO_ENCODERS else objective["name"]


def _chosen(objective: dict[str, Any]) -> tuple[Callable, Callable]:
    name, generator = objective["name"], objective["generator"]
    if name not in OBJECTIVES:
        raise ValueError(f"config.objective.name: got {name!r}, expected one of {sorted(OBJECTIVES)}.")
    if generator == "model":
        return OBJECTIVES[name]
    known = sorted(FIXED_GENERATORS) if name in TAKES_FIXED_GENERATOR else []
    if generator not in known:
        raise ValueError(
            f"config.objective.generator: got {generator!r}, expected {' or '.join(['model', *known])} with "
            f"config.objective.name={name!r}."
        )
    return make_fixed_generator_objective, _by_mask_prob(discriminator_flops)
