"""DeBERTaV3 (He, Gao and Chen 2021, §3.3): generator and discriminator updated in turn."""

from collections.abc import Mapping
from typing import Any

from electra_jax.models.config import PretrainingConfig
from electra_jax.models.inputs import SpecialTokens
from electra_jax.objectives.base import Objective, Phase
from electra_jax.objectives.electra import electra_flops, make_electra_objective
from electra_jax.objectives.fixed_generators import make_fixed_generator_objective
from electra_jax.objectives.mlm import MLM_METRICS, Z_LOSS_METRIC
from electra_jax.objectives.row import ObjectiveRow
from electra_jax.objectives.rtd import EMBEDDINGS, ENCODERS, RTD_METRICS, make_losses


def make_deberta_v3_objective(
    config: PretrainingConfig, objective: Mapping[str, Any], special: SpecialTokens
) -> Objective:
    """Two phases: the generator is updated first; the discriminator then reads its *updated* embeddings.

    With tied embeddings, whose tables both losses train, the update is a joint one, as in ELECTRA.
    """
    if config.embedding_sharing == "tied":
        return make_electra_objective(config, objective, special)
    losses = make_losses(config, objective, special)
    modules = (*EMBEDDINGS, *ENCODERS)
    return losses.objective(
        tuple(
            Phase(name, tuple(module for module in modules if module.startswith(name)), getattr(losses, name))
            for name in ("generator", "discriminator")
        )
    )


DEBERTA_V3 = ObjectiveRow(
    name="deberta_v3",
    title="DeBERTaV3",
    make=make_deberta_v3_objective,
    flops=electra_flops,
    metrics=(MLM_METRICS, RTD_METRICS, Z_LOSS_METRIC),
    paper="He, Gao and Chen 2021, [DeBERTaV3](https://arxiv.org/abs/2111.09543)",
    in_ablations=False,
    make_with_fixed_generator=make_fixed_generator_objective,
    parameters_of="electra",
)
