"""An encoder that two CPU cores train in about two hours, from up to ten million words:
`--config=configs/laptop.py[:objective=deberta_v3|electra|mlm][,regime=data_limited]`.

    bash launch/laptop.sh runs/laptop                                   # on WikiText-2
    bash launch/laptop.sh runs/laptop mine.jsonl --validation held_out.jsonl

The script trains a tokenizer of 4,096 pieces on the text, builds rows of 128 from pieces that begin with
sentences, trains with this recipe and exports. The values are ours, for this budget; what was tried is in
configs/README.md#a-laptop.

ModernBERT's layers are faster on a CPU than DeBERTa's and learn more than ELECTRA's. Muon reaches AdamW's
loss in three quarters of the steps, and with 30 % of the tokens masked the generator learns from twice as
many, for the same work in its layers.

regime=data_limited is for less text than that: 7,000 steps are about 30 passes over one million words. It
raises the weight decay 30 times, from 0.01 to 0.3. Kim et al. 2025, Pre-training under infinite compute,
found 30 times the usual value best for language models that read little text many times (abstract). 0.3 has
not been measured here: neither the factor nor the usual value need be the same for this model and optimizer.
Try 0.03 and 0.1, too, and values above. Then train several seeds, and one student of all of them, with
objective=distillation: configs/README.md#little-text has the commands.
"""

from ml_collections import config_dict

from configs.common import make_recipe
from electra_jax.configuration.objectives import apply_objective
from electra_jax.configuration.recipe_argument import parse_recipe_argument
from electra_jax.models.config import encoder_shape

WIDTH = 192
# Three products of a gated layer, so two thirds of the usual width.
GATED = {"intermediate_size": 8 * WIDTH // 3}
WEIGHT_DECAY = {"plain": 0.01, "data_limited": 0.3}  # by regime


def get_config(arg: str | None = None) -> config_dict.ConfigDict:
    """The recipe. The argument chooses another objective, and a regime.

    Raises:
      ValueError: an unknown objective or regime.
    """
    chosen = parse_recipe_argument(arg, objective="deberta_v3", regime="plain")
    if chosen["regime"] not in WEIGHT_DECAY:
        raise ValueError(
            f"config argument regime: got {chosen['regime']!r}, expected one of {sorted(WEIGHT_DECAY)}."
        )
    config = make_recipe(
        model={
            "type_vocab_size": 0,
            "layer_norm_epsilon": 1e-5,
            "embedding_size": WIDTH,
            "hidden_dropout": 0.0,
            "attention_dropout": 0.0,
            "initializer": "local",
            "dtype": "bfloat16",
            "position": "rotary",
            "rotary": {
                "global_attention_every": 1,  # rows are shorter than a window would be
                "window": 128,
                "global_theta": 10_000.0,
                "local_theta": 10_000.0,
                "attention_output_dropout": 0.0,
            },
            "embedding_sharing": "gdes",
            "generator": encoder_shape(WIDTH, 3) | GATED,
            "discriminator": encoder_shape(WIDTH, 3) | GATED,
        },
        objective={"name": "deberta_v3", "disc_weight": 5.0, "mask_prob": 0.3},
        data={"datasets": ("sample:wikitext2",)},
        assumed={"vocab_size": 4096, "sequence_length": 128},  # as launch/laptop.sh builds the dataset
        optimizer={
            "name": "muon",
            "learning_rate": 5e-3,
            "schedule": "warmup_then_decay",
            "warmup_steps": 200,
            "weight_decay": WEIGHT_DECAY[chosen["regime"]],
        },
        train={"num_steps": 7000, "batch_size": 64},
        eval={"every": 500, "batch_size": 128, "max_batches": 16},
        checkpoint={"every": 500, "keep": 2},
        log={"every": 50},
    )
    apply_objective(config, chosen["objective"])
    return config
