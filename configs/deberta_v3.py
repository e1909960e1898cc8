"""DeBERTaV3:
`--config=configs/deberta_v3.py:size=xsmall|small|base|large|mdeberta[,variant=released_script][,objective=mlm]`.

He, Gao and Chen, "DeBERTaV3: Improving DeBERTa using ELECTRA-Style Pre-Training with Gradient-Disentangled
Embedding Sharing", ICLR 2023. Shapes: microsoft/DeBERTa, experiments/language_model/rtd_*.json and the
released checkpoints.

    python -m electra_jax.pretrain --config=configs/deberta_v3.py:size=xsmall --config.data.datasets=DIR --workdir=runs/xsmall

Without --config.data.datasets it runs on WikiText-2. `variant`:

  released_model   (default) how the released models were trained, as far as it is known: 160 GB of text,
                   500,000 steps of 8,192 rows of 512. Where sources disagree or are silent the comments below
                   say so.
  released_script  the values of the public rtd.sh, a demonstration on WikiText-103: smaller batches,
                   1,000,000 steps, masking that never reaches the tail of a row. It has no preset for
                   training small or mdeberta from the beginning.

Published (README of microsoft/DeBERTa): MNLI-m 88.1 / 88.3 / 90.6 / 91.8 for xsmall / small / base / large.
Not run to the end here.
"""

from ml_collections import config_dict

from electra_jax.configuration.objectives import apply_objective
from electra_jax.configuration.recipe_argument import parse_recipe_argument
from electra_jax.models.config import DEBERTA_V3_SIZES, encoder_shape

# Peak learning rates of the released models. large: paper. base and small: 5e-4 in the paper's running text
# and its ablation, 6e-4 in its table of hyper-parameters, both through secondary sources. xsmall and
# mdeberta: not stated, base's assumed.
RELEASED_MODEL_RATES = {"xsmall": 5e-4, "small": 5e-4, "base": 5e-4, "large": 3e-4, "mdeberta": 5e-4}
# size: (learning rate, batch size); rtd.sh.
RELEASED_SCRIPT = {"xsmall": (3e-4, 64), "base": (1e-4, 256), "large": (1e-4, 256)}


def get_config(arg: str | None = None) -> config_dict.ConfigDict:
    """The recipe of one size; see the module's text."""
    chosen = parse_recipe_argument(arg, size="base", variant="released_model", objective="deberta_v3")
    size, variant = chosen["size"], chosen["variant"]
    if size not in DEBERTA_V3_SIZES:
        raise ValueError(f"config argument size: got {size!r}, expected one of {sorted(DEBERTA_V3_SIZES)}.")
    if variant not in ("released_model", "released_script"):
        raise ValueError(
            f"config argument variant: got {variant!r}, expected 'released_model' or 'released_script'."
        )
    is_script = variant == "released_script"
    if is_script and size not in RELEASED_SCRIPT:
        raise ValueError(
            f"config argument variant: the released script has no preset for size={size}, only for "
            f"{sorted(RELEASED_SCRIPT)}. Use variant=released_model."
        )
    learning_rate, batch_size = RELEASED_SCRIPT[size] if is_script else (RELEASED_MODEL_RATES[size], 8192)
    shape = DEBERTA_V3_SIZES[size]
    create = config_dict.create
    config = create(
        model=create(
            vocab_size=shape.vocab_size,
            embedding_size=shape.hidden_size,
            max_position_embeddings=512,
            type_vocab_size=0,
            hidden_dropout=0.1,
            attention_dropout=0.1,
            layer_norm_epsilon=1e-7,
            initializer_range=0.02,
            initializer="published",
            dtype="float32",  # bfloat16 on TPU and GPU
            position="disentangled",
            disentangled=create(
                position_buckets=256,
                max_relative_positions=512,  # stored as −1 in the released configuration: max_position_embeddings
                position_biased_input=False,
                # Absolute positions enter the generator in its last layer. Hugging Face's classes have no
                # such decoder: a generator trained with it cannot be exported exactly, one trained without
                # can. The discriminator never has it.
                enhanced_mask_decoder=True,
                conv_kernel_size=0,  # 3 in DeBERTa-v2 xlarge and xxlarge
                implementation="skew",
            ),
            relative_bias=None,
            embedding_sharing="gdes",  # or "tied" (the paper's ES, updated jointly), or "none" (NES)
            generator=create(**encoder_shape(shape.hidden_size, shape.generator_layers)),
            discriminator=create(**encoder_shape(shape.hidden_size, shape.num_layers)),
        ),
        objective=create(
            name=chosen["objective"],  # deberta_v3 | mlm
            masking="windows_released"
            if is_script
            else "windows",  # objectives/masking.py; "uniform" as ELECTRA
            mask_prob=0.15,
            mask_token_prob=1.0,
            random_token_prob=0.0,  # as in electra.py
            generator="model",  # as in electra.py
            temperature=1.0,
            # Entries of the vocabulary at a time in the generator's loss and sampling; 0: all at once, faster
            # as long as its logits [rows, masked positions, vocabulary] fit: they take 4·B·80·V bytes, some
            # of them two or three times.
            vocab_chunk_size=0,
            gen_weight=1.0,
            # 50 in the paper, 10 in the script. With an update of its own it only matters through clipping
            # and epsilon.
            disc_weight=10.0 if is_script else 50.0,
            token_weight=1.0,  # of objectives of ELECTRA's
        ),
        data=create(datasets=("sample:wikitext2",), weights=(1.0,), sequence_length=512, seed=0, prefetch=2),
        optimizer=create(
            learning_rate=learning_rate,
            discriminator_learning_rate=0.0,  # 0: the same
            schedule="warmup_then_decay",
            warmup_steps=10_000,
            beta1=0.9,
            beta2=0.999 if is_script else 0.98,
            epsilon=1e-6,
            weight_decay=0.01,
            bias_correction=False,
            clip_norm=1.0,
            # The tables, the relative ones and the deltas decay too, as in the released code.
            groups=((r"LayerNorm|bias", 1.0, 0.0), (r".*", 1.0, 1.0)),
        ),
        mesh=create(data=-1, fsdp=1, tensor=1),
        train=create(
            num_steps=1_000_000 if is_script else 500_000,
            batch_size=batch_size,
            num_microbatches=1,  # the batch in so many parts, one after the other
            # As in electra.py.
            layers="unrolled",
            remat="none",
            gradient_dtype="float32",
            ema_decay=0.0,
            seed=0,
        ),
        eval=create(every=10_000, batch_size=min(batch_size, 256), max_batches=100, seed=1),
        # As in electra.py; fine-tuning has no settings for mdeberta, which has base's shape.
        probe=create(
            every=0,
            config=f"configs/finetune.py:task=trec6,model=deberta,size={size.replace('mdeberta', 'base')}",
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
