"""A generator that tries to be found hard to tell (ELECTRA §3.2 and its appendix on adversarial training).

Samples have no gradient, so the generator learns by REINFORCE: what it earns with the token at a position is
the discriminator's loss there. That assumes, as the paper does, that the decision depends on this token and
on the unmasked ones, not on the other samples. What is not verified of the paper, and so a choice of ours:

* the baseline's formula: −log σ(w·h) of the generator's state h, in which σ(w·h) learns by cross-entropy the
  probability exp(−reward) that the discriminator gave to the right answer. Its gradient stops at the state;
* the weight, gen_weight, of the mean over the masked positions, beside disc_weight of the discriminator's
  mean over all tokens;
* that the generator has no other loss. Its masked language modelling figures are measured, and not trained
  for.

Shapes: B batch, L length, P masked positions.
"""

import jax
import jax.numpy as jnp

from electra_jax.models.ablations import AdversarialModel
from electra_jax.models.config import PretrainingConfig
from electra_jax.models.inputs import SpecialTokens
from electra_jax.objectives.base import EPSILON, Objective, Phase, Sums
from electra_jax.objectives.corruption import MaskedBatch, write_tokens
from electra_jax.objectives.mlm import apply_rngs, make_init, make_prepare, mlm_loss, mlm_normalizer
from electra_jax.objectives.rtd import (
    ENCODERS,
    binary_cross_entropy,
    detection_logits,
    embedding_modules,
    rtd_loss,
    token_count,
)
from electra_jax.objectives.vocabulary import predict_vocabulary


def reinforce_loss(
    nll_BP: jax.Array, reward_BP: jax.Array, baseline_BP: jax.Array, weights_BP: jax.Array
) -> jax.Array:
    """Σ weight·(reward − baseline)·(−log p(sample)): its gradient, over samples from p, is that of −Σ
    weight·E[reward].

    Args:
      nll_BP: −log p of the tokens that were sampled; all else counts as constant.
      baseline_BP: anything that does not depend on the sample, for a smaller variance.
    """
    advantage_BP = jax.lax.stop_gradient(reward_BP - baseline_BP)
    return (weights_BP * advantage_BP * nll_BP).sum()


def baseline_loss(logits_BP: jax.Array, reward_BP: jax.Array, weights_BP: jax.Array) -> jax.Array:
    """Σ weight·cross-entropy of σ(logit) with the probability exp(−reward)."""
    probability_BP = jax.lax.stop_gradient(jnp.exp(-reward_BP))
    return (weights_BP * (jax.nn.softplus(logits_BP) - logits_BP * probability_BP)).sum()


def require_plain_samples(objective: dict) -> None:
    """Raises ValueError where samples would come from another distribution than the one whose probabilities
    are used."""
    if objective["temperature"] != 1.0:
        raise ValueError(
            f"config.objective.temperature: got {objective['temperature']}, expected 1.0 with "
            f"config.objective.name={objective['name']!r}, which needs the probabilities of its samples."
        )


def make_adversarial_objective(
    config: PretrainingConfig, objective: dict, special: SpecialTokens
) -> Objective:
    """gen_weight·(REINFORCE + baseline) + disc_weight·RTD in one update, from one sample a position.

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
        sums |= measured | reward_sums(reward_BP, baseline_BP, batch) | {"tokens": token_count(batch.inputs)}
        return objective["gen_weight"] * generator + objective["disc_weight"] * detection, (sums, None)

    modules = (*embedding_modules(config), *ENCODERS, "generator_baseline")
    return Objective(
        make_init(model, prepare),
        prepare,
        lambda batch: {"mlm": mlm_normalizer(batch), "rtd": token_count(batch.inputs) + EPSILON},
        (Phase("joint", modules, loss),),
    )


def reward_sums(reward_BP: jax.Array, baseline_BP: jax.Array, batch: MaskedBatch) -> Sums:
    """What the generator earns at the masked positions, and what the baseline expects it to."""
    return {
        "reward": (batch.weights_BP * reward_BP).sum(),
        "baseline": (batch.weights_BP * baseline_BP).sum(),
    }
