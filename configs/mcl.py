"""MCL: `--config=configs/mcl.py:size=base|tiny|small[,objective=electra|mlm]`.

Paper: Chen et al., "Pre-training Language Model as a Multi-perspective Course Learner", Findings of ACL 2023.
MCL is ELECTRA with two more courses, swapped tokens and inserted tokens, and with corrections of the two
encoders' mistakes.

    python -m electra_jax.pretrain --config=configs/mcl.py:size=base --workdir=runs/mcl \\
        --config.data.datasets=DIR

Expected result [V]: on average 2.8 points more than ELECTRA on GLUE and 3.2 on SQuAD 2.0, in the paper's own
comparison. Not run to the end here; the cost is not known.

No code of its pre-training is public, and the paper's text was not available here. Every value
is therefore marked with its source:

  [V]  seen in the paper's abstract, or on the page and in the file list of the released model
  [C]  seen in the code of COCO-LM (microsoft/COCO-LM), whose architecture MCL is recalled to share
  [R]  recalled, not checked; it may be wrong, and must not be quoted as the paper's
  [E]  chosen here, since no source states it

`base` is the paper's setting and `tiny` that of its ablations, the same model with a smaller batch [R].
`small` is ours: ELECTRA small with this architecture [E].
"""

from typing import NamedTuple

from ml_collections import config_dict

from configs.common import make_recipe
from electra_jax.configuration.objectives import apply_objective
from electra_jax.configuration.recipe_argument import parse_recipe_argument
from electra_jax.models.config import encoder_shape


class Recipe(NamedTuple):
    """What differs between the sizes."""

    embedding_size: int
    hidden_size: int
    sequence_length: int
    batch_size: int
    num_steps: int


NUM_LAYERS, GENERATOR_LAYERS = 12, 4  # [R]; [C] cocolm_base
RECIPES = {
    # 12×768 [R]; 2,048 rows of 512 [R], of 16 GB of text [R]; 125,000 steps [V], from the name of the
    # checkpoint.
    "base": Recipe(768, 768, 512, 2048, 125_000),
    "tiny": Recipe(768, 768, 512, 512, 125_000),  # 512 rows [R]
    "small": Recipe(128, 256, 128, 128, 1_000_000),  # [E]
}

COURSES = {
    "swap_prob": 0.15,  # [R]
    "swap_permutation": "uniform",  # [E]; or "cyclic", in which no token keeps its place
    "insert_prob": 0.15,  # [E]
    # Weights of the courses: no source states one. 50 is ELECTRA's, and the default of COCO-LM's code
    # [C].
    "gen_weight": 1.0,  # masked tokens
    "disc_weight": 50.0,  # replaced tokens [E]
    "slm_weight": 1.0,  # swapped tokens, generator [R]
    "std_weight": 50.0,  # swapped tokens, discriminator [E]
    "itd_weight": 50.0,  # inserted tokens [E]
    "re_mlm_weight": 1.0,  # [R]
    "re_slm_weight": 1.0,  # [R]
    "re_rtd_weight": 50.0,  # [E]
    "re_std_weight": 50.0,  # [E]
    "correction_normalizer": "selected",  # the tokens that are corrected [E]; or "all"
}
OPTIMIZER = {
    "learning_rate": 5e-4,  # [R]
    "schedule": "warmup_then_decay",  # [E]
    "warmup_steps": 10_000,  # [R]
    "beta1": 0.9,  # [R]
    "beta2": 0.98,  # [R]
    "epsilon": 1e-6,  # [R]
    "weight_decay": 0.01,  # [R]; the first of the shared groups spares the relative bias, too [E]
    "bias_correction": True,  # [E]
    "clip_norm": 1.0,  # [E]
}


def get_config(arg: str | None = None) -> config_dict.ConfigDict:
    """The recipe of one size and objective.

    Raises:
      ValueError: an unknown size or objective.
    """
    chosen = parse_recipe_argument(arg, size="base", objective="mcl")
    if chosen["size"] not in RECIPES:
        raise ValueError(f"config argument size: got {chosen['size']!r}, expected one of {sorted(RECIPES)}.")
    recipe, settings = RECIPES[chosen["size"]], chosen["size"].replace("tiny", "base")
    config = make_recipe(
        model={
            "embedding_size": recipe.embedding_size,
            "max_position_embeddings": 512,  # [C]
            "type_vocab_size": 0,  # num_segments=0 [C]
            "hidden_dropout": 0.1,  # [C]
            "attention_dropout": 0.1,  # [C]
            "layer_norm_epsilon": 1e-5,  # [C]
            "initializer_range": 0.02,  # of a normal that is not truncated [C]
            # [R]; [C]. "absolute" is ELECTRA's architecture, for which `transformers` has classes.
            "position": "relative_bias",
            "relative_bias": {  # models/relative_bias.py; one table per encoder [C]
                "num_buckets": 32,  # [C]
                "max_distance": 128,  # [C]
                "position_biased_input": True,  # learned absolute positions in the input, too [C]
            },
            # Tokens, positions and LayerNorm [C]; the only bridge between the two encoders [V].
            "embedding_sharing": "tied",
            "generator": encoder_shape(recipe.hidden_size, GENERATOR_LAYERS),  # as wide as the other [R]; [C]
            "discriminator": encoder_shape(recipe.hidden_size, NUM_LAYERS),
        },
        objective={
            "name": chosen["objective"],  # mcl | electra | mlm
            "mask_prob": 0.15,  # [V]
            "mask_token_prob": 1.0,  # [R]
            **COURSES,
        },
        assumed={
            "vocab_size": 64_000,  # SentencePiece, cased [V]; this number of pieces [R]
            "sequence_length": recipe.sequence_length,
        },
        optimizer=OPTIMIZER,
        train={"num_steps": recipe.num_steps, "batch_size": recipe.batch_size},
        eval={"batch_size": min(recipe.batch_size, 256)},
        # Fine-tuned with ELECTRA's settings [E].
        probe={"config": f"configs/finetune.py:task=trec6,model=electra,size={settings}"},
    )
    apply_objective(config, chosen["objective"])
    return config
