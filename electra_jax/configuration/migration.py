"""Reading what older versions wrote: the only place that knows how their files differ from today's.

Runs, exports and fine-tuned models keep their configuration in a file. The functions here turn it into one of
this version: keys that came later get the value that held before, keys that are no longer read are
dropped.
"""

import copy
import dataclasses
from typing import Any

from electra_jax.configuration.objectives import clean_objective
from electra_jax.models.config import EncoderConfig

# Key of a later version: the value that held before.
OF_OPTIMIZER: dict[str, Any] = {
    "optimizer.name": "adam",
    "optimizer.decay_steps": 0,
    "optimizer.decay_share": 0.1,
    "optimizer.final_share": 0.0,
    "optimizer.weight_decay_follows": "rate",
    "optimizer.update_clip": 1.0,
    "optimizer.muon_momentum": 0.95,
    "optimizer.muon_rms": 0.2,
}
DEFAULTS_OF_LATER_KEYS: dict[str, Any] = {
    **OF_OPTIMIZER,
    "stages": [],
    "train.ema_decay": 0.0,
    "train.num_epochs": 0.0,
    "train.num_tokens": 0.0,
    "train.attention": "auto",  # differs from earlier versions on TPUs alone, by rounding
    "train.compilation_cache": "parent",
    "model.relative_bias": None,
    "model.rotary": None,
    "objective.generator": "model",
    "objective.z_loss_weight": 0.0,
    "objective.denoisers": [],
    "trouble": {
        "on_nonfinite": "stop",
        "on_spike": "ignore",
        "spike_deviations": 10.0,
        "spike_memory": 100,
        "max_skips": 10,
        "rollback_steps": 100,
        "max_rollbacks": 5,
    },
    "probe": {
        "every": 0,
        "config": "configs/finetune.py:task=trec6",
        "train": "",
        "validation": "",
        "text": "",
        "pair": "",
        "label": "",
        "max_examples": 1000,
        "num_epochs": 3,
        "seed": 0,
    },
    "probe.kind": "task",
    "probe.minimal_pairs": "",
    "probe.max_pairs": 30,
    "health": {
        "alarms": True,
        "silenced": [],
        "late_share": 0.25,
        "late_steps": 50_000,
        "early_steps": 500,
        "min_auc": 0.55,
        "min_replaced": 0.3,
        "trivial_auc": 0.7,
        "min_embedding_cosine": 0.5,
        "max_passes": 4.0,
        "max_loss_rise": 0.02,
        "max_data_wait": 0.05,
    },
}
# The same for a configuration of fine-tuning.
# Settings that only embeddings have, and what other tasks leave them at.
OF_EMBEDDINGS: dict[str, Any] = {"task.negatives": "", "task.temperature": 0.05, "task.matryoshka": []}
DEFAULTS_OF_LATER_FINETUNING_KEYS: dict[str, Any] = {
    **OF_OPTIMIZER,
    "model.pooling": "cls",
    "model.num_layers": 0,
    "task.validation_fraction": 0.0,
    **OF_EMBEDDINGS,
    "train.validate_every": 0,
    "train.keep": "last",
    "train.compilation_cache": "parent",
}

# Fields of an encoder that imports once took from a config.json as they were, also whole numbers.
FLOATS = tuple(field.name for field in dataclasses.fields(EncoderConfig) if field.type is float)
# Key of earlier versions: what is given in its place.
RENAMED = {"log.tensorboard": "log.trackers=tensorboard"}


def upgrade_config(config: dict[str, Any]) -> dict[str, Any]:
    """The configuration of a run or of a fine-tuning, as read from its file, with the keys of today.

    Sections that are missing stay missing.
    """
    config = copy.deepcopy(config)
    is_finetuning = "task" in config
    later = DEFAULTS_OF_LATER_FINETUNING_KEYS if is_finetuning else DEFAULTS_OF_LATER_KEYS
    for key, value in later.items():
        section, _, name = key.rpartition(".")
        if not section or section in config:
            (config[section] if section else config).setdefault(name, copy.deepcopy(value))
    if is_finetuning:
        return config
    if "log" in config:  # which had a switch for the only tracker
        used = ["tensorboard"] if config["log"].pop("tensorboard", False) else []
        config["log"].setdefault("trackers", used)
    if "model" in config:
        config["model"] = upgrade_encoder(config["model"])
    if "objective" in config:  # which had the keys of all objectives
        config["objective"] = clean_objective(config["objective"])
        if teachers := config["objective"].get("teacher_models"):
            upgraded = [{**one, "model": upgrade_encoder(one["model"])} for one in teachers]
            config["objective"]["teacher_models"] = upgraded
    return config


def upgrade_encoder(fields: dict[str, Any]) -> dict[str, Any]:
    """config.model, or the fields of one encoder (model.json of a fine-tuned model), as `upgrade_config`."""
    floats = {name: float(fields[name]) for name in FLOATS if type(fields.get(name)) is int}
    fields = {"relative_bias": None, "rotary": None} | fields | floats
    if fields.get("disentangled"):
        # There was a choice between two ways to compute the same.
        kept = {key: value for key, value in fields["disentangled"].items() if key != "implementation"}
        fields["disentangled"] = kept
    return fields


def upgrade_head(fields: dict[str, Any]) -> dict[str, Any]:
    """config.model of a fine-tuned model, as `upgrade_config`."""
    return {"pooling": DEFAULTS_OF_LATER_FINETUNING_KEYS["model.pooling"]} | fields


def upgrade_datasets(entries: list[dict[str, Any]], config: dict[str, Any]) -> list[dict[str, Any]]:
    """datasets.json of a run with `config`; before there were stages, entries had no weight and no first
    step."""
    if not entries or "first_step" in entries[0]:
        return entries
    return [
        entry | {"weight": weight, "first_step": 0}
        for entry, weight in zip(entries, config["data"]["weights"], strict=True)
    ]


def upgrade_metrics(row: dict[str, Any]) -> dict[str, Any]:
    """A row of metrics.jsonl without eval/unigram_entropy, the entropy of the evaluation's own tokens. It was
    taken for the loss of a model that only counts tokens, and is lower than that."""
    return {key: value for key, value in row.items() if key != "eval/unigram_entropy"}


def with_tuples(value: Any) -> Any:
    """The same with a tuple for every list: JSON knows lists alone, recipes and the command line tuples."""
    if isinstance(value, dict):
        return {key: with_tuples(child) for key, child in value.items()}
    return tuple(map(with_tuples, value)) if isinstance(value, list | tuple) else value
