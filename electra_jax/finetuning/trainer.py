"""How a model is trained on a task: Adam with layer-wise decay of the learning rate for a fixed number of
epochs; then the outputs of the held-out rows. The last parameters are kept, as in the papers, or on request
those with the best validation score.

Shapes: B batch, L length.
"""

import contextlib
import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax.traverse_util import flatten_dict
from jax.sharding import Mesh

from data_pipelines.progress import Progress, make_progress, waiting
from electra_jax.distributed.sharding import (
    axis_context,
    batch_sharding,
    get_whole,
    num_data_shards,
    put_whole,
    replicated,
)
from electra_jax.finetuning.batches import (
    TaskBatch,
    TrainingSteps,
    evaluation_batches,
    training_batches,
    training_steps,
)
from electra_jax.finetuning.contrastive import OtherTexts, all_texts
from electra_jax.finetuning.models import TaskModel
from electra_jax.finetuning.packed_rows import pack_rows
from electra_jax.finetuning.sift import make_sift, sift_penalty
from electra_jax.finetuning.task_types import Rows, TaskType
from electra_jax.finetuning.watching import (
    REMEDY,
    Losses,
    Score,
    Validation,
    Watch,
    finite_on_host,
    validation_steps,
)
from electra_jax.models.config import EncoderConfig
from electra_jax.models.inputs import SpecialTokens
from electra_jax.training.optimizer import assign_groups, make_optimizer
from electra_jax.training.schedules import make_schedule
from electra_jax.training.state import unbox

NO_DECAY = r"LayerNorm|bias"
NOT_WATCHED = Watch()


class Outcome(NamedTuple):
    """A trained model, and what it computes for the held-out rows."""

    params: Any  # on the host
    outputs: dict[str, list[Any]]  # split → outputs of each row
    scores: tuple[Score, ...] = ()  # of the validations
    kept_step: int | None = None  # whose parameters they are; None: the last


def layer_groups(num_layers: int, decay: float, top_exponent: int) -> tuple[tuple[str, float, float], ...]:
    """Rules in the form of pre-training's config.optimizer.groups.

    A layer's rate is the head's times decay^e. e is `top_exponent` in the top layer and grows by one per
    layer down to the embeddings. 1 is what the method means. 2 is what google-research/electra's code does
    and published its results with (model/optimization.py; google-research/electra, GitHub issue 51): there
    the embeddings are at num_layers + 2.
    """
    exponents = [(r"^(head|encoder/final_LayerNorm)/", 0)]  # ModernBERT's encoder ends with a LayerNorm
    for layer in range(num_layers):
        exponents.append((rf"^encoder/layer_{layer}/", num_layers - 1 - layer + top_exponent))
    exponents.append((r"", num_layers + top_exponent))
    rules = []
    for pattern, exponent in exponents:
        # Ahead of the pattern, which has a LayerNorm itself in "final_LayerNorm/".
        rules.append((rf"(?=.*({NO_DECAY})){pattern}" if pattern else NO_DECAY, decay**exponent, 0.0))
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
            encoder,
            special,
            task_type.name,
            task_type.num_outputs,
            head["head"],
            head["head_dropout"],
            head["pooling"],
        )
        self.mesh = mesh
        self._task_type, self._pad = task_type, special.pad
        self._batch_size, self._sift = config["train"]["batch_size"], make_sift(config["sift"])
        steps = training_steps(config, num_rows)
        self.num_steps, self.num_epochs = steps.total, config["train"]["num_epochs"]
        shapes = jax.eval_shape(self._init, jax.random.key(0))
        self.optimizer = self._make_optimizer(config["optimizer"], steps, shapes)
        self.init_params = jax.jit(self._init, out_shardings=replicated(mesh))
        self.train_step = jax.jit(self._train_step, donate_argnums=(0, 1))
        self.predict = jax.jit(self._outputs)
        self._compiled: set[tuple[tuple[int, ...], ...]] = set()  # shapes of batches

    def _init(self, key: jax.Array) -> Any:
        return unbox(self.model.init(key, jnp.ones((1, 2), jnp.int32), False)["params"])

    def _make_optimizer(
        self, section: dict[str, Any], steps: TrainingSteps, params: Any
    ) -> optax.GradientTransformation:
        rules = layer_groups(self.model.config.num_layers, section["layer_decay"], section["top_exponent"])
        paths = flatten_dict(params, sep="/")
        # A rule that decides for nothing is an error; embeddings have no head.
        deciding = {next(rule for rule in rules if re.search(rule[0], path)) for path in paths}
        groups = assign_groups(params, [rule for rule in rules if rule in deciding])
        section = section | {"warmup_steps": steps.warmup}
        return make_optimizer(section, make_schedule(section, steps.total), groups, self.model.config.dtype)

    def _outputs(self, params: Any, ids_BL: jax.Array) -> Any:
        return self.model.apply({"params": params}, ids_BL, False)

    def _train_step(self, params: Any, opt_state: Any, batch: TaskBatch, key: jax.Array):
        def loss(params):
            outputs = self.model.apply(
                {"params": params},
                batch.ids_BL,
                True,
                batch.labels,
                packed=batch.packed,
                rngs={"dropout": key},
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
        self,
        encoder_params: Any,
        seed: int,
        train: Rows,
        held_out: dict[str, Rows],
        watch: Watch = NOT_WATCHED,
    ) -> Outcome:
        """Train, then compute the outputs of the held-out rows.

        Args:
          encoder_params: {"embeddings", "encoder"}; None: newly initialised from `seed`.
          seed: decides the head's initialisation, the order of the rows and dropout.

        Raises:
          Stopped: see `Watch.check`.
          FloatingPointError: a loss, a parameter or an output is not finite.
        """
        progress = make_progress(self.num_steps, watch.title or "", is_shown=watch.title is not None)
        with axis_context(self.mesh), progress:
            initial = jax.device_get(self.init_params(jax.random.key(seed))) | (encoder_params or {})
            params = put_whole(initial, replicated(self.mesh))
            opt_state = put_whole(self.optimizer.init(initial), replicated(self.mesh))
            losses = Losses(self.num_steps, progress)
            scores = _Scores(self, held_out, losses, progress, watch.validation)
            due = self._validation_steps(watch.validation, len(train))
            for step, batch in enumerate(self._batches(train, seed), start=1):
                key, placed = jax.random.fold_in(jax.random.key(seed), step - 1), self.place(batch)
                with self._shown_compilation(placed, watch):
                    params, opt_state, value = self.train_step(params, opt_state, placed, key)
                losses.add(step, value)
                if step in due:
                    scores.measure(step, params)
                watch.check()
            return scores.outcome(params)

    @contextlib.contextmanager
    def _shown_compilation(self, placed: TaskBatch, watch: Watch) -> Iterator[None]:
        """Context of a step that says so while a batch of other shapes than before is compiled for."""
        shapes = tuple(leaf.shape for leaf in jax.tree.leaves(placed))
        description = "compiling the training step"
        if self._compiled:
            rows, length = placed.packed.ids_RL.shape
            description += f" for {rows} × {length} tokens"
        is_shown = shapes not in self._compiled and watch.title is not None
        with waiting(description, is_shown=is_shown):
            yield
        self._compiled.add(shapes)

    def _batches(self, train: Rows, seed: int) -> Iterator[TaskBatch]:
        return training_batches(self._task_type, train, self._batch_size, self.num_epochs, seed, self._pad)

    def _validation_steps(self, validation: Validation | None, num_rows: int) -> set[int]:
        """The steps in between; after the last one every held-out row is computed in any case."""
        if validation is None:
            return set()
        steps = validation_steps(validation.every, num_rows, self._batch_size, self.num_epochs)
        return steps - {self.num_steps}

    def place(self, batch: TaskBatch) -> TaskBatch:
        """The batch on the devices of the mesh, packed, without `indices_B`."""
        texts_BL = batch.ids_BL
        if isinstance(batch.labels, OtherTexts):
            texts_BL = all_texts(batch.ids_BL, batch.labels, self._pad)
        packed = pack_rows(texts_BL, self.model.special, num_data_shards(self.mesh))
        batch = batch._replace(indices_B=None, packed=packed)
        return put_whole(batch, batch_sharding(self.mesh))

    def predict_all(self, params: Any, rows: Rows) -> list[Any]:
        """The outputs of each row, on the host; call it within `axis_context(mesh)`."""
        batches = evaluation_batches(self._task_type, rows, self._batch_size, self._pad)
        return outputs_of_rows(self.predict, params, batches, len(rows), self.mesh)


def outputs_of_rows(
    predict: Callable[[Any, jax.Array], Any],
    params: Any,
    batches: Iterable[TaskBatch],
    num_rows: int,
    mesh: Mesh,
) -> list[Any]:
    """The outputs of each row, on the host, in the order of the rows; call it within `axis_context(mesh)`.

    Args:
      predict: (params, ids [B, L]) → outputs.
      batches: of `evaluation_batches`.

    Raises:
      FloatingPointError: outputs are not finite; a class or a tag chosen by them would be the first one.
    """
    found: list[Any] = [None] * num_rows
    for batch in batches:
        outputs = get_whole(predict(params, put_whole(batch.ids_BL, batch_sharding(mesh))))
        is_row_B = batch.indices_B >= 0
        if not all(np.isfinite(leaf[is_row_B]).all() for leaf in jax.tree.leaves(outputs)):
            raise FloatingPointError(
                f"the model's outputs are not finite: its training has diverged. {REMEDY}"
            )
        for row, index in enumerate(batch.indices_B):
            if index >= 0:
                found[index] = jax.tree.map(lambda array, row=row: array[row], outputs)
    return found


class _Scores:
    """The validations of one run, and which of its parameters are kept."""

    def __init__(
        self,
        trainer: Trainer,
        held_out: dict[str, Rows],
        losses: Losses,
        progress: Progress,
        validation: Validation | None,
    ):
        self._trainer, self._held_out, self._losses = trainer, held_out, losses
        self._progress, self._validation = progress, validation
        self._scores: list[Score] = []
        self._best: tuple[float, int, Any] | None = None  # score, step, parameters on the host

    def measure(self, step: int, params: Any) -> None:
        """Score the parameters after `step`.

        Raises:
          FloatingPointError: a loss before, an output, or a parameter that is kept is not finite.
        """
        loss, rows = self._losses.mean(), self._held_out[self._validation.split]
        self._add(step, loss, self._trainer.predict_all(params, rows), params)

    def _add(self, step: int, loss: float, outputs: list[Any], params: Any) -> None:
        metrics = self._validation.score(outputs)
        self._scores.append(Score(step, loss, metrics))
        if step < self._trainer.num_steps:  # the score of the run follows
            shown = {name: f"{value:.3f}" for name, value in metrics.items()}
            epoch = step / self._trainer.num_steps * self._trainer.num_epochs
            self._progress.note(step, f"epoch {epoch:.1f}  {self._validation.split}", shown)
        value = next(iter(metrics.values()))
        if self._validation.keeps_best and (self._best is None or value > self._best[0]):
            # A copy: on the CPU the host sees the device's memory, and the next step takes that.
            self._best = value, step, jax.tree.map(np.array, finite_on_host(params, step))

    def outcome(self, params: Any) -> Outcome:
        """The result of the run that ended with `params`, which may be its best earlier ones. Raises as
        `measure` does."""
        trainer, num_steps, kept_step = self._trainer, self._trainer.num_steps, None
        loss, on_host = self._losses.mean(), finite_on_host(params, num_steps)
        known: dict[str, list[Any]] = {}
        if self._validation is not None:
            split = self._validation.split
            known[split] = trainer.predict_all(params, self._held_out[split])
            self._add(num_steps, loss, known[split], on_host)
        if self._best is not None and self._best[1] < num_steps:
            _, kept_step, on_host = self._best
            params, known = put_whole(on_host, replicated(trainer.mesh)), {}
        outputs = {
            split: known.get(split) or trainer.predict_all(params, rows)
            for split, rows in self._held_out.items()
        }
        return Outcome(on_host, outputs, tuple(self._scores), kept_step)
