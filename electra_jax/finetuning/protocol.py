"""How a task is trained: one optimizer with a learning rate that decays from layer to layer, a fixed number of epochs, the last
step counts; then the metrics of the held-out splits.

Shapes: B batch, L length, C outputs.
"""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh
from tqdm import tqdm

from data_pipelines.tasks import EncodedExample
from electra_jax.distributed.sharding import axis_context, batch_sharding, replicated
from electra_jax.finetuning.batches import TaskBatch, evaluation_batches, num_training_steps, training_batches
from electra_jax.finetuning.initial import Initial
from electra_jax.finetuning.models import TaskModel, task_loss
from electra_jax.models.inputs import derive_inputs
from electra_jax.objectives.base import Phase
from electra_jax.training.optimizer import make_optimizers
from electra_jax.training.state import unbox

NO_DECAY = r"LayerNorm|bias"


class Outcome(NamedTuple):
    """`predictions`: split → outputs of each example, in order: a class or a number, in tagging an array of tags."""

    params: Any
    predictions: dict[str, list]


def layer_groups(num_layers: int, decay: float, top_exponent: int) -> tuple[tuple[str, float, float], ...]:
    """Rules of config.optimizer.groups: the head's rate times decay^e, e growing by one a layer from the top to the embeddings.

    The top layer has e = `top_exponent`: 1 as it is meant, 2 as google-research/electra's code has it and published with
    (model/optimization.py, issue 51), where the embeddings are at num_layers + 2.
    """
    exponents = [(r"^head/", 0), *((rf"^encoder/layer_{layer}/", num_layers - 1 - layer + top_exponent)
                                   for layer in range(num_layers)), (r"", num_layers + top_exponent)]
    return tuple(rule for pattern, exponent in exponents for rule in (
        (rf"{pattern}.*({NO_DECAY})" if pattern else NO_DECAY, decay**exponent, 0.0),
        (pattern or ".*", decay**exponent, 1.0)))


class Trainer:
    """Compiled functions of one encoder on one task, shared by all seeds."""

    def __init__(self, initial: Initial, config: dict[str, Any], num_labels: int, num_examples: int, mesh: Mesh):
        self._initial, self._kind, self._mesh = initial, config["task"]["kind"], mesh
        self._train, self._optimizer_config = config["train"], config["optimizer"]
        self._label_scale = config["task"]["label_scale"]
        self._model = TaskModel(initial.config, self._kind, max(num_labels, 1), config["model"]["head_dropout"])
        self._num_steps = num_training_steps(num_examples, self._train["batch_size"], self._train["num_epochs"])
        shapes = jax.eval_shape(self._init, jax.random.key(0))
        self._optimizer = self._make_optimizer(shapes)
        self._step = jax.jit(self._train_step, donate_argnums=(0, 1))
        self._predict = jax.jit(self._outputs)

    def _init(self, key: jax.Array) -> Any:
        ids = jnp.ones((1, 2), jnp.int32)
        inputs = derive_inputs(ids, self._initial.special, self._initial.config.type_vocab_size)
        return unbox(self._model.init(key, ids, inputs, False)["params"])

    def _make_optimizer(self, params: Any) -> optax.GradientTransformation:
        optimizer = self._optimizer_config
        warmup_steps = optimizer["warmup_steps"] or int(optimizer["warmup_share"] * self._num_steps)
        groups = layer_groups(self._initial.config.num_layers, optimizer["layer_decay"], optimizer["top_exponent"])
        settings = optimizer | {"groups": groups, "warmup_steps": warmup_steps, "discriminator_learning_rate": 0.0}
        phase = Phase("finetune", tuple(params), _no_loss)
        return make_optimizers(settings, self._num_steps, params, [phase])[0]["finetune"]

    def _outputs(self, params: Any, ids_BL: jax.Array, key: jax.Array | None = None) -> jax.Array:
        inputs = derive_inputs(ids_BL, self._initial.special, self._initial.config.type_vocab_size)
        rngs = {} if key is None else {"dropout": key}
        return self._model.apply({"params": params}, ids_BL, inputs, key is not None, rngs=rngs)

    def _train_step(self, params: Any, opt_state: Any, batch: TaskBatch, key: jax.Array):
        def loss(params):
            labels = batch.labels / self._label_scale if self._kind == "regression" else batch.labels
            return task_loss(self._kind, self._outputs(params, batch.ids_BL, key), labels, batch.is_scored)

        value, grads = jax.value_and_grad(loss)(params)
        updates, opt_state = self._optimizer.update(grads, opt_state, params)
        return optax.apply_updates(params, updates), opt_state, value

    def run(self, seed: int, train: Sequence[EncodedExample], held_out: dict[str, Sequence[EncodedExample]],
            progress: bool) -> Outcome:
        """Train from `seed`, which decides the head, the order and dropout (and all of a random start), then predict.

        Raises:
          FloatingPointError: the loss is not finite at the end.
        """
        pad = self._initial.special.pad
        with axis_context(self._mesh):
            params = self._start(seed)
            opt_state = jax.device_put(self._optimizer.init(params), replicated(self._mesh))
            batches = training_batches(train, self._train["batch_size"], self._train["num_epochs"], seed, kind=self._kind,
                                       pad=pad)
            value = None
            bar = tqdm(batches, total=self._num_steps, desc=f"seed {seed}", leave=False, disable=not progress)
            for step, batch in enumerate(bar):
                key = jax.random.fold_in(jax.random.key(seed), step)
                params, opt_state, value = self._step(params, opt_state, self._place(batch), key)
            if not np.isfinite(float(value)):
                raise FloatingPointError(f"the loss of step {self._num_steps} is {float(value)}. Lower "
                                         "config.optimizer.learning_rate.")
            predictions = {split: self._predict_all(params, examples, pad) for split, examples in held_out.items()}
        return Outcome(params, predictions)

    def _start(self, seed: int) -> Any:
        params = jax.device_get(jax.jit(self._init)(jax.random.key(seed)))
        return jax.device_put(params | (self._initial.params or {}), replicated(self._mesh))

    def _place(self, batch: TaskBatch) -> TaskBatch:
        return batch._replace(**{name: jax.device_put(getattr(batch, name), batch_sharding(self._mesh))
                                 for name in ("ids_BL", "labels", "is_scored")}, indices_B=None)

    def _predict_all(self, params: Any, examples: Sequence[EncodedExample], pad: int) -> list:
        predictions: list[Any] = [None] * len(examples)
        batches: Iterable[TaskBatch] = evaluation_batches(examples, self._train["batch_size"], kind=self._kind, pad=pad)
        for batch in batches:
            outputs = np.asarray(self._predict(params, jax.device_put(batch.ids_BL, batch_sharding(self._mesh))))
            for row, index in enumerate(batch.indices_B):
                if index >= 0:
                    predictions[index] = self._decide(outputs[row], batch.is_scored[row])
        return predictions

    def _decide(self, outputs: np.ndarray, is_scored: np.ndarray) -> Any:
        if self._kind == "regression":
            return float(outputs[0]) * self._label_scale
        return outputs[is_scored].argmax(axis=-1) if self._kind == "tagging" else int(outputs.argmax())


def _no_loss(*arguments):
    """Stands where pre-training has the loss of a phase: make_optimizers only asks what a phase trains."""
    raise NotImplementedError
