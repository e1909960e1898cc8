"""ELECTRA as published: `--config=configs/electra.py:size=small|small_pp|base|large[,objective=NAME]`.

Clark et al., "ELECTRA: Pre-training Text Encoders as Discriminators Rather Than Generators", ICLR 2020;
values from google-research/electra (configure_pretraining.py), where paper and code differ the code is
followed and said so here.

    python -m electra_jax.pretrain --config=configs/electra.py:size=small --config.data.datasets=DIR --workdir=runs/small

Without --config.data.datasets it runs on WikiText-2.

`objective`: electra, mlm (the baseline), or one of the paper's ablations and relatives:

  electra_15       the discriminator's loss on the masked positions alone (§3.5)
  replace_mlm      an encoder predicts the masked tokens, in an input with the generator's samples instead of
                   [MASK] (§3.5)
  all_tokens_mlm   the same, but all tokens, with a gate for copying the input (§3.5)
  two_stage        the discriminator beside a finished generator (§3.2): first a run with objective=mlm and
                   the same size, then this one with --config.checkpoint.init_from=DIR of the first
  adversarial      the generator maximises the discriminator's loss (§3.2; objectives/adversarial.py says what
                   is not known)
  electric         Electric, an energy a token by noise-contrastive estimation (objectives/electric.py)

Published result of `small` (paper, Table 1): GLUE dev 79.9 after 1M steps, 4 days on one V100. Not run to the
end here.
"""

from ml_collections import config_dict

from electra_jax.configuration.objectives import apply_objective
from electra_jax.configuration.recipe_argument import parse_recipe_argument
from electra_jax.models.config import SIZES, encoder_shape, generator_shape

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
    """The recipe of one size; see the module's text."""
    chosen = parse_recipe_argument(arg, size="small", objective="electra")
    if chosen["size"] not in SIZES:
        raise ValueError(f"config argument size: got {chosen['size']!r}, expected one of {sorted(SIZES)}.")
    size = SIZES[chosen["size"]]
    mask_prob, sequence_length, learning_rate, batch_size, num_steps = RECIPES[chosen["size"]]
    is_two_stage = (
        chosen["objective"] == "two_stage"
    )  # both of its encoders start from that of an objective=mlm run
    discriminator = encoder_shape(size.hidden_size, size.num_layers)
    create = config_dict.create
    config = create(
        model=create(
            vocab_size=30522,  # BERT's uncased WordPiece; a dataset with a smaller vocabulary fits too
            embedding_size=size.embedding_size,
            max_position_embeddings=512,
            type_vocab_size=2,
            hidden_dropout=0.1,
            attention_dropout=0.1,
            layer_norm_epsilon=1e-12,
            initializer_range=0.02,
            initializer="published",  # or "local": heads that start on their neighbours (models/initializers.py)
            dtype="float32",  # bfloat16 on TPU and GPU
            position="absolute",
            disentangled=None,
            relative_bias=None,
            # Or "none" (paper §3.2), or "gdes" (DeBERTaV3 §3.3).
            embedding_sharing="none" if is_two_stage else "tied",
            generator=create(**(discriminator if is_two_stage else generator_shape(size))),
            discriminator=create(**discriminator),
        ),
        objective=create(
            name=chosen["objective"],
            # What replaces tokens: "model", or for electra and electra_15 tokens as frequent as in the batch,
            # "unigram", or of the whole vocabulary alike, "uniform" (paper §3.2). Without a model there is no
            # generator to train.
            generator="model",
            mask_prob=mask_prob,
            mask_token_prob=0.85,  # the code's; the paper's text says 1.0
            # Of the chosen tokens so many become any token, with mlm alone. BERT: mask_token_prob=0.8,
            # random_token_prob=0.1.
            random_token_prob=0.0,
            masking="uniform",
            temperature=1.0,
            # Entries of the vocabulary at a time in losses over it; 0: all at once. all_tokens_mlm and
            # electric predict every position, where that would be [rows, tokens, vocabulary], and refuse 0.
            vocab_chunk_size=2048 if chosen["objective"] in ("all_tokens_mlm", "electric") else 0,
            gen_weight=1.0,
            disc_weight=50.0,  # of the mean over the tokens that count; for an ablation the paper states none
            token_weight=1.0,  # of the loss of replace_mlm's and all_tokens_mlm's encoder; not stated, our choice
        ),
        data=create(
            # Directories made by `python -m data_pipelines.corpus`. The sample is fetched and prepared in the
            # run directory: enough to see a recipe run, far too little text to train it.
            datasets=("sample:wikitext2",),
            weights=(1.0,),
            sequence_length=sequence_length,
            seed=0,
            prefetch=2,
        ),
        optimizer=create(
            learning_rate=learning_rate,
            discriminator_learning_rate=0.0,  # 0: the same
            schedule="warmup_times_decay",
            warmup_steps=10_000,
            beta1=0.9,
            beta2=0.999,
            epsilon=1e-6,
            weight_decay=0.01,
            bias_correction=False,
            clip_norm=1.0,
            # (pattern, learning-rate multiplier, weight-decay multiplier): the first match decides.
            groups=((r"LayerNorm|bias", 1.0, 0.0), (r".*", 1.0, 1.0)),
        ),
        mesh=create(data=-1, fsdp=1, tensor=1),
        train=create(
            num_steps=num_steps,
            batch_size=batch_size,
            num_microbatches=1,  # the batch in so many parts, one after the other
            # On accelerators: "scanned" layers compile as one loop. What a step keeps in memory can be
            # computed again instead: remat="dense" (all but products with parameters) or "full". `python -m
            # electra_jax.plan` says what fits.
            layers="unrolled",
            remat="none",
            # In what gradients cross the network. They do so once a step: each share of the batch adds up its
            # own, always in float32, over all microbatches; with float32 and mesh.fsdp above 1 in every
            # microbatch, to keep only a part.
            gradient_dtype="float32",
            # Above 0, for example 0.999 or 0.9999, a moving average of the parameters goes along: after every
            # update average += (1 - ema_decay) · (parameters - average), from the start on
            # (training/averaging.py). It takes the memory of the parameters once more. eval/ and probe/ then
            # measure the average, and export, fine-tuning, init_from and soup read it.
            ema_decay=0.0,
            seed=0,
        ),
        eval=create(every=10_000, batch_size=batch_size, max_batches=100, seed=1),
        # What the encoder is worth on a task, every so many steps (0: never): by a linear classifier on its
        # frozen states, and by a short fine-tuning. The task and its settings are a configuration's of
        # fine-tuning, where what is not "" takes the place of the value of the same name: files of one's own,
        # and their columns.
        probe=create(
            every=0,
            config=f"configs/finetune.py:task=trec6,model=electra,size={chosen['size'].removesuffix('_pp')}",
            train="",
            validation="",
            text="",
            pair="",
            label="",
            max_examples=1000,  # of each split, chosen at random; 0 for all
            num_epochs=3,
            seed=0,
        ),
        # init_from: a run, or an imported model, whose parameters this one starts from
        # (configs/continued.py).
        checkpoint=create(every=5_000, keep=3, init_from=""),
        log=create(
            every=100, tensorboard=False, progress=True, peak_flops=0.0
        ),  # peak FLOP/s a device; 0: not stated
        # What changes in the course of the run: pairs of the number of steps done by then and the new values,
        # which hold until a later stage changes them. Of 1,000,000 steps, for example,
        #   BERT's 90 % with rows of 128, the rest with rows of 512, a quarter of them a batch:
        #     ((900_000, {"data.sequence_length": 512, "data.datasets": "data/rows_of_512", "train.batch_size": 32}),)
        #   a batch that grows, 64 and 128 rows after the first value of train.batch_size:
        #     ((10_000, {"train.batch_size": 64}), (50_000, {"train.batch_size": 128, "train.num_microbatches": 2}))
        #   more of the second dataset at the end:
        #     ((800_000, {"data.datasets": ("data/web", "data/books"), "data.weights": (1.0, 3.0)}),)
        # Every dataset goes on where it was left, whatever the batch and the mixture. The schedule of
        # optimizer and eval.* hold throughout; held-out rows are those of the stage that trains next, and
        # losses on rows of another length, or of other datasets, cannot be compared. On the command line in
        # quotes, as a whole.
        stages=(),
    )
    apply_objective(config, chosen["objective"])
    return config
