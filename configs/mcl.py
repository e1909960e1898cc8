"""MCL: `--config=configs/mcl.py:size=base|tiny|small[,objective=electra|mlm]`.

Chen et al., "Pre-training Language Model as a Multi-perspective Course Learner", Findings of ACL 2023:
ELECTRA with two more courses, tokens that were swapped and tokens that were inserted, and with corrections of
what the two encoders got wrong.

    python -m electra_jax.pretrain --config=configs/mcl.py:size=base --config.data.datasets=DIR --workdir=runs/mcl

Without --config.data.datasets it runs on WikiText-2. No code of its pre-training is public, and the paper's
text was not at hand when this was written. So every value says how it is known:

  [V]  seen in the paper's abstract, or on the page and in the file list of the released model
  [C]  seen in the code of COCO-LM (microsoft/COCO-LM), whose architecture MCL is recalled to share
  [R]  recalled, not checked; it may be wrong, and is not to be quoted as the paper's
  [E]  chosen here, since nothing says it

`base` is the paper's setting and `tiny` that of its ablations, the same model with a smaller batch [R].
`small` is ours: ELECTRA small with this architecture [E]. Published [V]: on average 2.8 points more than
ELECTRA on GLUE and 3.2 on SQuAD 2.0, in its own comparison. Not run to the end here.
"""

from typing import NamedTuple

from ml_collections import config_dict

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


def get_config(arg: str | None = None) -> config_dict.ConfigDict:
    """The recipe of one size; see the module's text."""
    chosen = parse_recipe_argument(arg, size="base", objective="mcl")
    if chosen["size"] not in RECIPES:
        raise ValueError(f"config argument size: got {chosen['size']!r}, expected one of {sorted(RECIPES)}.")
    recipe, settings = RECIPES[chosen["size"]], chosen["size"].replace("tiny", "base")
    create = config_dict.create
    config = create(
        model=create(
            vocab_size=64_000,  # SentencePiece, cased [V]; so many pieces [R]; a dataset with a smaller vocabulary fits too
            embedding_size=recipe.embedding_size,
            max_position_embeddings=512,  # [C]
            type_vocab_size=0,  # num_segments=0 [C]
            hidden_dropout=0.1,  # [C]
            attention_dropout=0.1,  # [C]
            layer_norm_epsilon=1e-5,  # [C]
            initializer_range=0.02,  # [C]
            initializer="published",  # or "local": heads that start on their neighbours (models/initializers.py)
            dtype="float32",  # bfloat16 on TPU and GPU
            position="relative_bias",  # [R]; [C]. "absolute" is ELECTRA's architecture, for which `transformers` has classes
            disentangled=None,
            relative_bias=create(  # models/relative_bias.py; one table an encoder [C]
                num_buckets=32,  # [C]
                max_distance=128,  # [C]
                position_biased_input=True,  # learned absolute positions in the input, too [C]
            ),
            embedding_sharing="tied",  # tokens, positions and LayerNorm [C]; the only bridge between the two [V]
            generator=create(
                **encoder_shape(recipe.hidden_size, GENERATOR_LAYERS)
            ),  # as wide as the discriminator [R]; [C]
            discriminator=create(**encoder_shape(recipe.hidden_size, NUM_LAYERS)),
        ),
        objective=create(
            name=chosen["objective"],  # mcl | electra | mlm
            generator="model",  # as in electra.py; so are random_token_prob and token_weight
            mask_prob=0.15,  # [V]
            mask_token_prob=1.0,  # [R]
            random_token_prob=0.0,
            masking="uniform",
            temperature=1.0,
            vocab_chunk_size=0,  # entries of the vocabulary at a time in the generator's losses; 0: all at once
            swap_prob=0.15,  # [R]
            swap_permutation="uniform",  # [E]; or "cyclic", in which no token stays where it was
            insert_prob=0.15,  # [E]
            # Weights of the courses: no source gives one. 50 is ELECTRA's, and the default of COCO-LM's code
            # [C].
            gen_weight=1.0,  # masked tokens
            token_weight=1.0,
            disc_weight=50.0,  # replaced tokens [E]
            slm_weight=1.0,  # swapped tokens, generator [R]
            std_weight=50.0,  # swapped tokens, discriminator [E]
            itd_weight=50.0,  # inserted tokens [E]
            re_mlm_weight=1.0,  # [R]
            re_slm_weight=1.0,  # [R]
            re_rtd_weight=50.0,  # [E]
            re_std_weight=50.0,  # [E]
            correction_normalizer="selected",  # the tokens that are corrected [E]; or "all"
        ),
        # As in electra.py.
        data=create(
            datasets=("sample:wikitext2",),
            weights=(1.0,),
            sequence_length=recipe.sequence_length,
            seed=0,
            prefetch=2,
        ),
        optimizer=create(
            learning_rate=5e-4,  # [R]
            discriminator_learning_rate=0.0,  # 0: the same
            schedule="warmup_then_decay",  # [E]
            warmup_steps=10_000,  # [R]
            beta1=0.9,  # [R]
            beta2=0.98,  # [R]
            epsilon=1e-6,  # [R]
            weight_decay=0.01,  # [R]
            bias_correction=True,  # [E]
            clip_norm=1.0,  # [E]
            # The first pattern holds for the relative bias, too: no decay [E].
            groups=((r"LayerNorm|bias", 1.0, 0.0), (r".*", 1.0, 1.0)),
        ),
        mesh=create(data=-1, fsdp=1, tensor=1),
        train=create(
            num_steps=recipe.num_steps,
            batch_size=recipe.batch_size,
            num_microbatches=1,  # the batch in so many parts, one after the other
            # As in electra.py.
            layers="unrolled",
            remat="none",
            gradient_dtype="float32",
            ema_decay=0.0,
            seed=0,
        ),
        eval=create(every=10_000, batch_size=min(recipe.batch_size, 256), max_batches=100, seed=1),
        # As in electra.py; fine-tuned with ELECTRA's settings [E].
        probe=create(
            every=0,
            config=f"configs/finetune.py:task=trec6,model=electra,size={settings}",
            train="",
            validation="",
            text="",
            pair="",
            label="",
            max_examples=1000,
            num_epochs=3,
            seed=0,
        ),
        # init_from: a run, or an imported model, whose parameters this one starts from
        # (configs/continued.py).
        checkpoint=create(every=5_000, keep=3, init_from=""),
        log=create(every=100, tensorboard=False, progress=True, peak_flops=0.0),
        stages=(),  # as in electra.py
    )
    apply_objective(config, chosen["objective"])
    return config
