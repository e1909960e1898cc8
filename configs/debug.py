"""Tiny models for a CPU and a few minutes:
`--config=configs/debug.py[:model=electra|deberta_v3|mcl][,objective=NAME]`.

What `bash launch/local_debug.sh` trains on WikiText-2, so that it shows learning, not a good encoder. Two
things let so short a run get somewhere: the start is "local" (models/initializers.py), without which it stays
at the unigram distribution, and the vocabulary is small. ELECTRA: a discriminator of two layers of 128 and a
generator of one; disc_weight is 5 rather than 50, at which the discriminator's gradient would take the shared
embeddings away from the generator. DeBERTaV3: two layers each, the generator's second being its enhanced mask
decoder, and gradient-disentangled embedding sharing. MCL: two layers each with a relative bias beside
absolute positions, and weights as small as ELECTRA's here.
"""

from ml_collections import config_dict

from electra_jax.configuration.objectives import apply_objective
from electra_jax.configuration.recipe_argument import parse_recipe_argument
from electra_jax.models.config import encoder_shape

SEQUENCE_LENGTH = 64


def get_config(arg: str | None = None) -> config_dict.ConfigDict:
    """The debug recipe; the argument names the method, and of ELECTRA's another objective than its own
    (electra.py)."""
    chosen = parse_recipe_argument(arg, model="electra", objective="")
    name = chosen["model"]
    if name not in METHODS:
        raise ValueError(f"config argument model: got {name!r}, expected one of {sorted(METHODS)}.")
    create = config_dict.create
    config = create(
        model=create(
            vocab_size=1024,
            embedding_size=128,
            max_position_embeddings=128,
            hidden_dropout=0.0,
            attention_dropout=0.0,
            initializer_range=0.02,
            initializer="local",
            dtype="float32",
            discriminator=create(**encoder_shape(128, 2)),
        ),
        objective=create(
            name=name,
            masking="uniform",
            mask_prob=0.15,
            mask_token_prob=1.0,
            temperature=1.0,
            vocab_chunk_size=0,
            gen_weight=1.0,
            generator="model",
            random_token_prob=0.0,
            token_weight=1.0,
        ),  # explained in electra.py
        data=create(
            datasets=("runs/data/corpus",),
            weights=(1.0,),
            sequence_length=SEQUENCE_LENGTH,
            seed=0,
            prefetch=2,
        ),
        optimizer=create(
            learning_rate=2e-3,
            discriminator_learning_rate=0.0,
            schedule="warmup_times_decay",
            warmup_steps=100,
            beta1=0.9,
            beta2=0.999,
            epsilon=1e-6,
            weight_decay=0.01,
            bias_correction=True,
            clip_norm=1.0,
            groups=((r"LayerNorm|bias", 1.0, 0.0), (r".*", 1.0, 1.0)),
        ),
        mesh=create(data=-1, fsdp=1, tensor=1),
        train=create(
            num_steps=3000,
            batch_size=32,
            num_microbatches=1,
            layers="unrolled",
            remat="none",
            gradient_dtype="float32",
            ema_decay=0.0,
            seed=0,
        ),  # explained in electra.py
        eval=create(every=250, batch_size=128, max_batches=12, seed=1),
        probe=create(
            every=0,
            config="configs/finetune.py:task=trec6",
            train="",
            validation="",
            text="",
            pair="",
            label="",
            max_examples=1000,
            num_epochs=3,
            seed=0,
        ),  # explained in electra.py
        checkpoint=create(every=250, keep=2, init_from=""),
        log=create(every=50, tensorboard=False, progress=True, peak_flops=0.0),
        stages=(),  # explained in electra.py
    )
    METHODS[name](config)
    apply_objective(config, chosen["objective"] or config.objective.name)
    return config


def _electra(config: config_dict.ConfigDict) -> None:
    config.model.update(
        type_vocab_size=2,
        layer_norm_epsilon=1e-12,
        position="absolute",
        disentangled=None,
        relative_bias=None,
        embedding_sharing="tied",
        generator=encoder_shape(128, 1),
    )
    config.objective.disc_weight = 5.0


def _deberta_v3(config: config_dict.ConfigDict) -> None:
    config.model.update(
        type_vocab_size=0,
        layer_norm_epsilon=1e-7,
        position="disentangled",
        relative_bias=None,
        embedding_sharing="gdes",
        disentangled={
            "position_buckets": 32,
            "max_relative_positions": 128,
            "position_biased_input": False,
            "enhanced_mask_decoder": True,
            "conv_kernel_size": 0,
            "implementation": "skew",
        },
        generator=encoder_shape(128, 2),
    )
    # With an update of its own a weight only rescales the discriminator's gradient before clipping; tied, the
    # update is joint.
    config.objective.disc_weight = 5.0
    config.train.num_steps = 1500


def _mcl(config: config_dict.ConfigDict) -> None:
    config.model.update(
        type_vocab_size=0,
        layer_norm_epsilon=1e-5,
        position="relative_bias",
        disentangled=None,
        embedding_sharing="tied",
        relative_bias={"num_buckets": 32, "max_distance": 128, "position_biased_input": True},
        generator=encoder_shape(128, 2),
    )
    config.objective.update(
        swap_prob=0.15,
        swap_permutation="uniform",
        insert_prob=0.15,
        disc_weight=5.0,
        slm_weight=1.0,
        std_weight=5.0,
        itd_weight=5.0,
        re_mlm_weight=1.0,
        re_slm_weight=1.0,
        re_rtd_weight=5.0,
        re_std_weight=5.0,
        correction_normalizer="selected",
    )  # explained in mcl.py


METHODS = {"electra": _electra, "deberta_v3": _deberta_v3, "mcl": _mcl}
