"""What the recipes of pre-training share: every section of a configuration, each key explained once.

A recipe calls `make_recipe` with the values that its paper states; it inherits all others from here.
"""

from typing import Any

from ml_collections import config_dict

REQUIRED = object()  # no default: every recipe states its own value

SHARED: dict[str, dict[str, Any]] = {
    # The two encoders (models/config.py checks the values). A recipe adds type_vocab_size,
    # layer_norm_epsilon, and the sub-sections generator and discriminator with the shape of each encoder.
    "model": {
        # Rows of the embeddings. 0: as many as the datasets' tokenizer needs, which for SentencePiece is a
        # multiple of 128, so that a mesh can divide them. More are allowed. No text has their ids, but
        # what replaces tokens can be any row: a generator's samples, objective.generator=uniform, and the
        # random tokens of objective.random_token_prob.
        "vocab_size": 0,
        "embedding_size": REQUIRED,
        # Rows of the position table, at least the row length of every stage. It does not follow the data: a
        # model trained on rows of 128 can be trained further on rows of 512.
        "max_position_embeddings": 512,
        "hidden_dropout": 0.1,
        "attention_dropout": 0.1,
        "initializer_range": 0.02,
        # "published", or "local": attention heads that start on neighbouring tokens (models/initializers.py).
        "initializer": "published",
        # Of computation. float32 is exact on every device; "bfloat16" is several times faster on TPU and GPU.
        "dtype": "float32",
        # "absolute", or "disentangled", "relative_bias" or "rotary" with their section below
        "position": REQUIRED,
        "disentangled": None,
        "relative_bias": None,
        "rotary": None,
        # "tied": one table, updated jointly (DeBERTaV3's ES). "none": two tables (NES; ELECTRA §3.2). "gdes":
        # gradient-disentangled embedding sharing (DeBERTaV3 §3.3).
        "embedding_sharing": "tied",
    },
    # The method. These keys serve every objective; the keys that only one of them reads, with their defaults,
    # are in its row of electra_jax/objectives/registry.py.
    "objective": {
        "name": REQUIRED,
        "mask_prob": 0.15,
        "mask_token_prob": 1.0,  # share of the chosen tokens that become [MASK]; the others stay
        # "uniform", as ELECTRA; "windows", one token of every few; "windows_released", the same as in
        # DeBERTa's code, which never reaches the tail of a row (objectives/masking.py).
        "masking": "uniform",
        # A mixture in place of mask_prob and masking: (weight, mask_prob, mean_span, units) of each denoiser;
        # one of them masks a row (electra_jax/objectives/README.md#a-mixture-of-denoisers).
        "denoisers": (),
        "temperature": 1.0,  # of the generator's samples
        # Vocabulary entries per chunk in losses over the vocabulary. 0, all at once, is faster as long as the
        # logits [rows, masked positions, vocabulary] fit in memory. With objectives that predict every
        # position (all_tokens_mlm, electric) 0 means a quarter of the vocabulary, at most 2,048.
        "vocab_chunk_size": 0,
        "gen_weight": 1.0,  # of the generator's loss; with prop, of MLM
        # Weight of z-loss, the mean square of log Z of the generator's predictions, which keeps its logits
        # from drifting. PaLM uses 1e-4. Must be 0 for objectives that train no masked language model.
        "z_loss_weight": 0.0,
        # What replaces tokens: "model", or for electra, electra_15 and deberta_v3 a fixed distribution,
        # "unigram" (as frequent as in the batch) or "uniform" (ELECTRA §3.2): no generator is trained then.
        "generator": "model",
    },
    "data": {
        # Directories made by `python -m data_pipelines.corpus`, or the sample, which is downloaded and
        # prepared in the run directory: enough to see a recipe run, far too little text to train it.
        "datasets": ("sample:wikitext2",),
        "weights": (1.0,),  # share of the examples that come from each dataset
        "sequence_length": 0,  # ids in a row; 0: as many as the rows of the datasets have
        "seed": 0,
        "prefetch": 2,  # batches
    },
    # What stands for the zeros of model.vocab_size and data.sequence_length where no dataset is read: `plan`,
    # `benchmark` and `convert import`. The row length is also that of the sample. 0: nothing.
    "assumed": {"vocab_size": 0, "sequence_length": 0},
    "optimizer": {
        "learning_rate": REQUIRED,
        "discriminator_learning_rate": 0.0,  # 0: learning_rate
        # "warmup_times_decay" or "warmup_then_decay"; or "warmup_constant", which ends without a decay, or
        # "warmup_constant_linear" or "warmup_constant_sqrt", 1 − √x (training/schedules.py).
        "schedule": REQUIRED,
        "warmup_steps": REQUIRED,
        "decay_steps": 0,  # of the decay after a constant rate; 0: decay_share of the steps
        "decay_share": 0.1,
        "final_share": 0.0,  # of the peak, where that decay ends
        # "adam"; "adamw", the same with bias correction; "stable_adamw", which clips updates; "lamb";
        # "muon", for matrices of hidden layers, with adamw for the rest; "adafactor", which needs the least
        # memory (training/update_rules.py).
        "name": "adam",
        "beta1": 0.9,
        "beta2": 0.999,
        "epsilon": 1e-6,
        "weight_decay": 0.01,
        # "rate": a step shrinks a weight by the factor 1 − rate · weight_decay, as torch.optim.AdamW.
        # "schedule": by 1 − (rate/peak) · weight_decay, as ModernBERT and Composer.
        "weight_decay_follows": "rate",
        "bias_correction": False,  # of adam only; BERT, ELECTRA and DeBERTa leave it out
        "update_clip": 1.0,  # of stable_adamw, adafactor: largest RMS of a tensor's updates
        "muon_momentum": 0.95,
        # Root mean square of Muon's updates; 0.2 matches Adam's. 0: Jordan's scale, √max(1, outputs/inputs).
        "muon_rms": 0.2,
        "clip_norm": 1.0,  # inf: gradients are not clipped
        # (pattern, learning-rate multiplier, weight-decay multiplier): the first match decides.
        "groups": ((r"LayerNorm|bias", 1.0, 0.0), (r".*", 1.0, 1.0)),
    },
    "mesh": {"data": -1, "fsdp": 1, "tensor": 1},  # devices along each axis; -1: all that remain
    "train": {
        # The length of the run. In its place, num_epochs (passes over all datasets; may be a fraction) or
        # num_tokens (ids of rows, padding included): whichever is not 0 decides. config.json has the steps.
        "num_steps": REQUIRED,
        "num_epochs": 0.0,
        "num_tokens": 0.0,
        "batch_size": REQUIRED,  # rows of all devices together
        "num_microbatches": 1,  # parts of the batch, whose gradients are added up
        # On accelerators: "scanned" layers compile as one loop. remat="attention" (scores and weights of
        # attention), "dense" (all but products with parameters) or "full" recomputes activations to save
        # memory. `python -m electra_jax.plan` shows what fits.
        "layers": "unrolled",
        "remat": "none",
        # How attention is computed: "pallas", kernels that keep the scores on the chip, DeBERTa's for a TPU
        # or GPU, BERT's and ModernBERT's for a TPU; "plain", products and shifts; "auto", the
        # kernels on TPUs v5e, v5p and v6e, "plain" elsewhere (on GPUs the kernels have not been timed) and
        # for what the kernels cannot compute, or in rows that are short (models/README.md).
        "attention": "auto",
        # Gradients cross the network in this type, once a step: each data shard adds up its own in float32
        # over all microbatches. With float32 and mesh.fsdp above 1 they cross in every microbatch, so that
        # each device keeps only its part.
        "gradient_dtype": "float32",
        # Above 0, such as 0.999 or 0.9999, a moving average of the parameters is kept: after every update
        # average += (1 - ema_decay) · (parameters - average), from the first step on (training/averaging.py).
        # It needs as much memory again as the trained parameters. eval/ and probe/ then measure the average,
        # and export, fine-tuning, init_from and soup read it.
        "ema_decay": 0.0,
        "seed": 0,
        # Where compiled programs are kept for the next start: "parent", in .compiled beside --workdir; a
        # directory; or "off" (electra_jax/runs/README.md#compiled-programs).
        "compilation_cache": "parent",
    },
    # What happens to a step in numerical trouble: its gradients, update or loss are not finite, or its loss
    # is a spike (electra_jax/training/README.md#numerical-trouble). "stop": the run stops with an error.
    # "skip": the update is left out. "rollback": the run returns to an earlier step, and passes over the
    # batches since.
    "trouble": {
        "on_nonfinite": "stop",
        "on_spike": "ignore",  # "ignore": no loss is a spike
        # A spike is a loss that is above its mean by more than this number of mean absolute deviations. Both
        # are of about the last spike_memory losses; the first spike_memory losses are never spikes.
        "spike_deviations": 10.0,
        "spike_memory": 100,
        "max_skips": 10,  # in a row, after which the run stops
        "rollback_steps": 100,  # from before the step in trouble, but not beyond the start of its stage
        "max_rollbacks": 5,  # in a run, after which it stops
    },
    "eval": {"every": 10_000, "batch_size": REQUIRED, "max_batches": 100, "seed": 1},
    # Every `every` steps (0: never) the run is measured. kind "task": by a linear classifier on the encoder's
    # frozen states and by a short fine-tuning. `config` is a fine-tuning recipe; a value below that is not ""
    # replaces the value of that name in its section `task`: your own files and their columns. kind
    # "minimal_pairs": by the pairs of sentences, as in BLiMP, of which it prefers the acceptable one.
    "probe": {
        "every": 0,
        "kind": "task",
        "minimal_pairs": "",  # files or directories, separated by commas
        "max_pairs": 30,  # of each phenomenon, the first ones; 0: all
        "config": "configs/finetune.py:task=trec6",
        "train": "",
        "validation": "",
        "text": "",
        "pair": "",
        "label": "",
        "max_examples": 1000,  # of each split, chosen at random; 0: all
        "num_epochs": 3,
        "seed": 0,
    },
    # init_from: a run, or an imported model, whose parameters this run starts from (configs/continued.py).
    "checkpoint": {"every": 5_000, "keep": 3, "init_from": ""},
    # trackers: tensorboard, wandb, or a class of your own as MODULE:CLASS (training/trackers/interface.py).
    # peak_flops: peak FLOP/s of a device, for model_flops_utilization; 0: of the chip, if it is known.
    "log": {"every": 100, "trackers": (), "progress": True, "peak_flops": 0.0},
    # Alarms when the training does not look healthy (electra_jax/training/README.md#alarms). They read the
    # rows of metrics, cost the devices nothing and change nothing.
    "health": {
        "alarms": True,
        "silenced": (),  # names of alarms that are not wanted
        # What should have been learnt by then is missed after this share of the steps, at most late_steps,
        # never in the first early_steps: configs/debug.py needs 300 to leave the loss of counting tokens, and
        # the blocks of a short run are small and noisy.
        "late_share": 0.25,
        "late_steps": 50_000,
        "early_steps": 500,
        "min_auc": 0.55,  # a detection below it that no longer improves has learnt nothing
        "min_replaced": 0.3,  # share of the tokens drawn by the generator that differ from the original
        "trivial_auc": 0.7,  # a detection above it is too easy if the generator only counts tokens
        "min_embedding_cosine": 0.5,  # between the embeddings of generator and discriminator (GDES)
        "max_passes": 4.0,  # over the rows of a dataset, before a rising held-out loss is blamed on them
        "max_loss_rise": 0.02,  # of a held-out loss above its lowest value, as a share of it
        "max_data_wait": 0.05,  # share of the time
    },
}

# What changes during the run: pairs of the number of steps done by then and the new values, which hold until
# a later stage changes them (configs/README.md has examples, configuration/stages.py the rules).
STAGES = ()


def make_recipe(**sections: dict[str, Any]) -> config_dict.ConfigDict:
    """The shared sections with a recipe's values in them. Only `model` and `objective` may add keys.

    Raises:
      ValueError: a section or key that does not exist here, or one that a recipe must state and does not.
    """
    if unknown := sections.keys() - SHARED.keys():
        raise ValueError(f"recipe: got sections {sorted(unknown)}, expected some of {sorted(SHARED)}.")
    config: dict[str, Any] = {"stages": STAGES}
    for name, shared in SHARED.items():
        given = sections.get(name, {})
        if name not in ("model", "objective") and (unknown := given.keys() - shared.keys()):
            raise ValueError(f"recipe: got {name}.{sorted(unknown)}, expected some of {sorted(shared)}.")
        config[name] = shared | given
        if missing := [key for key, value in config[name].items() if value is REQUIRED]:
            raise ValueError(f"recipe: {name}.{missing} missing, for which configs/common.py has no default.")
    return config_dict.ConfigDict(config)
