"""Fine-tuning on one task: all encoders, seeds and settings share the encoded rows and compiled functions."""

import dataclasses
import sys
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from data_pipelines.tasks.load import TaskData
from data_pipelines.tokenizers.report import unknown_warning
from electra_jax.configuration.checks import check_weight_decay
from electra_jax.configuration.unread_settings import check_unread
from electra_jax.distributed.processes import is_main_process
from electra_jax.finetuning.batches import training_steps
from electra_jax.finetuning.contrastive import check_widths
from electra_jax.finetuning.data_checks import (
    absent_class_notes,
    check_can_be_learned,
    check_contrastive,
    check_metrics,
    check_swaps,
    no_evaluation,
)
from electra_jax.finetuning.encoders import PretrainedEncoder, first_layers
from electra_jax.finetuning.sift import make_sift
from electra_jax.finetuning.sweep import Settings, apply_settings
from electra_jax.finetuning.task_types import Rows, make_task_type
from electra_jax.finetuning.trainer import Trainer
from electra_jax.finetuning.watching import BEST, Score, Validation, Watch, validation_split
from electra_jax.models.config import EncoderConfig
from electra_jax.models.inputs import SpecialTokens
from electra_jax.training.program import dtype_note

ONE_ROW_EACH = ("classification", "regression", "embedding")  # task types in which every example is one row
LIMITS = "config.task.max_train_examples and max_eval_examples"  # for errors


class Finetuned(NamedTuple):
    """One fine-tuned model and how well it does."""

    encoder: EncoderConfig
    params: Any  # on the host
    predictions: dict[str, list[Any]]  # split → one prediction per example
    metrics: dict[str, float]  # of the splits with labels
    scores: Sequence[Score] = ()  # while it was trained
    kept_step: int | None = None  # whose parameters they are; None: the last


class TaskFinetuner:
    """Fine-tunes encoders on one task.

    Attributes:
      config: the configuration, with the task's metrics in place of ().
      task_type: the task's functions.
      data: the task's examples, cut to config.task.max_train_examples and max_eval_examples.
      notes: what its user should read, in sentences.
    """

    def __init__(self, config: dict[str, Any], data: TaskData, mesh: Mesh, shares_process: bool = False):
        """Check that the task can be trained and evaluated.

        Args:
          config: a whole configuration of fine-tuning (configs/finetune.py).
          shares_process: keep functions that others in this process have compiled.

        Raises:
          ValueError: no training split, one with a single class, no other split with labels, metrics that do
            not fit the task, pairs to swap where there are none, or a negative value in config.sift.
        """
        if "train" not in data.splits:
            raise ValueError(
                f"config.task: got the splits {list(data.splits)}, expected one to train on. Set "
                "config.task.train to a file, or to tfds:NAME@SPLIT."
            )
        self.task_type = make_task_type(config["task"], data.labels)
        self.config = config | {"task": config["task"] | {"metrics": self.task_type.metrics}}
        self._mesh, self._shares_process = mesh, shares_process
        self._labelled = [
            split
            for split, examples in data.splits.items()
            if split != "train" and self.task_type.is_labelled(examples[0])
        ]
        if not self._labelled:
            raise ValueError(no_evaluation(self.task_type, list(data.splits)))
        self._check_examples(data)
        # A test set without labels stays whole: a leaderboard wants all of its predictions.
        limits = dict.fromkeys(self._labelled, config["task"]["max_eval_examples"])
        limits["train"] = config["task"]["max_train_examples"]
        splits = {
            split: random_subset(examples, limits.get(split, 0)) for split, examples in data.splits.items()
        }
        self.data = data._replace(splits=splits)
        if splits != data.splits:
            self._check_subsets()
        self._check_settings(config)  # wrong values are found here, before anything is written
        absent = absent_class_notes(self.task_type, self.data)
        notes = *data.notes, *absent, dtype_note(config["model"]["dtype"], mesh)
        self.notes = [note for note in notes if note]
        self._encoded: tuple[Any, dict[str, Rows]] | None = None
        self._trainer: tuple[Any, Trainer] | None = None

    def _check_examples(self, data: TaskData) -> None:
        check_can_be_learned(self.task_type, data)
        for split in self._labelled:
            check_metrics(self.task_type, data.splits[split])

    def _check_subsets(self) -> None:
        try:
            self._check_examples(self.data)
        except ValueError as error:
            raise ValueError(
                f"{error} All examples together allow it: raise {LIMITS}, or give 0 for all."
            ) from error

    def check_sweep(self, sweep: Sequence[Settings], *, has_begun: bool = False) -> None:
        """Check every combination of settings, as far as it does not depend on an encoder.

        Args:
          has_begun: whether there are results with these settings. Then some may be unread.

        Raises:
          ValueError: as of the configuration itself; a warm-up does not end before the run; or no combination
            reads a setting that is not at its default.
        """
        configs = [apply_settings(self.config, settings) for settings in sweep]
        for config in configs:
            self._check_settings(config)
        if not has_begun:
            check_unread(configs)
            self._check_validations(configs)
        self.check_runs(sweep)

    def _check_settings(self, config: dict[str, Any]) -> None:
        make_sift(config["sift"])
        check_weight_decay(config["optimizer"])
        check_swaps(config["task"], self.data.splits["train"])
        if self.task_type.name == "embedding":
            check_contrastive(config, self.data.splits["train"])
        if config["train"]["keep"] == BEST and validation_split(self._labelled) is None:
            raise ValueError(
                f"config.train.keep: got {BEST}, but only {', '.join(self._labelled)} has labels, expected a "
                "validation split with labels: a test set chooses no model. Set config.task.validation, or "
                "pass --config.train.keep=last."
            )

    def _check_validations(self, configs: Sequence[dict[str, Any]]) -> None:
        every = max(config["train"]["validate_every"] for config in configs)
        if every and not any(map(self._is_validated, configs)):
            raise ValueError(
                f"config.train.validate_every: got {every}, expected 0: no run is scored while it trains. "
                f"Splits with labels: {', '.join(self._labelled)}. Leave it out; or give a validation split "
                "with labels, and config.log.progress=True, which shows the scores, or "
                "config.train.keep=best."
            )

    def _is_validated(self, config: dict[str, Any]) -> bool:
        """Whether a run is scored while it trains: not where nobody would see it and it decides nothing."""
        is_used = config["train"]["keep"] == BEST or config["log"]["progress"]
        return is_used and validation_split(self._labelled) is not None

    def check_runs(self, sweep: Sequence[Settings], encoder: PretrainedEncoder | None = None) -> None:
        """Check the layers and the learning-rate schedule of every combination of settings.

        Without an encoder, layers are not checked, nor the schedules of tasks whose number of rows depends on
        its tokenizer.

        Raises:
          ValueError: the encoder has fewer layers, or a warm-up does not end before the run.
        """
        configs = [apply_settings(self.config, settings) for settings in sweep]
        if encoder is not None:
            for config in configs:
                first_layers(encoder, config["model"]["num_layers"])
            num_rows = len(self.encode(encoder)["train"])
        elif self.task_type.name in ONE_ROW_EACH:
            num_rows = len(self._with_swapped_pairs("train"))
        else:
            return
        for config in configs:
            training_steps(config, num_rows)

    def finetune(
        self,
        encoder: PretrainedEncoder,
        settings: Settings,
        seed: int,
        title: str = "",
        check: Callable[[], None] = lambda: None,
    ) -> Finetuned:
        """Fine-tune once, with `settings` in place of the configuration's values (see `apply_settings`).

        `title` stands before what is shown with config.log.progress; `check` is called between steps.

        Raises:
          ValueError: the rows are too short for the task, or the encoder has fewer layers.
          FloatingPointError: the training diverged.
        """
        config = apply_settings(self.config, settings)
        model = config["model"]
        encoder = first_layers(encoder, model["num_layers"])
        encoder_config = encoder.config.with_dropout(model["hidden_dropout"], model["attention_dropout"])
        encoder_config = dataclasses.replace(encoder_config, dtype=model["dtype"])
        if self.task_type.name == "embedding":
            check_widths(config["task"]["matryoshka"], encoder_config.hidden_size)
        rows = self.encode(encoder)
        held_out = {split: encoded for split, encoded in rows.items() if split != "train"}
        trainer = self._trainer_of(encoder_config, encoder.special, config, len(rows["train"]))
        watch = Watch(
            title if config["log"]["progress"] and is_main_process() else None,
            self._validation(config, held_out),
            check,
        )
        outcome = trainer.run(encoder.params, seed, rows["train"], held_out, watch)
        predictions = {
            split: self.task_type.collect(self.data.splits[split], held_out[split], outputs)
            for split, outputs in outcome.outputs.items()
        }
        return Finetuned(
            encoder_config,
            outcome.params,
            predictions,
            self.score(predictions),
            outcome.scores,
            outcome.kept_step,
        )

    def _validation(self, config: dict[str, Any], held_out: dict[str, Rows]) -> Validation | None:
        """How a run is scored while it trains; None if it is not."""
        if not self._is_validated(config):
            return None
        split, keeps_best = validation_split(self._labelled), config["train"]["keep"] == BEST
        examples, rows, task_type = self.data.splits[split], held_out[split], self.task_type

        def score(outputs: Sequence[Any]) -> dict[str, float]:
            values = task_type.score(examples, task_type.collect(examples, rows, outputs))
            return {name: values[name] for name in task_type.metrics}

        return Validation(split, config["train"]["validate_every"], keeps_best, score)

    def _trainer_of(
        self, encoder_config: EncoderConfig, special: SpecialTokens, config: dict[str, Any], num_rows: int
    ) -> Trainer:
        """The trainer of the last run, if it fits, or a new one."""
        sections = [config[name] for name in ("optimizer", "train", "model", "sift")]
        # The steps of the schedule: the number of rows may depend on the encoder's tokenizer.
        key = encoder_config, special, training_steps(config, num_rows), config["task"], *sections
        if self._trainer is None or self._trainer[0] != key:
            if not self._shares_process:
                jax.clear_caches()  # each trainer compiles its own functions, which would accumulate
            # Its loss may have settings of a sweep.
            task_type = make_task_type(config["task"], self.data.labels)
            trainer = Trainer(encoder_config, special, task_type, config, num_rows, self._mesh)
            self._trainer = key, trainer
        return self._trainer[1]

    def score(self, predictions: dict[str, Sequence[Any]]) -> dict[str, float]:
        """Metric → value; with several labelled splits the names are "split/metric"."""
        values = {}
        for split in self._labelled:
            for metric, value in self.task_type.score(self.data.splits[split], predictions[split]).items():
                values[metric if len(self._labelled) == 1 else f"{split}/{metric}"] = value
        return values

    def _with_swapped_pairs(self, split: str) -> Sequence[Any]:
        """The examples of a split; with config.task.swaps_pairs, training pairs in both orders."""
        examples = self.data.splits[split]
        if split != "train" or not self.config["task"]["swaps_pairs"]:
            return examples
        return [*examples, *(example._replace(text=example.pair, pair=example.text) for example in examples)]

    def row_length(self, encoder: PretrainedEncoder) -> int:
        """Most tokens in a row of the task for this encoder."""
        return min(self.config["task"]["max_length"], encoder.config.max_position_embeddings)

    def encode(self, encoder: PretrainedEncoder) -> dict[str, Rows]:
        """Split → rows for this encoder; those of the last tokenizer are kept."""
        max_length = self.row_length(encoder)
        key = encoder.tokenizer.fingerprint, max_length
        if self._encoded is not None and self._encoded[0] == key:
            return self._encoded[1]
        rows = {}
        for split in self.data.splits:
            examples = self._with_swapped_pairs(split)
            encode = self.task_type.encode
            if split != "train":
                encode = self.task_type.encode_held_out or encode
            rows[split], phrases = encode(encoder.tokenizer, examples, max_length)
            for phrase in phrases:
                _tell(f"{encoder.name}: {split}: {phrase}")
        self._encoded = key, rows
        for split, examples in rows.items():
            if warning := unknown_warning([row.ids for row in examples], encoder.tokenizer.special):
                _tell(f"{encoder.name}: {split}: {warning}")
        return rows


def _tell(note: str) -> None:
    if is_main_process():
        print(note, file=sys.stderr)


def random_subset(examples: list[Any], limit: int) -> list[Any]:
    """`limit` of the examples (0 for all), chosen at random, the same ones in every call."""
    if limit in range(1, len(examples)):
        return [examples[index] for index in np.random.default_rng(0).permutation(len(examples))[:limit]]
    return examples
