"""A tiny ELECTRA for a CPU and a few minutes: `--config=configs/debug.py[:model=electra]`.

What `bash launch/local_debug.sh` trains on WikiText-2. A discriminator of two layers of 128 and a generator of one, so that it
shows learning and not a good encoder. Three things let so short a run get somewhere: the start is "local"
(models/initializers.py), without which it stays at the unigram distribution; the vocabulary is small; and disc_weight is 5
rather than 50, at which the discriminator's gradient would take the shared embeddings away from the generator.
"""

from ml_collections import config_dict

from electra_jax.models.config import encoder_shape


def get_config(arg: str | None = None) -> config_dict.ConfigDict:
    """The debug recipe; the argument names the method."""
    if arg not in (None, "", "model=electra"):
        raise ValueError(f"config argument: got {arg!r}, expected 'model=electra'.")
    create = config_dict.create
    return create(
        model=create(
            vocab_size=1024, embedding_size=128, max_position_embeddings=128, type_vocab_size=2, hidden_dropout=0.0,
            attention_dropout=0.0, layer_norm_epsilon=1e-12, initializer_range=0.02, initializer="local",
            dtype="float32", embedding_sharing="tied", generator=create(**encoder_shape(128, 1)),
            discriminator=create(**encoder_shape(128, 2)),
        ),
        objective=create(name="electra", mask_prob=0.15, mask_token_prob=1.0, temperature=1.0, gen_weight=1.0,
                         disc_weight=5.0),
        data=create(datasets=("runs/data/corpus",), weights=(1.0,), sequence_length=64, seed=0, prefetch=2),
        optimizer=create(
            learning_rate=2e-3, warmup_steps=100, beta1=0.9, beta2=0.999, epsilon=1e-6, weight_decay=0.01,
            bias_correction=True, clip_norm=1.0, groups=((r"LayerNorm|bias", 1.0, 0.0), (r".*", 1.0, 1.0)),
        ),
        mesh=create(data=-1, fsdp=1, tensor=1),
        train=create(num_steps=3000, batch_size=32, num_microbatches=1, seed=0),
        eval=create(every=250, batch_size=128, max_batches=12, seed=1),
        checkpoint=create(every=250, keep=2),
        log=create(every=50, tensorboard=False, progress=True, peak_flops=0.0),
    )
