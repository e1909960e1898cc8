"""How a model is trained on a task: Adam with layer-wise decay of the learning rate for a fixed number of
epochs, without early stopping; then the outputs of the held-out rows.

Shapes: B batch, L length.
"""

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh
from tqdm import tqdm

from electra_jax.distributed.sharding import axis_context, batch_sharding, replicated
from electra_jax.finetuning.batches import (
    TaskBatch,
    TrainingSteps,
    evaluation_batches,
    training_batches,
    training_steps,
)
from electra_jax.finetuning.models import TaskModel
from electra_jax.finetuning.sift import make_sift, sift_penalty
from electra_jax.finetuning.task_types import Rows, TaskType
from electra_jax.models.config import EncoderConfig
from electra_jax.models.inputs import SpecialTokens
from electra_jax.training.optimizer import assign_groups, make_optimizer
from electra_jax.training.state import unbox

NO_DECAY = r"LayerNorm|bias"


class Outcome(NamedTuple):
    """A trained model, and what it computes for the held-out rows."""

    params: Any  # on the devices
    outputs: dict[str, list[Any]]  # split → outputs of each row


def layer_groups(num_layers: int, decay: float, top_exponent: int) -> tuple[tuple[str, float, float], ...]:
    """Rules in the form of pre-training's config.optimizer.groups.

    A layer's rate is the head's times decay^e. e is `top_exponent` in the top layer and grows by one per
    layer down to the embeddings. 1 is what the method means. 2 is what google-research/electra's code does
    and published its results with (model/optimization.py; google-research/electra, GitHub issue 51): there
    the embeddings are at num_layers + 2.
    """
    exponents = [(r"^head/", 0)]
    for layer in range(num_layers):
        exponents.append((rf"^encoder/layer_{layer}/", num_layers - 1 - layer + top_exponent))
    exponents.append((r"", num_layers + top_exponent))
    rules = []
    for pattern, exponent in exponents:
        rules.append((rf"{pattern}.*({NO_DECAY})" if pattern else NO_DECAY, decay**exponent, 0.0))
        rules.append((pattern or ".*", decay**exponent, 1.0))
    return tuple(rules)


class Trainer:
    """Trains one configuration of encoder on one task; all encoders and seeds share its compiled functions.

    Compiled functions, under `axis_context(mesh)`:
      init_params: key → parameters {"embeddings", "encoder", "head"}.
      train_step: (params, optimizer state, batch from `place`, key of dropout) → (params, optimizer state,
        loss); the first two arguments are donated.
      predict: (params, ids [B, L]) → outputs.
    """

    def __init__(
        self,
        encoder: EncoderConfig,
        special: SpecialTokens,
        task_type: TaskType,
        config: dict[str, Any],
        num_rows: int,
        mesh: Mesh,
    ):
        """`config` has the sections model, optimizer, sift and train; `num_rows` is the number of training
        rows.

        Raises:
          ValueError: see `training_steps`.
        """
        head = config["model"]
        self.model = TaskModel(
            encoder, special, task_type.name, task_type.num_outputs, head["head"], head["head_dropout"]
        )
        self.mesh = mesh
        self._task_type, self._pad = task_type, special.pad
        self._train, self._sift = config["train"], make_sift(config["sift"])
        steps = training_steps(config, num_rows)
        self._num_steps = steps.total
        shapes = jax.eval_shape(self._init, jax.random.key(0))
        self.optimizer = self._make_optimizer(config["optimizer"], steps, shapes)
        self.init_params = jax.jit(self._init)
        self.train_step = jax.jit(self._train_step, donate_argnums=(0, 1))
        self.predict = jax.jit(self._outputs)

    def _init(self, key: jax.Array) -> Any:
        return unbox(self.model.init(key, jnp.ones((1, 2), jnp.int32), False)["params"])

    def _make_optimizer(
        self, section: dict[str, Any], steps: TrainingSteps, params: Any
    ) -> optax.GradientTransformation:
        rules = layer_groups(self.model.config.num_layers, section["layer_decay"], section["top_exponent"])
        groups = assign_groups(params, rules)
        return make_optimizer(section | {"warmup_steps": steps.warmup}, steps.total, groups)

    def _outputs(self, params: Any, ids_BL: jax.Array) -> Any:
        return self.model.apply({"params": params}, ids_BL, False)

    def _train_step(self, params: Any, opt_state: Any, batch: TaskBatch, key: jax.Array):
        def loss(params):
            outputs = self.model.apply(
                {"params": params}, batch.ids_BL, True, batch.labels, rngs={"dropout": key}
            )
            value = self._task_type.loss(
                outputs, batch.labels, batch.is_scored, batch.ids_BL, self.model.special
            )
            if self._sift.vat_lambda > 0:
                sift_key = jax.random.fold_in(key, 1)
                value += self._sift.vat_lambda * sift_penalty(
                    self.model, params, batch, outputs, self._sift, sift_key
                )
            return value

        value, grads = jax.value_and_grad(loss)(params)
        updates, opt_state = self.optimizer.update(grads, opt_state, params)
        return optax.apply_updates(params, updates), opt_state, value

    def run(
        self, encoder_params: Any, seed: int, train: Rows, held_out: dict[str, Rows], progress: bool
    ) -> Outcome:
        """Train, then compute the outputs of the held-out rows.

        Args:
          encoder_params: {"embeddings", "encoder"}; None: newly initialised from `seed`.
          seed: decides the head's initialisation, the order of the rows and dropout.
          progress: show a progress bar.

        Raises:
          FloatingPointError: the last loss is not finite.
        """
        with axis_context(self.mesh):
            params = jax.device_get(self.init_params(jax.random.key(seed))) | (encoder_params or {})
            params = jax.device_put(params, replicated(self.mesh))
            opt_state = jax.device_put(self.optimizer.init(params), replicated(self.mesh))
            batches = training_batches(
                self._task_type, train, self._train["batch_size"], self._train["num_epochs"], seed, self._pad
            )
            value = None
            bar = tqdm(batches, total=self._num_steps, desc=f"seed {seed}", leave=False, disable=not progress)
            for step, batch in enumerate(bar):
                key = jax.random.fold_in(jax.random.key(seed), step)
                params, opt_state, value = self.train_step(params, opt_state, self.place(batch), key)
            if not np.isfinite(float(value)):
                raise FloatingPointError(
                    f"the loss of step {self._num_steps} is {float(value)}. Lower "
                    "config.optimizer.learning_rate."
                )
            outputs = {split: self._predict_all(params, rows) for split, rows in held_out.items()}
            return Outcome(params, outputs)

    def place(self, batch: TaskBatch) -> TaskBatch:
        """The batch on the devices of the mesh, without `indices_B`."""
        sharding = batch_sharding(self.mesh)
        return TaskBatch(
            ids_BL=jax.device_put(batch.ids_BL, sharding),
            labels=jax.device_put(batch.labels, sharding),
            is_scored=jax.device_put(batch.is_scored, sharding),
            indices_B=None,
        )

    def _predict_all(self, params: Any, rows: Rows) -> list[Any]:
        batches = evaluation_batches(self._task_type, rows, self._train["batch_size"], self._pad)
        return outputs_of_rows(self.predict, params, batches, len(rows), self.mesh)


def outputs_of_rows(
    predict: Callable[[Any, jax.Array], Any],
    params: Any,
    batches: Iterable[TaskBatch],
    num_rows: int,
    mesh: Mesh,
) -> list[Any]:
    """The outputs of each row on the host, in the order of the rows, under `axis_context(mesh)`.

    Args:
      predict: (params, ids [B, L]) → outputs.
      batches: of `evaluation_batches`.
    """
    found: list[Any] = [None] * num_rows
    for batch in batches:
        ids_BL = jax.device_put(batch.ids_BL, batch_sharding(mesh))
        outputs = jax.device_get(predict(params, ids_BL))
        for row, index in enumerate(batch.indices_B):
            if index >= 0:
                found[index] = jax.tree.map(lambda array, row=row: array[row], outputs)
    return found
