"""How a task is trained: one optimizer with a learning rate that decays from layer to layer, a fixed number
of epochs, the last step counts; then the outputs of what is held out.

Shapes: B batch, L length.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh
from tqdm import tqdm

from electra_jax.distributed.sharding import axis_context, batch_sharding, replicated
from electra_jax.finetuning.batches import TaskBatch, evaluation_batches, num_training_steps, training_batches
from electra_jax.finetuning.models import TaskModel
from electra_jax.finetuning.sift import make_sift, sift_penalty
from electra_jax.finetuning.task_types import Rows, TaskType
from electra_jax.models.config import EncoderConfig
from electra_jax.models.inputs import SpecialTokens
from electra_jax.objectives.base import Phase
from electra_jax.training.optimizer import make_optimizers
from electra_jax.training.state import unbox

NO_DECAY = r"LayerNorm|bias"


class Outcome(NamedTuple):
    """Trained parameters on the devices, and of every held-out split the outputs of each row."""

    params: Any
    outputs: dict[str, list[Any]]


def layer_groups(num_layers: int, decay: float, top_exponent: int) -> tuple[tuple[str, float, float], ...]:
    """Rules of config.optimizer.groups: the head's rate times decay^e, e growing by one a layer from the top
    to the embeddings.

    The top layer has e = `top_exponent`: 1 as it is meant, 2 as google-research/electra's code has it and
    published with (model/optimization.py, issue 51), where the embeddings are at num_layers + 2.
    """
    exponents = [
        (r"^head/", 0),
        *(
            (rf"^encoder/layer_{layer}/", num_layers - 1 - layer + top_exponent)
            for layer in range(num_layers)
        ),
        (r"", num_layers + top_exponent),
    ]
    return tuple(
        rule
        for pattern, exponent in exponents
        for rule in (
            (rf"{pattern}.*({NO_DECAY})" if pattern else NO_DECAY, decay**exponent, 0.0),
            (pattern or ".*", decay**exponent, 1.0),
        )
    )


class Trainer:
    """Compiled functions of one shape of encoder on one task, shared by all starts and seeds that have it."""

    def __init__(
        self,
        encoder: EncoderConfig,
        special: SpecialTokens,
        kind: TaskType,
        config: dict[str, Any],
        num_rows: int,
        mesh: Mesh,
    ):
        """`config` has the sections model, optimizer, sift and train; `num_rows` are there to train on."""
        self.model = TaskModel(
            encoder,
            special,
            kind.name,
            kind.num_outputs,
            config["model"]["head"],
            config["model"]["head_dropout"],
        )
        self._kind, self._mesh, self._pad = kind, mesh, special.pad
        self._train, self._optimizer_config, self._sift = (
            config["train"],
            config["optimizer"],
            make_sift(config["sift"]),
        )
        self._num_steps = num_training_steps(num_rows, self._train["batch_size"], self._train["num_epochs"])
        shapes = jax.eval_shape(self._init, jax.random.key(0))
        self._optimizer = self._make_optimizer(shapes)
        self._step = jax.jit(self._train_step, donate_argnums=(0, 1))
        self._predict = jax.jit(self._outputs)
        self._init_jitted = jax.jit(self._init)

    def _init(self, key: jax.Array) -> Any:
        return unbox(self.model.init(key, jnp.ones((1, 2), jnp.int32), False)["params"])

    def _make_optimizer(self, params: Any) -> optax.GradientTransformation:
        optimizer = self._optimizer_config
        warmup_steps = optimizer["warmup_steps"] or int(optimizer["warmup_share"] * self._num_steps)
        groups = layer_groups(
            self.model.config.num_layers, optimizer["layer_decay"], optimizer["top_exponent"]
        )
        settings = optimizer | {
            "groups": groups,
            "warmup_steps": warmup_steps,
            "discriminator_learning_rate": 0.0,
        }
        phase = Phase("finetune", tuple(params), _no_loss)
        return make_optimizers(settings, self._num_steps, params, [phase])[0]["finetune"]

    def _outputs(self, params: Any, ids_BL: jax.Array) -> Any:
        return self.model.apply({"params": params}, ids_BL, False)

    def _train_step(self, params: Any, opt_state: Any, batch: TaskBatch, key: jax.Array):
        def loss(params):
            outputs = self.model.apply(
                {"params": params}, batch.ids_BL, True, batch.labels, rngs={"dropout": key}
            )
            value = self._kind.loss(outputs, batch.labels, batch.is_scored, batch.ids_BL, self.model.special)
            if self._sift.vat_lambda > 0:
                sift_key = jax.random.fold_in(key, 1)
                value += self._sift.vat_lambda * sift_penalty(
                    self.model, params, batch, outputs, self._sift, sift_key
                )
            return value

        value, grads = jax.value_and_grad(loss)(params)
        updates, opt_state = self._optimizer.update(grads, opt_state, params)
        return optax.apply_updates(params, updates), opt_state, value

    def run(self, initial: Any, seed: int, train: Rows, held_out: dict[str, Rows], progress: bool) -> Outcome:
        """Train from `initial` ({"embeddings", "encoder"}, None for fresh ones) and `seed`, which decides the
        head, the order and dropout; then compute the outputs of what is held out.

        Raises:
          FloatingPointError: the loss is not finite at the end.
        """
        with axis_context(self._mesh):
            params = jax.device_get(self._init_jitted(jax.random.key(seed))) | (initial or {})
            params = jax.device_put(params, replicated(self._mesh))
            opt_state = jax.device_put(self._optimizer.init(params), replicated(self._mesh))
            batches = training_batches(
                self._kind, train, self._train["batch_size"], self._train["num_epochs"], seed, self._pad
            )
            value = None
            bar = tqdm(batches, total=self._num_steps, desc=f"seed {seed}", leave=False, disable=not progress)
            for step, batch in enumerate(bar):
                key = jax.random.fold_in(jax.random.key(seed), step)
                params, opt_state, value = self._step(params, opt_state, self._place(batch), key)
            if not np.isfinite(float(value)):
                raise FloatingPointError(
                    f"the loss of step {self._num_steps} is {float(value)}. Lower "
                    "config.optimizer.learning_rate."
                )
            return Outcome(
                params, {split: self._predict_all(params, rows) for split, rows in held_out.items()}
            )

    def _place(self, batch: TaskBatch) -> TaskBatch:
        return batch._replace(
            **{
                name: jax.device_put(getattr(batch, name), batch_sharding(self._mesh))
                for name in ("ids_BL", "labels", "is_scored")
            },
            indices_B=None,
        )

    def _predict_all(self, params: Any, rows: Rows) -> list[Any]:
        found: list[Any] = [None] * len(rows)
        for batch in evaluation_batches(self._kind, rows, self._train["batch_size"], self._pad):
            outputs = jax.device_get(
                self._predict(params, jax.device_put(batch.ids_BL, batch_sharding(self._mesh)))
            )
            for row, index in enumerate(batch.indices_B):
                if index >= 0:
                    found[index] = jax.tree.map(lambda array, row=row: array[row], outputs)
        return found


def _no_loss(*arguments):
    """Stands where pre-training has the loss of a phase: make_optimizers only asks what a phase trains."""
    raise NotImplementedError
