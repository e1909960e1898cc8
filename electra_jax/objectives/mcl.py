"""MCL, the Multi-perspective Course Learner (Chen et al., Findings of ACL 2023): five courses over the rows
of one step.

Self-supervision: RTD (replaced token detection, ELECTRA's), STD (swapped) and ITD (inserted). The generator
reads rows with masked, swapped and inserted tokens in one pass and draws tokens; the discriminator judges all
of them in one pass, with three heads. Self-correction: where the discriminator found the generator's tokens,
the generator predicts the originals again (re-MLM, re-SLM); where the discriminator was mistaken, it judges
again, with the tokens it detected corrected (re-RTD, re-STD). That takes one more pass of each encoder.
Decisions and drawn tokens are those of the first passes and have no gradient.

    L = gen_weight·MLM + disc_weight·RTD + slm_weight·SLM + std_weight·STD + itd_weight·ITD
        + re_mlm_weight·re-MLM + re_slm_weight·re-SLM + re_rtd_weight·re-RTD + re_std_weight·re-STD

A course whose weights are all 0 is not computed; with MLM and RTD alone this is ELECTRA, bit for bit. No code
for its pre-training was published: configs/mcl.py gives the source of every value.

The courses' noise is in courses.py, their weights in course_weights.py, their losses in course_losses.py.
"""

from collections.abc import Mapping
from typing import Any

from electra_jax.models.config import PretrainingConfig
from electra_jax.models.flops import discriminator_flops, generator_flops, masked_head_flops
from electra_jax.models.inputs import SpecialTokens
from electra_jax.objectives.base import TOKENS, Objective, Phase
from electra_jax.objectives.corruption import masked_targets
from electra_jax.objectives.course_losses import Courses
from electra_jax.objectives.course_weights import active_courses
from electra_jax.objectives.courses import PERMUTATIONS
from electra_jax.objectives.metrics import (
    HostSums,
    Metrics,
    SumMetrics,
    detection_metrics,
    mean_metric,
    prediction_metrics,
    ratio,
)
from electra_jax.objectives.mlm import MLM_METRICS, Z_LOSS_METRIC, make_init
from electra_jax.objectives.row import ObjectiveRow
from electra_jax.objectives.rtd import ENCODERS, RTD_METRICS, embedding_modules

HEADS = ("discriminator_swap_predictions", "discriminator_insert_predictions")
NORMALIZERS = ("selected", "all")


def make_mcl_objective(
    config: PretrainingConfig, objective: Mapping[str, Any], special: SpecialTokens
) -> Objective:
    """All courses in one update.

    Raises:
      ValueError: config.objective.swap_permutation or correction_normalizer is unknown.
    """
    for key, known in (("swap_permutation", PERMUTATIONS), ("correction_normalizer", NORMALIZERS)):
        if objective[key] not in known:
            raise ValueError(f"config.objective.{key}: got {objective[key]!r}, expected one of {known}.")
    courses = Courses(config, objective, special)
    modules = (*embedding_modules(config), *ENCODERS, *HEADS)
    return Objective(
        init=make_init(courses.model, courses.mask),
        prepare=courses.prepare,
        normalizers=courses.normalizers,
        phases=(Phase("joint", modules, courses.loss),),
        targets=lambda batch: masked_targets(batch.masked),
    )


def mcl_flops(config: PretrainingConfig, sequence_length: int, objective: Mapping[str, Any]) -> float:
    """All passes of both encoders, per token of the text."""
    courses, by_generator, by_discriminator = active_courses(objective)
    rates = {"rtd": objective["mask_prob"], "std": objective["swap_prob"], "itd": objective["insert_prob"]}
    generator = generator_flops(config.generator, sequence_length)
    discriminator = discriminator_flops(config, sequence_length)

    def generator_pass(names: tuple[str, ...]) -> float:
        # Every course of a stacked pass has as many slots as the one with the most.
        highest_rate = max((rates[name] for name in names), default=0.0)
        return len(names) * (generator + masked_head_flops(config.generator, highest_rate))

    return (
        sum(generator_pass(names) for names in (courses, by_generator))
        + (len(courses) + len(by_discriminator)) * discriminator
    )


def correction_metrics(name: str) -> SumMetrics:
    """Loss of a correction where something was selected, and the share of tokens selected."""

    def compute(sums: HostSums) -> Metrics:
        weight = sums[f"re_{name}_weight"]
        return {
            f"re_{name}_loss": ratio(sums[f"re_{name}_loss_sum"], weight),
            f"re_{name}_rate": ratio(weight, sums[TOKENS]),
        }

    return SumMetrics((f"re_{name}_loss_sum", f"re_{name}_weight"), compute)


MCL = ObjectiveRow(
    name="mcl",
    title="MCL (Multi-perspective Course Learner)",
    make=make_mcl_objective,
    flops=mcl_flops,
    metrics=(
        MLM_METRICS,
        prediction_metrics("slm"),
        Z_LOSS_METRIC,
        mean_metric("slm_z_loss", "slm_z", "slm_weight"),
        RTD_METRICS,
        detection_metrics("std", "swapped_rate", drawn="swap_prob"),
        detection_metrics("itd", "inserted_rate"),
        *(correction_metrics(name) for name in ("mlm", "slm", "rtd", "std")),
    ),
    paper="Chen et al. 2023, [MCL](https://arxiv.org/abs/2305.03981)",
    in_ablations=False,
    settings={  # explained in configs/mcl.py
        "swap_prob": 0.15,
        "swap_permutation": "uniform",
        "insert_prob": 0.15,
        "slm_weight": 1.0,
        "std_weight": 50.0,
        "itd_weight": 50.0,
        "re_mlm_weight": 1.0,
        "re_slm_weight": 1.0,
        "re_rtd_weight": 50.0,
        "re_std_weight": 50.0,
        "correction_normalizer": "selected",
    },
    card_model="MCL",
    not_published=HEADS,
)
