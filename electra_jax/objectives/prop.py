"""PROP (Ma et al. 2021, "Pre-training with Representative Words Prediction for Ad-hoc Retrieval"): masked
language modelling, and which of two sets of words represents a document better.

Two sets of equally many words are drawn from the document's smoothed language model (word_sets.py). The one
of the higher probability is the better one. The encoder reads [CLS] words [SEP] document with each, and a
head on [CLS] scores both. The loss is

    gen_weight·MLM over both rows + rop_weight·mean(2·σ(s₂ − s₁)),

s₁ the better set's score: the hinge loss with margin 1 of the softmax of both scores, as in the released code
(Albert-Ma/PROP, pytorch_pretrain_bert/modeling.py). As published: the loss, sizes drawn from Poisson(3),
subsampling of frequent words. The paper starts from BERT (README.md shows how). Words are tokens here, and a
row's further documents take part in MLM alone.

Shapes: B batch, L length, P predicted positions, W words of a set.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from electra_jax.models.config import EncoderConfig, PretrainingConfig
from electra_jax.models.course_model import unstack
from electra_jax.models.inputs import SpecialTokens
from electra_jax.models.word_set_model import WORD_SET_HEAD, WordSetModel
from electra_jax.objectives.base import EPSILON, TOKENS, Objective, Phase, Sums
from electra_jax.objectives.corruption import MaskedBatch
from electra_jax.objectives.courses import stack
from electra_jax.objectives.metrics import mean_metric
from electra_jax.objectives.mlm import (
    MLM,
    apply_rngs,
    make_init,
    make_mlm_objective,
    mlm_flops,
    mlm_loss,
    mlm_normalizer,
    score_masked,
)
from electra_jax.objectives.row import ObjectiveRow
from electra_jax.objectives.word_sets import begin_with, collect, draw_set, draw_sizes, longest_set


class WordSetBatch(NamedTuple):
    """The rows that begin with either set, each with a masking of its own."""

    better: MaskedBatch
    worse: MaskedBatch
    weights_B: jax.Array  # float32; 0 for a row without words, or if both sets have the same probability
    num_words_B: jax.Array  # int32, of each set
    num_tokens_B: jax.Array  # int32, real tokens of the text, without the sets


class Pair(NamedTuple):
    """Two sets of words for each document."""

    better_BW: jax.Array  # int32
    worse_BW: jax.Array  # int32
    sizes_B: jax.Array  # int32: how many of the words are used, in both sets
    weights_B: jax.Array  # float32: 0 where neither is better


def draw_pair(
    key: jax.Array,
    ids_BL: jax.Array,
    objective: Mapping[str, Any],
    special: SpecialTokens,
    encoder: EncoderConfig,
) -> Pair:
    """Draw both sets and compare the probabilities of the words that are used."""
    size_key, *keys = jax.random.split(key, 3)
    mean_words = objective["rop_mean_words"]
    collection = collect(ids_BL, special, encoder.type_vocab_size, encoder.vocab_size)
    longest = longest_set(mean_words, ids_BL.shape[1])
    one, other = (draw_set(key, collection, longest, objective["rop_subsampling"]) for key in keys)
    sizes_B = draw_sizes(jax.random.uniform(size_key, ids_BL.shape[:1]), mean_words, longest)
    sizes_B = jnp.minimum(sizes_B, jnp.minimum(one.available_B, other.available_B))
    is_used_BW = jnp.arange(longest)[None] < sizes_B[:, None]
    total_B, other_total_B = (
        jnp.where(is_used_BW, each.log_probs_BW, 0.0).sum(axis=1) for each in (one, other)
    )
    is_better_B1 = (total_B > other_total_B)[:, None]
    return Pair(
        jnp.where(is_better_B1, one.words_BW, other.words_BW),
        jnp.where(is_better_B1, other.words_BW, one.words_BW),
        sizes_B,
        (total_B != other_total_B).astype(jnp.float32),
    )


def make_prop_objective(
    config: PretrainingConfig, objective: Mapping[str, Any], special: SpecialTokens
) -> Objective:
    """MLM and representative words prediction with one encoder of the discriminator's shape.

    Raises:
      ValueError: see `make_mlm_objective`.
    """
    plain, model = make_mlm_objective(config, objective, special), WordSetModel(config)

    def prepare(key: jax.Array, ids_BL: jax.Array) -> WordSetBatch:
        draw_key, *mask_keys = jax.random.split(key, 3)
        pair = draw_pair(draw_key, ids_BL, objective, special, config.discriminator)
        masked = [plain.prepare(key, ids_BL) for key in mask_keys]
        types = config.discriminator.type_vocab_size
        return WordSetBatch(
            begin_with(masked[0], pair.better_BW, pair.sizes_B, special, types),
            begin_with(masked[1], pair.worse_BW, pair.sizes_B, special, types),
            weights_B=pair.weights_B,
            num_words_B=pair.sizes_B,
            num_tokens_B=masked[0].inputs.is_token_BL.sum(axis=1, dtype=jnp.int32),
        )

    def loss(params, batch: WordSetBatch, normalizers, dropout_key, carry):
        rows = stack([batch.better, batch.worse])
        logits, scores = model.apply(
            {"params": params},
            rows.masked_ids_BL,
            rows.inputs,
            rows.positions_BP,
            is_training=dropout_key is not None,
            method="generate_and_score",
            rngs=apply_rngs(dropout_key, "generate"),
        )
        predictions = score_masked(objective, logits, rows, None)
        value, sums = mlm_loss(
            predictions, rows, normalizers["mlm"], z_loss_weight=objective["z_loss_weight"]
        )
        pair_loss, pair_sums = rop_loss(*unstack(scores, 2), batch.weights_B)
        sums |= pair_sums | {
            "rop_words": (batch.weights_B * batch.num_words_B).sum(),
            TOKENS: batch.num_tokens_B.sum(dtype=jnp.float32),
        }
        value = objective["gen_weight"] * value + objective["rop_weight"] * pair_loss / normalizers["rop"]
        return value, (sums, carry)

    def normalizers(batch: WordSetBatch) -> dict[str, jax.Array]:
        return {
            "mlm": mlm_normalizer(batch.better) + mlm_normalizer(batch.worse),
            "rop": batch.weights_B.sum() + EPSILON,
        }

    return Objective(
        init=make_init(model, plain.prepare),
        prepare=prepare,
        normalizers=normalizers,
        phases=(Phase("mlm", (*plain.phases[0].trains, WORD_SET_HEAD), loss),),
        targets=lambda batch: tuple(
            jnp.concatenate(parts, axis=1)
            for parts in zip(plain.targets(batch.better), plain.targets(batch.worse), strict=True)
        ),
    )


def rop_loss(better_B: jax.Array, worse_B: jax.Array, weights_B: jax.Array) -> tuple[jax.Array, Sums]:
    """The sum over rows of max(0, 1 − p₁ + p₂), (p₁, p₂) the softmax of both scores, which is 2·p₂; and its
    sums. Equal scores count as half right."""
    loss = (weights_B * 2.0 * jax.nn.sigmoid(worse_B - better_B)).sum()
    right_B = (better_B > worse_B) + 0.5 * (better_B == worse_B)
    return loss, {"rop_loss": loss, "rop_right": (weights_B * right_B).sum(), "rop_pairs": weights_B.sum()}


def prop_flops(config: PretrainingConfig, sequence_length: int, objective: Mapping[str, Any]) -> float:
    """Two rows for each row of text, and the score of each."""
    width = config.discriminator.hidden_size
    return 2 * (mlm_flops(config, sequence_length, objective) + 2 * width * (width + 1) / sequence_length)


PROP = ObjectiveRow(
    name="prop",
    title="representative words prediction and masked language modelling",
    make=make_prop_objective,
    flops=prop_flops,
    metrics=(
        *MLM.metrics,
        mean_metric("rop_loss", "rop_loss", "rop_pairs"),
        mean_metric("rop_accuracy", "rop_right", "rop_pairs"),
        mean_metric("rop_words", "rop_words", "rop_pairs"),
    ),
    paper="Ma et al. 2021, [PROP](https://arxiv.org/abs/2010.10137)",
    in_ablations=False,
    settings={
        **MLM.settings,
        "rop_weight": 1.0,
        "rop_mean_words": 3.0,  # of the Poisson distribution of a set's size, before empty sets are left out
        "rop_subsampling": 1e-4,  # the frequency above which words are passed over in part; 0: none are
    },
    not_read=("disc_weight", "temperature"),
    parameters_of="mlm",
    predicts_tokens=True,
    card_text="An encoder pre-trained for retrieval, with masked language modelling and with the question "
    "which of two sets of words represents a text better; to be fine-tuned or used to fill in masks.",
    not_published=(WORD_SET_HEAD,),
    not_published_note="the head that scores sets of words, for which transformers has no class",
    continues_as="mlm",
)
