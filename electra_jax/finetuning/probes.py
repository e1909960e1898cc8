"""What the encoder of a run is worth on a task while it is being pre-trained: a linear classifier on its
frozen states, and a short fine-tuning.

Probing works on copies of the parameters and compiles functions apart from the run's, so the run's results
are bitwise the same with and without it.

Shapes: B batch, L length, D hidden, N examples.
"""

import math
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from data_pipelines.sample.trec_questions import with_files
from data_pipelines.tasks.load import load_task
from data_pipelines.tokenizers.load import Tokenizer
from electra_jax.configuration.checks import check_values
from electra_jax.configuration.extras import require_extra
from electra_jax.configuration.recipes import FINETUNING, check_kind, load_config, own_recipe
from electra_jax.configuration.unread_settings import check_unread
from electra_jax.distributed.sharding import axis_context, batch_sharding, replicated
from electra_jax.finetuning.batches import evaluation_batches
from electra_jax.finetuning.data_checks import absent_class_notes, first_labelled_split
from electra_jax.finetuning.encoders import PretrainedEncoder, encoder_of_run
from electra_jax.finetuning.models import TaskModel
from electra_jax.finetuning.task_finetuner import LIMITS, TaskFinetuner
from electra_jax.finetuning.task_types import Rows, make_task_type
from electra_jax.models.config import PretrainingConfig
from electra_jax.models.inputs import SpecialTokens

# Keys of config.probe that replace those of config.task where they are not "".
REPLACED = ("train", "validation", "text", "pair", "label")
MAX_ITERATIONS = 10_000  # of the classifier, which converges long before: its loss is strictly convex


class Probe:
    """Parameters of a run → metrics of the task, on its first held-out split with labels.

    frozen_METRIC (classification only): logistic regression (scikit-learn's, with its penalty C = 1) on
      standardised features. A text's features are the mean of the last layer's states over its tokens without
      [CLS] and [SEP]: no pre-training objective asks [CLS] to summarise its text.
    finetuned_METRIC: by the ordinary fine-tuning; NaN where it diverged.
    """

    def __init__(
        self,
        config: dict[str, Any],
        model: PretrainingConfig,
        tokenizer: Tokenizer,
        mesh: Mesh,
        directory: Path,
    ):
        """Load the task and encode its rows.

        Args:
          config: the run's.
          directory: where the files of a sample are fetched to.

        Raises:
          ValueError: config.probe does not fit the task, the run or the mesh; or there are several processes.
          OSError: a file cannot be read.
          ImportError: the packages of the extra "finetune" are not installed.
        """
        require_extra("finetune", "config.probe")
        check_one_process(config, "Fine-tune the checkpoints instead: python -m electra_jax.finetune.")
        self._model, self._tokenizer, self._mesh, self._seed = model, tokenizer, mesh, config["probe"]["seed"]
        self._special = SpecialTokens.from_ids(tokenizer.special)
        try:
            self._open(finetuning_config(config), directory)
        except FileNotFoundError as error:
            raise FileNotFoundError(f"config.probe: {error}") from error
        except ValueError as error:
            message = str(error).replace(LIMITS, "config.probe.max_examples")
            raise ValueError(f"config.probe: {message}") from error
        self._encoder = TaskModel(
            model.discriminator,
            self._special,
            self._task_type.name,
            self._task_type.num_outputs,
            "published",
            0.0,
        )
        self._features_jitted = jax.jit(self._features)

    def _open(self, settings: dict[str, Any], directory: Path) -> None:
        task, batch_size = settings["task"], settings["train"]["batch_size"]
        num_shards = self._mesh.shape["data"] * self._mesh.shape["fsdp"]
        if batch_size % num_shards:
            raise ValueError(
                f"the batch_size of fine-tuning: got {batch_size}, expected a multiple of the run's "
                f"mesh.data·mesh.fsdp = {num_shards}. Use another config.probe.config, or change config.mesh."
            )
        data = load_task(with_files(task, directory))
        for note in data.notes:
            print(f"probe: {note}", file=sys.stderr)
        self._task_type = make_task_type(task, data.labels)
        self._held_out = first_labelled_split(self._task_type, data.splits)
        if self._held_out is None:
            raise ValueError(
                f"got the splits {list(data.splits)}, expected one with labels besides train to measure on. "
                "Set config.probe.validation."
            )
        splits = {name: data.splits[name] for name in data.splits if name in ("train", self._held_out)}
        self._finetuner = TaskFinetuner(
            settings, data._replace(splits=splits), self._mesh, shares_process=True
        )
        self._examples = self._finetuner.data.splits
        for note in absent_class_notes(self._task_type, self._finetuner.data):
            print(f"probe: {note}", file=sys.stderr)
        self._rows = {
            name: self._task_type.encode(self._tokenizer, examples, task["max_length"])[0]
            for name, examples in self._examples.items()
        }
        self._metrics, self._batch_size = self._task_type.metrics, batch_size

    def __call__(self, params: Any) -> dict[str, float]:
        """Metrics of a run's parameters, which may be on its devices."""
        encoder = encoder_of_run("probe", params, self._model, self._tokenizer)
        frozen = self._measure_frozen(encoder) if self._task_type.name == "classification" else {}
        try:
            finetuned = self._finetuner.finetune(encoder, {}, self._seed).metrics
        except FloatingPointError:
            finetuned = dict.fromkeys(self._metrics, math.nan)
        metrics = {}
        for prefix, values in (("frozen", frozen), ("finetuned", finetuned)):
            if values:
                metrics |= {f"{prefix}_{metric}": values[metric] for metric in self._metrics}
        return metrics

    def _measure_frozen(self, encoder: PretrainedEncoder) -> dict[str, float]:
        with axis_context(self._mesh):
            params = jax.device_put(encoder.params, replicated(self._mesh))
            train_ND = self._features_of(params, self._rows["train"])
            held_out_ND = self._features_of(params, self._rows[self._held_out])
        # Imported here, since they belong to an extra, which `__init__` requires.
        from sklearn.linear_model import LogisticRegression
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler
        from threadpoolctl import threadpool_limits

        classifier = make_pipeline(StandardScaler(), LogisticRegression(max_iter=MAX_ITERATIONS))
        # Its many small products are faster on one thread where others compete for the cores.
        with threadpool_limits(1):
            classifier.fit(train_ND, [example.label for example in self._examples["train"]])
        return self._task_type.score(self._examples[self._held_out], classifier.predict(held_out_ND))

    def _features_of(self, params: Any, rows: Rows) -> np.ndarray:
        """Features [N, D] in the order of the rows."""
        features_ND = np.zeros((len(rows), self._model.discriminator.hidden_size), np.float32)
        for batch in evaluation_batches(self._task_type, rows, self._batch_size, self._special.pad):
            ids_BL = jax.device_put(batch.ids_BL, batch_sharding(self._mesh))
            features_BD = jax.device_get(self._features_jitted(params, ids_BL))
            is_row_B = batch.indices_B >= 0
            features_ND[batch.indices_B[is_row_B]] = features_BD[is_row_B]
        return features_ND

    def _features(self, params: Any, ids_BL: jax.Array) -> jax.Array:
        states_BLD = self._encoder.apply({"params": params}, ids_BL, False, method="states")
        return mean_over_text(states_BLD, ids_BL, self._special)


def check_one_process(config: dict[str, Any], remedy: str) -> None:
    """Raises ValueError in a run of several processes; ends with `remedy`."""
    if jax.process_count() > 1:
        raise ValueError(
            f"config.probe.every: got {config['probe']['every']} in a run of {jax.process_count()} "
            f"processes, expected 0: probes work in a single process only. {remedy}"
        )


def mean_over_text(x_BLD: jax.Array, ids_BL: jax.Array, special: SpecialTokens) -> jax.Array:
    """float32 means [B, D] over all tokens but [PAD], [CLS] and [SEP]; 0 where there are no others."""
    is_text_BL = (ids_BL != special.pad) & (ids_BL != special.cls) & (ids_BL != special.sep)
    weights_BL1 = is_text_BL.astype(jnp.float32)[:, :, None]
    return (weights_BL1 * x_BLD.astype(jnp.float32)).sum(axis=1) / jnp.maximum(weights_BL1.sum(axis=1), 1.0)


def finetuning_config(config: dict[str, Any]) -> dict[str, Any]:
    """The configuration of the probe's fine-tuning, from config.probe of a run's configuration.

    Raises:
      ValueError: a value of config.probe is out of range, or config.probe.config is not a configuration of
        fine-tuning, or has a setting that nothing reads (`check_unread`).
      FileNotFoundError: there is no such file.
    """
    probe = config["probe"]
    settings = load_config(own_recipe(probe["config"])).to_dict()
    check_kind(settings, FINETUNING, f"config: got {probe['config']!r}")
    check_values(settings)
    check_unread([settings])
    for key, least in (("num_epochs", 1), ("max_examples", 0)):
        if probe[key] < least:
            raise ValueError(f"{key}: got {probe[key]}, expected {least} or more.")
    limits = dict.fromkeys(("max_train_examples", "max_eval_examples"), probe["max_examples"])
    task = settings["task"] | {key: probe[key] for key in REPLACED if probe[key]} | limits
    if probe["train"]:
        task["source"] = ""  # the recipe's sample or dataset, whose columns and labels are other ones
    # Positions beyond the length of the run's rows are never trained.
    task["max_length"] = min(task["max_length"], config["data"]["sequence_length"])
    # The recipe's warm-up in steps is meant for the whole task; a run this short would end within it.
    return settings | {
        "task": task,
        "model": settings["model"] | {"dtype": config["model"]["dtype"]},
        "optimizer": settings["optimizer"] | {"warmup_steps": 0},
        "train": settings["train"] | {"num_epochs": probe["num_epochs"]},
        "log": {"progress": False},
    }
