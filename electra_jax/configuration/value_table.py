"""The table of values: what each key of a configuration may be, one row per key.

A key that a recipe gains needs a row here. How values fit together is checked where they are used: the
model's by models/config.py, those of the mesh by distributed/mesh.py, those of stages by
configuration/stages.py, those of tasks by data_pipelines/tasks.
"""

from typing import Any

from electra_jax.configuration.ranges import (
    AXIS,
    COUNT,
    COUNT_OR_NONE,
    DENOISERS,
    DROPOUT,
    GROUPS,
    MOMENTUM,
    PLACE,
    PROBABILITY,
    SEED,
    SHARE,
    SWITCH,
    TEXT,
    Allowed,
    above_zero,
    below_one,
    from_zero,
    is_number,
    one_of,
    whole,
)
from electra_jax.models.config import DTYPES, EMBEDDING_SHARING, INITIALIZERS, POSITIONS, THETA_LIMIT
from electra_jax.models.execution import ATTENTION, LAYERS, REMAT
from electra_jax.objectives.corruption import MASKING
from electra_jax.objectives.fast_electra import TEMPERATURE_DECAYS
from electra_jax.objectives.soft_targets import HIDDEN_DISTANCES
from electra_jax.training.alarms import NAMES as ALARM_NAMES
from electra_jax.training.schedules import NAMES as SCHEDULES
from electra_jax.training.trouble import ON_NONFINITE, ON_SPIKE
from electra_jax.training.update_rules import DECAY_FOLLOWS
from electra_jax.training.update_rules import NAMES as OPTIMIZERS

WIDTH = whole(1, 2**16)
LENGTH = whole(1, 2**20)
ROWS = whole(1, 2**20)
VOCABULARY = whole(0, 2**24, "0 (that of the datasets) or more")
ROW_LENGTH = whole(0, 2**20, "0 (that of the datasets) or more")
LEARNING_RATE = above_zero(10)
THETA = Allowed(
    lambda value: is_number(value) and 1 <= value < THETA_LIMIT, f"a number from 1 to below {THETA_LIMIT:g}"
)
NUM_EPOCHS = whole(1, 100_000)
# Logits divided by less than this may overflow.
TEMPERATURE = Allowed(
    lambda value: is_number(value) and 0.001 <= value <= 1000, "a number from 0.001 to 1000"
)
# 0 would remove all gradients.
CLIP_NORM = Allowed(
    lambda value: value == float("inf") or above_zero(1e6).accepts(value),
    "a number above 0, or inf, otherwise at most 1e+06",
)


def _is_width(value: Any) -> bool:
    """Whether it is a number of dimensions, or its digits, as the command line has them."""
    is_word = isinstance(value, str) and value.isdecimal() and len(value) < 10
    return WIDTH.accepts(int(value) if is_word else value)


# Key: (what it may be, a value to pass instead).
RULES: dict[str, tuple[Allowed, Any]] = {
    "assumed.vocab_size": (VOCABULARY, 30_522),
    "assumed.sequence_length": (ROW_LENGTH, 128),
    "model.vocab_size": (VOCABULARY, 0),
    "model.embedding_size": (WIDTH, 128),
    "model.max_position_embeddings": (LENGTH, 512),
    "model.type_vocab_size": (whole(0, 2**10, "0 (no token types) or more"), 0),
    "model.layer_norm_epsilon": (Allowed(PROBABILITY.accepts, "a number between 0 and 1"), 1e-12),
    "model.initializer": (one_of(INITIALIZERS), "published"),
    "model.initializer_range": (MOMENTUM, 0.02),
    "model.hidden_dropout": (DROPOUT, 0.1),
    "model.attention_dropout": (DROPOUT, 0.1),
    "model.head": (one_of(("published", "transformers")), "published"),
    "model.pooling": (one_of(("cls", "mean")), "mean"),
    "model.num_layers": (whole(0, 2**20, "0 (all) or the number of layers to keep"), 0),
    "model.head_dropout": (DROPOUT, 0.1),
    "model.dtype": (one_of(DTYPES), "bfloat16"),
    "model.position": (one_of(POSITIONS), "absolute"),
    "model.embedding_sharing": (one_of(EMBEDDING_SHARING), "tied"),
    "model.disentangled.position_buckets": (whole(2, 2**20), 256),
    "model.disentangled.max_relative_positions": (whole(2, 2**20), 512),
    "model.disentangled.position_biased_input": (SWITCH, False),
    "model.disentangled.enhanced_mask_decoder": (SWITCH, False),
    "model.disentangled.conv_kernel_size": (whole(0, 2**10, "0 (no convolution) or an odd number"), 0),
    "model.relative_bias.num_buckets": (whole(4, 2**20), 32),
    "model.relative_bias.max_distance": (whole(2, 2**20), 128),
    "model.relative_bias.position_biased_input": (SWITCH, True),
    "model.rotary.global_attention_every": (whole(1, 2**10), 3),
    "model.rotary.window": (whole(2, 2**20, "an even number, 2 or more"), 128),
    "model.rotary.global_theta": (THETA, 10_000.0),
    "model.rotary.local_theta": (THETA, 10_000.0),
    "model.rotary.attention_output_dropout": (DROPOUT, 0.1),
    **{
        f"model.{encoder}.{key}": rule
        for encoder in ("generator", "discriminator")
        for key, rule in {
            "hidden_size": (WIDTH, 256),
            "num_layers": (whole(1, 2**10), 12),
            "num_heads": (whole(1, 2**12), 1),
            "intermediate_size": (whole(1, 2**18), 1024),
        }.items()
    },
    "objective.name": (TEXT, "electra"),
    "objective.generator": (TEXT, "model"),
    "objective.mask_prob": (PROBABILITY, 0.15),
    "objective.mask_token_prob": (SHARE, 0.85),
    "objective.random_token_prob": (SHARE, 0.1),
    "objective.swap_prob": (PROBABILITY, 0.15),
    "objective.insert_prob": (PROBABILITY, 0.15),
    "objective.masking": (one_of(MASKING), "uniform"),
    "objective.denoisers": (DENOISERS, ((0.5, 0.15, 3, "tokens"), (0.5, 0.5, 3, "tokens"))),
    "objective.swap_permutation": (one_of(("uniform", "cyclic")), "uniform"),
    "objective.correction_normalizer": (one_of(("selected", "all")), "selected"),
    "objective.temperature": (TEMPERATURE, 1.0),
    "objective.start_temperature": (TEMPERATURE, 2.0),
    "objective.temperature_decay": (one_of(TEMPERATURE_DECAYS), "exponential"),
    "objective.temperature_share": (above_zero(1), 0.1),
    "objective.teacher_temperature": (TEMPERATURE, 2.0),
    "objective.rop_mean_words": (above_zero(100), 3.0),
    "objective.rop_subsampling": (from_zero(1), 1e-4),
    "objective.hidden_distance": (one_of(HIDDEN_DISTANCES), "mse"),
    # Filled in for each teacher when a run starts (runs/teachers.py).
    "objective.teacher_models": (
        Allowed(
            lambda value: isinstance(value, list | tuple) and all(isinstance(one, dict) for one in value),
            "(), which is filled in when the run starts",
        ),
        (),
    ),
    "objective.teachers": (
        Allowed(
            lambda value: isinstance(value, list | tuple) and all(isinstance(one, str) for one in value),
            "the directories of one or more runs, DIR or DIR:STEP, or init_from",
        ),
        ("DIR",),
    ),
    "objective.vocab_chunk_size": (whole(0, 2**24), 0),
    "data.sequence_length": (ROW_LENGTH, 0),
    "data.seed": (SEED, 0),
    "data.prefetch": (whole(0, 1024, "0 (no background thread) or more"), 2),
    "optimizer.learning_rate": (LEARNING_RATE, 5e-4),
    "optimizer.discriminator_learning_rate": (
        from_zero(10, "0 (the same as learning_rate) or a number above it"),
        0.0,
    ),
    "optimizer.name": (one_of(OPTIMIZERS), "adamw"),
    "optimizer.weight_decay_follows": (one_of(DECAY_FOLLOWS), "rate"),
    "optimizer.update_clip": (above_zero(1e6), 1.0),
    "optimizer.muon_momentum": (MOMENTUM, 0.95),
    "optimizer.muon_rms": (from_zero(1000, "0 (the published scale) or a number above it"), 0.2),
    "optimizer.schedule": (one_of(SCHEDULES), "warmup_times_decay"),
    "optimizer.warmup_steps": (COUNT_OR_NONE, 100),
    "optimizer.warmup_share": (MOMENTUM, 0.1),
    "optimizer.decay_steps": (whole(0, words="0 (decay_share of the steps) or more"), 100),
    "optimizer.decay_share": (SHARE, 0.1),
    "optimizer.final_share": (SHARE, 0.001),
    "optimizer.layer_decay": (above_zero(10), 0.8),
    "optimizer.top_exponent": (whole(0, 100), 1),
    "optimizer.beta1": (MOMENTUM, 0.9),
    "optimizer.beta2": (MOMENTUM, 0.999),
    "optimizer.epsilon": (above_zero(1), 1e-6),
    "optimizer.weight_decay": (from_zero(1000), 0.01),
    "optimizer.bias_correction": (SWITCH, False),
    "optimizer.clip_norm": (CLIP_NORM, 1.0),
    "optimizer.groups": (GROUPS, (("LayerNorm|bias", 1.0, 0.0), (".*", 1.0, 1.0))),
    "sift.vat_lambda": (from_zero(1e6, "0 or more"), 0.0),
    "sift.learning_rate": (from_zero(1e6, "0 or more"), 1e-4),
    "sift.init_perturbation": (from_zero(1e6, "0 or more"), 1e-2),
    **{f"mesh.{axis}": (AXIS, 1) for axis in ("data", "fsdp", "tensor")},
    "train.num_steps": (COUNT, 1000),
    "train.num_epochs": (NUM_EPOCHS, 3),
    "train.batch_size": (ROWS, 32),
    "train.validate_every": (whole(0, words="0 (after every epoch) or a number of steps"), 0),
    "train.keep": (one_of(("last", "best")), "last"),
    "train.num_microbatches": (ROWS, 1),
    "train.layers": (one_of(LAYERS), "unrolled"),
    "train.remat": (one_of(REMAT), "none"),
    "train.attention": (one_of(ATTENTION), "auto"),
    "train.gradient_dtype": (one_of(DTYPES), "float32"),
    "train.ema_decay": (below_one("0 (no average is kept) or a number below 1, such as 0.999"), 0.0),
    "train.seed": (SEED, 0),
    "train.compilation_cache": (PLACE, "parent"),
    "trouble.on_nonfinite": (one_of(ON_NONFINITE), "rollback"),
    "trouble.on_spike": (one_of(ON_SPIKE), "rollback"),
    "trouble.spike_deviations": (above_zero(1e6), 10.0),
    "trouble.spike_memory": (COUNT, 100),
    "trouble.max_skips": (COUNT, 10),
    "trouble.rollback_steps": (COUNT, 100),
    "trouble.max_rollbacks": (whole(1, 100), 5),
    "eval.every": (COUNT, 1000),
    "eval.batch_size": (ROWS, 32),
    "eval.max_batches": (COUNT, 100),
    "eval.seed": (SEED, 1),
    "probe.every": (whole(0, words="0 (never) or more"), 0),
    "probe.kind": (one_of(("task", "minimal_pairs")), "task"),
    "probe.max_pairs": (whole(0, words="0 (all) or more"), 30),
    "probe.max_examples": (whole(0, words="0 (all) or more"), 1000),
    "probe.num_epochs": (NUM_EPOCHS, 3),
    "probe.seed": (SEED, 0),
    **{
        f"probe.{key}": (TEXT, "FILE or NAME")
        for key in ("config", "train", "validation", "text", "pair", "label", "minimal_pairs")
    },
    "checkpoint.every": (COUNT, 1000),
    "checkpoint.keep": (COUNT, 3),
    "checkpoint.init_from": (TEXT, "DIR"),
    "log.every": (COUNT, 100),
    "log.progress": (SWITCH, True),
    "log.peak_flops": (from_zero(1e24), 0.0),
    "health.alarms": (SWITCH, True),
    "health.silenced": (
        Allowed(
            lambda value: isinstance(value, list | tuple) and all(one in ALARM_NAMES for one in value),
            f"none or some of {', '.join(ALARM_NAMES)}",
        ),
        ("data_wait",),
    ),
    "health.late_share": (SHARE, 0.25),
    "health.late_steps": (COUNT_OR_NONE, 50_000),
    "health.early_steps": (COUNT_OR_NONE, 500),
    "health.min_auc": (SHARE, 0.55),
    "health.min_replaced": (SHARE, 0.3),
    "health.trivial_auc": (SHARE, 0.7),
    "health.min_embedding_cosine": (SHARE, 0.5),
    "health.max_passes": (from_zero(1e6), 4.0),
    "health.max_loss_rise": (from_zero(1000), 0.02),
    "health.max_data_wait": (SHARE, 0.05),
    "task.validation_fraction": (below_one("0, or a share between 0 and 1, such as 0.1"), 0.1),
    "task.max_length": (whole(3, 2**20), 128),
    "task.max_train_examples": (whole(0, words="0 (all) or more"), 0),
    "task.max_eval_examples": (whole(0, words="0 (all) or more"), 0),
    "task.label_scale": (above_zero(1e6), 1.0),
    "task.temperature": (TEMPERATURE, 0.05),
    "task.matryoshka": (
        Allowed(
            lambda value: isinstance(value, list | tuple) and all(map(_is_width, value)),
            "() or numbers of dimensions, each 1 or more",
        ),
        (64, 128),
    ),
    "task.swaps_pairs": (SWITCH, False),
    "task.max_query_length": (LENGTH, 64),
    "task.doc_stride": (LENGTH, 128),
    "task.null_threshold": (Allowed(is_number, "a finite number"), 0.0),
    **{
        f"task.{key}": (TEXT, "NAME") for key in ("kind", "source", "train", "validation", "test", "language")
    },
    **{f"task.{key}": (TEXT, "NAME") for key in ("text", "pair", "label", "negatives")},
    "task.train_language": (TEXT, "en"),
}
# Keys without a row, and what checks them.
CHECKED_ELSEWHERE = {
    "model.disentangled": "EncoderConfig: a section, or None",
    "model.relative_bias": "EncoderConfig: a section, or None",
    "model.rotary": "EncoderConfig: a section, or None",
    "data.datasets": "dataset_values",
    "data.weights": "dataset_values",
    "stages": "make_stages, and the rows of this table for each stage",
    "log.trackers": "find_trackers, before the run directory is written",
    "task.labels": "load_task: the labels of the data",
    "task.metrics": "check_metric_names",
}

# Other rows where the configuration is one of pre-training.
OF_PRETRAINING: dict[str, tuple[Allowed, Any]] = {
    "train.num_epochs": (from_zero(1e6, "0 (train.num_steps decides) or a number above it"), 3.0),
    "train.num_tokens": (from_zero(1e18, "0 (train.num_steps decides) or a number above it"), 1e9),
}
WEIGHT = from_zero(1e6), 1.0  # of config.objective.*_weight
# Of a key that only a new objective reads: a row here is not necessary to add one.
OWN_SETTING = Allowed(lambda value: is_number(value) or isinstance(value, str | bool), "a finite number"), 1.0
ENCODERS = ("model.generator.", "model.discriminator.")  # whose sections may have keys of config.model, too


def find_rule(key: str, *, is_pretraining: bool) -> tuple[Allowed, Any] | None:
    """The row of a key, what it may be and a value to pass; None if it has none."""
    if key.startswith("objective.") and key.endswith("_weight"):
        return WEIGHT
    rules = RULES | OF_PRETRAINING if is_pretraining else RULES
    if key not in rules and key.startswith(ENCODERS):
        key = f"model.{key.split('.', 2)[2]}"
    return rules.get(key, OWN_SETTING if key.startswith("objective.") else None)
