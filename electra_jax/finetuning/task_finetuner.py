"""One task with all that the runs of several starts, seeds and settings can share: encoded rows and compiled
functions."""

import dataclasses
import sys
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from data_pipelines.tasks.load import TaskData
from electra_jax.finetuning.encoders import PretrainedEncoder
from electra_jax.finetuning.sift import make_sift
from electra_jax.finetuning.sweep import apply_settings
from electra_jax.finetuning.task_types import Rows, make_task_type
from electra_jax.finetuning.trainer import Trainer
from electra_jax.models.config import EncoderConfig


class Finetuned(NamedTuple):
    """A run's model, on the host; its predictions by split, one an example; and metric → value, of the splits
    with labels."""

    encoder: EncoderConfig
    params: Any
    predictions: dict[str, list[Any]]
    metrics: dict[str, float]


class TaskFinetuner:
    """Fine-tunes on one task. `data` is what config.task.max_train_examples and max_eval_examples leave of
    the task's."""

    def __init__(self, config: dict[str, Any], data: TaskData, mesh: Mesh, shares_process: bool = False):
        """`config` is a whole configuration of fine-tuning (configs/finetune.py). Where the process is
        shared, what others have compiled is kept.

        Raises: ValueError: nothing to train on, nothing with labels to evaluate on, or a negative value in
          config.sift.
        """
        if "train" not in data.splits:
            raise ValueError(
                f"config.task: got the splits {list(data.splits)}, expected one to train on. Set "
                "config.task.train to a file, or to tfds:NAME@SPLIT."
            )
        make_sift(config["sift"])  # wrong values are found here, before anything is written
        self.config, self._mesh, self._shares_process = config, mesh, shares_process
        self.kind = make_task_type(config["task"], data.labels)
        self._labelled = [
            split
            for split, examples in data.splits.items()
            if split != "train" and self.kind.is_labelled(examples[0])
        ]
        limits = {
            "train": config["task"]["max_train_examples"],
            **dict.fromkeys(self._labelled, config["task"]["max_eval_examples"]),
        }
        self.data = data._replace(
            splits={
                split: limited(examples, limits.get(split, 0))  # all of a leaderboard's test set
                for split, examples in data.splits.items()
            }
        )
        if not self._labelled:
            raise ValueError(
                f"config.task: none of the splits {list(data.splits)} but train has labels, expected one to "
                "evaluate on. Set config.task.validation."
            )
        self._encoded: tuple[Any, dict[str, Rows]] | None = None
        self._trainer: tuple[Any, Trainer] | None = None

    def finetune(self, initial: PretrainedEncoder, settings: dict[str, Any], seed: int) -> Finetuned:
        """One run, with `settings` in place of the configuration's (see `apply_settings`).

        Raises:
          ValueError: rows too short for the task. FloatingPointError: it diverged.
        """
        config = apply_settings(self.config, settings)
        regularisation = {
            key: config["model"][key] for key in ("hidden_dropout", "attention_dropout", "dtype")
        }
        encoder = dataclasses.replace(initial.config, **regularisation)
        encoded = self._encode(initial)
        train, held_out = (
            encoded["train"],
            {split: rows for split, rows in encoded.items() if split != "train"},
        )
        key = encoder, initial.special, config["optimizer"], config["train"], config["model"], config["sift"]
        if self._trainer is None or self._trainer[0] != key:
            if not self._shares_process:
                jax.clear_caches()  # every trainer compiles its own steps, and they would add up
            self._trainer = key, Trainer(encoder, initial.special, self.kind, config, len(train), self._mesh)
        outcome = self._trainer[1].run(initial.params, seed, train, held_out, config["log"]["progress"])
        predictions = {
            split: self.kind.collect(self.data.splits[split], held_out[split], outputs)
            for split, outputs in outcome.outputs.items()
        }
        return Finetuned(encoder, jax.device_get(outcome.params), predictions, self._score(predictions))

    def _score(self, predictions: dict[str, Sequence[Any]]) -> dict[str, float]:
        """Metric → value; with several labelled splits "split/metric"."""
        values = {}
        for split in self._labelled:
            for metric, value in self.kind.score(self.data.splits[split], predictions[split]).items():
                values[metric if len(self._labelled) == 1 else f"{split}/{metric}"] = value
        return values

    def _encode(self, initial: PretrainedEncoder) -> dict[str, Rows]:
        task = self.config["task"]
        max_length = min(task["max_length"], initial.config.max_position_embeddings)
        key = initial.tokenizer.fingerprint, max_length
        if self._encoded is None or self._encoded[0] != key:
            rows = {}
            for split, examples in self.data.splits.items():
                if split == "train" and task["swaps_pairs"]:
                    examples = [
                        *examples,
                        *(example._replace(text=example.pair, pair=example.text) for example in examples),
                    ]
                rows[split], cut = self.kind.encode(initial.tokenizer, examples, max_length)
                if cut:
                    print(
                        f"{initial.name}: {cut:,} of {len(examples):,} examples of {split} cut to "
                        f"{max_length} tokens",
                        file=sys.stderr,
                    )
            self._encoded = key, rows
        return self._encoded[1]


def limited(examples: list[Any], limit: int) -> list[Any]:
    """`limit` of the examples (0 for all), chosen at random but always the same."""
    if limit in range(1, len(examples)):
        return [examples[index] for index in np.random.default_rng(0).permutation(len(examples))[:limit]]
    return examples
