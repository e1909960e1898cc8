"""ELECTRA as published: `--config=configs/electra.py:size=small|small_pp|base|large[,objective=NAME]`.

Paper: Clark et al., "ELECTRA: Pre-training Text Encoders as Discriminators Rather Than Generators", ICLR
2020. Values: google-research/electra, configure_pretraining.py. Where paper and code differ, the code is
followed and a comment names the difference.

    python -m electra_jax.pretrain --config=configs/electra.py:size=small --workdir=runs/small \\
        --config.data.datasets=DIR

Expected result of `small` (paper, Table 1): GLUE dev 79.9 after 1M steps; cost: 4 days on one V100. Not run
to the end here.

`objective`: electra (default), mlm (the paper's baseline), or one of its ablations and relatives:

  electra_15       the discriminator's loss on the masked positions only (§3.5)
  replace_mlm      an encoder predicts the masked tokens in an input that holds the generator's samples
                   instead of [MASK] (§3.5)
  all_tokens_mlm   the same, but it predicts all tokens, with a gate for copying the input (§3.5)
  two_stage        the discriminator beside a finished generator (§3.2): first run objective=mlm of the same
                   size, then this one with --config.checkpoint.init_from=DIR of the first
  adversarial      the generator maximises the discriminator's loss (§3.2; objectives/adversarial.py lists
                   what the paper leaves open)
  electric         Electric, an energy per token by noise-contrastive estimation (objectives/electric.py)
  fast_electra     the discriminator beside the generator of a finished run of any size,
                   --config.objective.teachers=DIR, whose temperature falls (objectives/README.md)
  prop             masked language modelling, and which of two sets of words represents a text better, for
                   retrieval (objectives/README.md)
"""

from ml_collections import config_dict

from configs.common import make_recipe
from electra_jax.configuration.objectives import apply_objective
from electra_jax.configuration.recipe_argument import parse_recipe_argument
from electra_jax.models.config import encoder_shape
from electra_jax.models.published_sizes import SIZES, generator_shape

# size: (mask_prob, sequence_length, learning_rate, batch_size, num_steps). Masking and lengths: comment block
# of configure_pretraining.py. Steps: 1M and 766K from the paper and flops_computation.py; 4M from the README
# ("small_pp" is the released small model, trained on sequences of 512); 1.75M is the released large model.
RECIPES = {
    "small": (0.15, 128, 5e-4, 128, 1_000_000),
    "small_pp": (0.15, 512, 5e-4, 128, 4_000_000),
    "base": (0.15, 512, 2e-4, 256, 766_000),
    "large": (0.25, 512, 2e-4, 2048, 1_750_000),
}


def get_config(arg: str | None = None) -> config_dict.ConfigDict:
    """The recipe of one size and objective.

    Raises:
      ValueError: an unknown size or objective.
    """
    chosen = parse_recipe_argument(arg, size="small", objective="electra")
    if chosen["size"] not in SIZES:
        raise ValueError(f"config argument size: got {chosen['size']!r}, expected one of {sorted(SIZES)}.")
    size, probe_size = SIZES[chosen["size"]], chosen["size"].removesuffix("_pp")
    mask_prob, sequence_length, learning_rate, batch_size, num_steps = RECIPES[chosen["size"]]
    config = make_recipe(
        model={
            "embedding_size": size.embedding_size,
            "type_vocab_size": 2,
            "layer_norm_epsilon": 1e-12,
            "position": "absolute",
            "generator": generator_shape(size),
            "discriminator": encoder_shape(size.hidden_size, size.num_layers),
        },
        objective={
            "name": chosen["objective"],
            "mask_prob": mask_prob,
            "mask_token_prob": 0.85,  # the code's; the paper's text says 1.0
            "disc_weight": 50.0,  # of the mean over the tokens that count; not stated for ablations
        },
        assumed={
            "vocab_size": 30522,  # BERT's uncased WordPiece
            "sequence_length": sequence_length,
        },
        optimizer={
            "learning_rate": learning_rate,
            "schedule": "warmup_times_decay",
            "warmup_steps": 10_000,
            "beta1": 0.9,
            "beta2": 0.999,
            "epsilon": 1e-6,
            "weight_decay": 0.01,
            "bias_correction": False,
            "clip_norm": 1.0,
        },
        train={"num_steps": num_steps, "batch_size": batch_size},
        eval={"batch_size": batch_size},
        probe={"config": f"configs/finetune.py:task=trec6,model=electra,size={probe_size}"},
    )
    apply_objective(config, chosen["objective"])
    return config
