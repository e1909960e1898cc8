"""Tiny models for a CPU and a few minutes:
`--config=configs/debug.py[:model=electra|deberta_v3|mcl|modernbert][,objective=NAME]`.

`bash launch/local_debug.sh` trains it on WikiText-2. It shows learning, not a good encoder:

    python -m electra_jax.pretrain --config=configs/debug.py --workdir=runs/debug --config.data.datasets=DIR

Two things let a run this short learn: `initializer="local"` (models/initializers.py), without which the loss
stays at that of the unigram distribution, and a small vocabulary.

electra: a discriminator of two layers of 128 and a generator of one. disc_weight is 5 rather than 50, at
which the discriminator's gradient would take the shared embeddings away from the generator. deberta_v3: two
layers each, the generator's second being its enhanced mask decoder, and gradient-disentangled embedding
sharing. mcl: two layers each with a relative bias beside absolute positions, and weights as small as
electra's here. modernbert: a global and a local layer each, and DeBERTaV3's objective.
"""

from typing import Any

from ml_collections import config_dict

from configs.common import make_recipe
from electra_jax.configuration.objectives import apply_objective
from electra_jax.configuration.recipe_argument import parse_recipe_argument
from electra_jax.models.config import encoder_shape

# model: its part of config.model
MODELS: dict[str, dict[str, Any]] = {
    "electra": {
        "type_vocab_size": 2,
        "layer_norm_epsilon": 1e-12,
        "position": "absolute",
        "generator": encoder_shape(128, 1),
    },
    "deberta_v3": {
        "type_vocab_size": 0,
        "layer_norm_epsilon": 1e-7,
        "position": "disentangled",
        "disentangled": {
            "position_buckets": 32,
            "max_relative_positions": 128,
            "position_biased_input": False,
            "enhanced_mask_decoder": True,
            "conv_kernel_size": 0,
        },
        "embedding_sharing": "gdes",
        "generator": encoder_shape(128, 2),
    },
    "mcl": {
        "type_vocab_size": 0,
        "layer_norm_epsilon": 1e-5,
        "position": "relative_bias",
        "relative_bias": {"num_buckets": 32, "max_distance": 128, "position_biased_input": True},
        "generator": encoder_shape(128, 2),
    },
    "modernbert": {
        "type_vocab_size": 0,
        "layer_norm_epsilon": 1e-5,
        "position": "rotary",
        "rotary": {
            "global_attention_every": 3,
            "window": 32,
            "global_theta": 10_000.0,
            "local_theta": 10_000.0,
            "attention_output_dropout": 0.0,
        },
        "embedding_sharing": "gdes",
        # As many parameters as DeBERTaV3's layers: three products of the gated layer in place of two.
        "generator": encoder_shape(128, 2) | {"intermediate_size": 344},
        "discriminator": encoder_shape(128, 2) | {"intermediate_size": 344},
    },
}
# model: the objective that it is trained with, unless it has the same name
OBJECTIVE_OF = {"modernbert": "deberta_v3"}
# model: its part of config.objective (configs/mcl.py explains MCL's)
OBJECTIVES: dict[str, dict[str, Any]] = {
    "electra": {"disc_weight": 5.0},
    # With separate updates a weight only rescales the discriminator's gradient before clipping; with tied
    # embeddings the update is joint.
    "deberta_v3": {"disc_weight": 5.0},
    "modernbert": {"disc_weight": 5.0},
    "mcl": {
        "disc_weight": 5.0,
        "std_weight": 5.0,
        "itd_weight": 5.0,
        "re_rtd_weight": 5.0,
        "re_std_weight": 5.0,
    },
}


def get_config(arg: str | None = None) -> config_dict.ConfigDict:
    """The debug recipe. The argument names the model, and another objective than the model's.

    Raises:
      ValueError: an unknown model or objective.
    """
    chosen = parse_recipe_argument(arg, model="electra", objective="")
    name = chosen["model"]
    if name not in MODELS:
        raise ValueError(f"config argument model: got {name!r}, expected one of {sorted(MODELS)}.")
    objective = OBJECTIVE_OF.get(name, name)
    config = make_recipe(
        model={
            "embedding_size": 128,
            "max_position_embeddings": 128,
            "hidden_dropout": 0.0,
            "attention_dropout": 0.0,
            "initializer": "local",
            "discriminator": encoder_shape(128, 2),
            **MODELS[name],
        },
        objective={"name": objective, **OBJECTIVES[name]},
        data={"datasets": ("runs/data/corpus",)},
        assumed={"vocab_size": 1024, "sequence_length": 64},  # as launch/local_debug.sh builds the dataset
        optimizer={
            "learning_rate": 2e-3,
            "schedule": "warmup_times_decay",
            "warmup_steps": 100,
            "bias_correction": True,
        },
        train={"num_steps": 1500 if objective == "deberta_v3" else 3000, "batch_size": 32},
        eval={"every": 250, "batch_size": 128, "max_batches": 12},
        checkpoint={"every": 250, "keep": 2},
        log={"every": 50},
    )
    apply_objective(config, chosen["objective"] or objective)
    return config
