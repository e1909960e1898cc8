"""A generator trained to fool the discriminator (ELECTRA §3.2 and its appendix on adversarial training).

Samples have no gradient, so the generator learns by REINFORCE: the reward of the token at a position is the
discriminator's loss there. This assumes, as the paper does, that the discriminator's decision depends on this
token and the unmasked ones, not on the other samples. Three details of the paper could not be verified and
are choices made here:

* the baseline: −log σ(w·h) of the generator's state h, where σ(w·h) learns by cross-entropy the probability
  exp(−reward) that the discriminator gave to the right answer. Its gradient stops at the state;
* the weights: gen_weight of the mean over the masked positions, disc_weight of the discriminator's mean over
  all tokens;
* the generator has no other loss. Its metrics of masked language modelling are measured, not trained for.

Shapes: B batch, L length, P masked positions.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from electra_jax.models.ablations import AdversarialModel
from electra_jax.models.config import PretrainingConfig
from electra_jax.models.inputs import SpecialTokens
from electra_jax.objectives.base import TOKENS, Objective, Phase, Sums
from electra_jax.objectives.corruption import MaskedBatch, masked_targets, write_tokens
from electra_jax.objectives.electra import electra_flops
from electra_jax.objectives.metrics import mean_metric
from electra_jax.objectives.mlm import MLM_METRICS, apply_rngs, make_init, make_prepare, mlm_loss
from electra_jax.objectives.requirements import require_plain_samples
from electra_jax.objectives.row import ObjectiveRow
from electra_jax.objectives.rtd import (
    ENCODERS,
    RTD_METRICS,
    binary_cross_entropy,
    detection_logits,
    embedding_modules,
    rtd_loss,
    rtd_normalizers,
    token_count,
)
from electra_jax.objectives.vocabulary import predict_vocabulary


def reinforce_loss(
    nll_BP: jax.Array, reward_BP: jax.Array, baseline_BP: jax.Array, weights_BP: jax.Array
) -> jax.Array:
    """Σ weight·(reward − baseline)·(−log p(sample)): over samples from p its expected gradient is that of −Σ
    weight·E[reward].

    Args:
      nll_BP: −log p of the sampled tokens; everything else is treated as constant.
      baseline_BP: any value that does not depend on the sample; it reduces the variance.
    """
    advantage_BP = jax.lax.stop_gradient(reward_BP - baseline_BP)
    return (weights_BP * advantage_BP * nll_BP).sum()


def baseline_loss(logits_BP: jax.Array, reward_BP: jax.Array, weights_BP: jax.Array) -> jax.Array:
    """Σ weight·cross-entropy of σ(logit) with the probability exp(−reward)."""
    probability_BP = jax.lax.stop_gradient(jnp.exp(-reward_BP))
    return (weights_BP * (jax.nn.softplus(logits_BP) - logits_BP * probability_BP)).sum()


def make_adversarial_objective(
    config: PretrainingConfig, objective: Mapping[str, Any], special: SpecialTokens
) -> Objective:
    """gen_weight·(REINFORCE + baseline) + disc_weight·RTD in one update, with one sample per position.

    Raises:
      ValueError: config.objective.temperature is not 1.
    """
    require_plain_samples(objective)
    model = AdversarialModel(config)
    prepare = make_prepare(objective, special, config.discriminator.type_vocab_size)

    def loss(params, batch: MaskedBatch, normalizers, dropout_key, carry):
        del carry
        logits, baseline_logits_BP = model.apply(
            {"params": params},
            batch.masked_ids_BL,
            batch.inputs,
            batch.positions_BP,
            is_training=dropout_key is not None,
            method="generate_with_baseline",
            rngs=apply_rngs(dropout_key, "generate"),
        )
        options = {
            "temperature": 1.0,
            "chunk_size": objective["vocab_chunk_size"],
            "dtype": logits.x_BPE.dtype.name,
        }
        predictions = predict_vocabulary(
            *jax.lax.stop_gradient(logits), batch.targets_BP, batch.uniforms_BP, **options
        )
        _, measured = mlm_loss(predictions, batch, normalizers["mlm"])
        sampled = predict_vocabulary(*logits, predictions.samples_BP, None, **options)
        corrupted_BL = write_tokens(
            batch.ids_BL, batch.positions_BP, predictions.samples_BP, batch.weights_BP
        )

        detection_BL = detection_logits(model, params, corrupted_BL, batch.inputs, dropout_key)
        is_replaced_BL = corrupted_BL != batch.ids_BL
        detection, sums = rtd_loss(detection_BL, is_replaced_BL, batch.inputs.is_token_BL, normalizers["rtd"])
        bce_BL = jax.lax.stop_gradient(binary_cross_entropy(detection_BL, is_replaced_BL))
        reward_BP = jnp.take_along_axis(bce_BL, batch.positions_BP, axis=1)
        baseline_BP = jax.nn.softplus(-baseline_logits_BP)
        generator = (
            reinforce_loss(sampled.nll_BP, reward_BP, baseline_BP, batch.weights_BP)
            + baseline_loss(baseline_logits_BP, reward_BP, batch.weights_BP)
        ) / normalizers["mlm"]
        sums |= measured | reward_sums(reward_BP, baseline_BP, batch) | {TOKENS: token_count(batch.inputs)}
        return objective["gen_weight"] * generator + objective["disc_weight"] * detection, (sums, None)

    modules = (*embedding_modules(config), *ENCODERS, "generator_baseline")
    return Objective(
        init=make_init(model, prepare),
        prepare=prepare,
        normalizers=rtd_normalizers,
        phases=(Phase("joint", modules, loss),),
        targets=masked_targets,
    )


def reward_sums(reward_BP: jax.Array, baseline_BP: jax.Array, batch: MaskedBatch) -> Sums:
    """The generator's rewards at the masked positions, and the baseline's predictions of them."""
    return {
        "reward": (batch.weights_BP * reward_BP).sum(),
        "baseline": (batch.weights_BP * baseline_BP).sum(),
    }


def adversarial_flops(config: PretrainingConfig, sequence_length: int, objective: Mapping[str, Any]) -> float:
    """As ELECTRA, and the generator's baseline."""
    baseline = objective["mask_prob"] * 2 * config.generator.hidden_size
    return electra_flops(config, sequence_length, objective) + baseline


ADVERSARIAL = ObjectiveRow(
    name="adversarial",
    title="ELECTRA with an adversarial generator",
    make=make_adversarial_objective,
    flops=adversarial_flops,
    metrics=(
        MLM_METRICS,
        RTD_METRICS,
        mean_metric("reward", "reward", "mlm_weight"),
        mean_metric("baseline", "baseline", "mlm_weight"),
    ),
    minimizes_mlm=False,
    not_published=("generator_baseline",),
    not_published_note="the generator's baseline, which is needed only for training",
    continues_as="electra",
)
