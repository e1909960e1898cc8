"""ModernBERT, by replaced token detection or by masked language modelling:
`--config=configs/modernbert.py:size=17m|32m|68m|base|large|1b[,objective=electra|mlm|…]`.

Papers: Warner et al., "Smarter, Better, Faster, Longer: A Modern Bidirectional Encoder", 2024 (base, large);
Weller et al., "Seq vs Seq" (Ettin), 2025, the same architecture in six sizes. Values: AnswerDotAI/ModernBERT,
yamls/modernbert/*.yaml, and JHU-CLSP/ettin-encoder-vs-decoder, pretraining/configs/standard/*/encoder_*.yaml.

    python -m electra_jax.pretrain --config=configs/modernbert.py:size=17m --workdir=runs/modern \\
        --config.data.datasets=DIR

The published models were trained by masked language modelling only (objective=mlm). What replaced token
detection adds is ours, and marked [ours]: the generator, embedding sharing, the share of masked tokens and
the weight of the losses. Not run to the end here.

The published runs have three phases:

  1  1.7T tokens in rows of 1,024, the rate constant after warm-up, rotary θ 10,000 in all layers;
  2  250B tokens in rows of 8,192 (Ettin 7,999), global θ 160,000 (Ettin local θ, too), a lower rate;
  3  50B tokens, the rate decays.

The recipe is the first of them. `size=base,phases=3[,long_rows=DIR]` has all three as stages; DIR is the
dataset of the last two.
"""

import math
from typing import Any, NamedTuple

from ml_collections import config_dict

from configs.common import make_recipe
from electra_jax.configuration.objectives import apply_objective
from electra_jax.configuration.recipe_argument import parse_recipe_argument
from electra_jax.models.published_sizes import MODERN_SIZES

ROW_LENGTH = 1024  # of phase 1
# Phases 2 and 3 of base are in yamls/modernbert/modernbert-base-{context-extension,learning-rate-decay}.yaml.
LONG_ROW_LENGTH, LONG_ROWS_PER_STEP, LONG_TOKENS, DECAY_TOKENS = 8192, 576, 250e9, 50e9
LONG_LEARNING_RATE, LONG_GLOBAL_THETA, FINAL_SHARE = 3e-4, 160_000.0, 0.001


class FirstPhase(NamedTuple):
    """Settings of phase 1 of one size."""

    learning_rate: float  # the peak
    weight_decay: float  # share of a weight that a step at the peak rate takes
    batch_size: int  # rows per step; the published runs reach it from fewer
    warmup_tokens: float  # length of the warm-up, in tokens
    num_tokens: float  # its length


# base and large: ModernBERT. The others: Ettin, whose yamls call them very_tiny, tiny, mini and huge.
FIRST_PHASES = {
    "17m": FirstPhase(3e-3, 3e-4, 4608, 4e9, 1.7e12),
    "32m": FirstPhase(3e-3, 3e-4, 4608, 4e9, 1.7e12),
    "68m": FirstPhase(3e-3, 3e-4, 4608, 3e9, 1.7e12),
    "base": FirstPhase(8e-4, 1e-5, 4608, 3e9, 1.719e12),
    "large": FirstPhase(5e-4, 1e-5, 4928, 2e9, 1.719e12),
    "1b": FirstPhase(5e-4, 5e-5, 4608, 2e9, 1.7e12),
}


def get_config(arg: str | None = None) -> config_dict.ConfigDict:
    """The recipe of one size and objective.

    Raises:
      ValueError: an unknown size or objective, or phases of a size other than base.
    """
    chosen = parse_recipe_argument(
        arg, size="base", objective="electra", phases="1", long_rows=f"data/rows_of_{LONG_ROW_LENGTH}"
    )
    if chosen["size"] not in MODERN_SIZES:
        raise ValueError(
            f"config argument size: got {chosen['size']!r}, expected one of {sorted(MODERN_SIZES)}."
        )
    if chosen["phases"] != "1" and (chosen["size"], chosen["phases"]) != ("base", "3"):
        raise ValueError(
            f"config argument phases: got {chosen['phases']!r} with size={chosen['size']}, expected 1, or 3 "
            "with size=base: the later phases of the other sizes change values that stages cannot."
        )
    shape, phase = MODERN_SIZES[chosen["size"]], FIRST_PHASES[chosen["size"]]
    tokens_per_step = phase.batch_size * ROW_LENGTH
    config = make_recipe(
        model={
            "embedding_size": shape.hidden_size,
            "max_position_embeddings": 8192,  # the longest rows; rotary positions have no table
            "type_vocab_size": 0,
            "hidden_dropout": 0.0,
            "attention_dropout": 0.0,
            "layer_norm_epsilon": 1e-5,
            "initializer_range": 0.02,  # full_megatron: models/initializers.py
            "position": "rotary",
            "rotary": {
                "global_attention_every": 3,
                "window": 128,
                "global_theta": 10_000.0,  # 160,000 from phase 2 on
                "local_theta": 10_000.0,
                "attention_output_dropout": 0.1,
            },
            "embedding_sharing": "gdes",  # [ours]
            "generator": shape.generator,  # [ours]
            "discriminator": shape.discriminator,
        },
        objective={
            "name": chosen["objective"],
            "mask_prob": 0.15,  # [ours], as ELECTRA's; of mlm below
            "mask_token_prob": 1.0,  # the same
            "disc_weight": 50.0,  # [ours], as ELECTRA's
        },
        assumed={"vocab_size": 50_368, "sequence_length": ROW_LENGTH},
        optimizer=_optimizer(phase),
        train={"num_steps": round(phase.num_tokens / tokens_per_step), "batch_size": phase.batch_size},
        eval={"batch_size": 256},
    )
    apply_objective(config, chosen["objective"])
    if chosen["objective"] == "mlm":  # AnswerDotAI/ModernBERT, src/sequence_packer.py
        config.objective.update(mask_prob=0.3, mask_token_prob=0.8, random_token_prob=0.1)
    if chosen["phases"] == "3":
        first, later = config.train.num_steps, _later_phases(chosen["long_rows"])
        config.stages = tuple((first + start, changes) for start, changes in later)
        config.train.num_steps = first + _long_steps(LONG_TOKENS) + _long_steps(DECAY_TOKENS)
    return config


def _later_phases(dataset: str) -> tuple[tuple[int, dict[str, Any]], ...]:
    """Phases 2 and 3 in the form of config.stages, with steps counted from the end of phase 1."""
    longer = {
        "data.datasets": dataset,
        "data.sequence_length": LONG_ROW_LENGTH,
        "train.batch_size": LONG_ROWS_PER_STEP,
        "model.rotary.global_theta": LONG_GLOBAL_THETA,
        "optimizer.schedule": "warmup_constant",
        "optimizer.learning_rate": LONG_LEARNING_RATE,
        "optimizer.warmup_steps": 0,
    }
    decay = {
        "optimizer.schedule": "warmup_constant_sqrt",
        "optimizer.decay_share": 1.0,
        "optimizer.final_share": FINAL_SHARE,
    }
    return (0, longer), (_long_steps(LONG_TOKENS), decay)


def _long_steps(tokens: float) -> int:
    return round(tokens / (LONG_ROWS_PER_STEP * LONG_ROW_LENGTH))


def _optimizer(phase: FirstPhase) -> dict[str, float | str]:
    """config.optimizer. The clipping of updates replaces that of gradients."""
    return {
        "name": "stable_adamw",
        "learning_rate": phase.learning_rate,
        "schedule": "warmup_constant",
        "warmup_steps": round(phase.warmup_tokens / (phase.batch_size * ROW_LENGTH)),
        "beta1": 0.9,
        "beta2": 0.98,
        "epsilon": 1e-6,
        "weight_decay": phase.weight_decay,
        "weight_decay_follows": "schedule",
        "clip_norm": math.inf,
    }
