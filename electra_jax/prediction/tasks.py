"""Predictions of a fine-tuned model.

Shapes: B batch, L length.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from data_pipelines.tasks.datasets import PUBLISHED
from data_pipelines.tasks.embedding_examples import EmbeddingExample
from data_pipelines.tasks.unlabelled import Unlabelled, Wanted
from electra_jax.distributed.sharding import axis_context, replicated
from electra_jax.finetuning.batches import evaluation_batches
from electra_jax.finetuning.contrastive import number_texts
from electra_jax.finetuning.model_files import SavedModel
from electra_jax.finetuning.models import TaskModel
from electra_jax.finetuning.task_types import make_task_type
from electra_jax.finetuning.trainer import outputs_of_rows
from electra_jax.huggingface.embedding_files import unit_vectors
from electra_jax.models.inputs import SpecialTokens
from electra_jax.prediction.records import Record, Table, one_line
from electra_jax.prediction.task_records import Form, make_form

DIGITS = 9  # of a float32: it is read back as it was


class Columns(NamedTuple):
    """The user's names of columns; "" for none given."""

    text: str
    pair: str


class TaskPredictor:
    """A fine-tuned model that predicts inputs.

    Attributes:
      kind: classification, regression, tagging, question_answering or embedding.
    """

    def __init__(self, saved: SavedModel, batch_size: int, mesh: Mesh):
        self._task, head = saved.description["task"], saved.description["config"]["model"]
        self._labels = tuple(saved.description["labels"])
        # Of older models, which do not record it, the name in the configuration, which may be a directory.
        self._dataset = saved.description.get("dataset") or self._task["source"]
        self._encoder, self._tokenizer = saved.encoder, saved.tokenizer
        self._batch_size, self._mesh = batch_size, mesh
        self._type = make_task_type(self._task | {"metrics": ()}, self._labels)  # nothing is scored
        self.kind = self._type.name
        model = TaskModel(
            saved.encoder,
            SpecialTokens.from_ids(saved.tokenizer.special),
            self.kind,
            self._type.num_outputs,
            head["head"],
            head["head_dropout"],
            head["pooling"],
        )
        self._apply = jax.jit(lambda params, ids_BL: model.apply({"params": params}, ids_BL, False))
        self._params = jax.device_put(saved.params, replicated(mesh))
        self._form = self._make_form(saved)

    def _make_form(self, saved: SavedModel) -> Form:
        # Its evaluation had questions without an answer, so its scores are those of a model that abstains.
        names = (name.rpartition("/")[2] for name in saved.description["metrics"])
        return make_form(self._type, self._task, self._labels, may_abstain="no_answer_accuracy" in names)

    @property
    def table(self) -> Table:
        """How its records are written between tabs."""
        return self._form.table

    @property
    def title(self) -> str:
        """What it is, for people."""
        labels = f" with the labels {', '.join(self._labels[:8])}" if self._labels else ""
        return f"{self.kind.replace('_', ' ')}{labels}{', …' if len(self._labels) > 8 else ''}"

    def wanted(self, file_format: str, given: Columns) -> Wanted:
        """The columns to read: those given, else those of the fine-tuning."""
        published = PUBLISHED.get(self._dataset)
        text, pair, tags = (
            self._task.get(key) or (getattr(published, key) if published else "")
            for key in ("text", "pair", "label")
        )
        if self.kind == "question_answering":
            return Wanted(given.text or "question", given.pair or "context", "id")
        if self.kind == "tagging":
            if file_format == "conll" and not (text.isdecimal() and tags.isdecimal()):
                text, tags = "0", "1"
            elif file_format == "conllu":
                text, tags = "", ""  # which have defaults
            return Wanted(given.text or text or "text", "", tags=tags, has_words=True)
        return Wanted(given.text or text or "text", given.pair or pair)

    def predict(self, inputs: Sequence[Unlabelled]) -> tuple[list[Record], list[str]]:
        """One record for each input, and what did not fit, in phrases.

        Raises:
          FloatingPointError: the outputs are not finite.
        """
        examples = self._form.examples(inputs)
        max_length = min(self._task["max_length"], self._encoder.max_position_embeddings)
        encode = self._type.encode_held_out or self._type.encode
        rows, phrases = encode(self._tokenizer, examples, max_length)
        batches = evaluation_batches(self._type, rows, self._batch_size, self._tokenizer.special.pad)
        with axis_context(self._mesh):
            outputs = outputs_of_rows(self._apply, self._params, batches, len(rows), self._mesh)
        return self._form.records(inputs, examples, rows, outputs), phrases


class EmbeddingPredictor(TaskPredictor):
    """A model that gives each text a vector."""

    def __init__(self, saved: SavedModel, batch_size: int, mesh: Mesh, width: int, *, normalize: bool):
        """`width`: the first dimensions, 0: all; `normalize`: divide vectors, once cut, by their lengths.

        Raises:
          ValueError: a larger width than the vectors have.
        """
        hidden_size = saved.encoder.hidden_size
        if width > hidden_size:
            raise ValueError(f"--width: got {width}, expected at most {hidden_size}, the model's dimensions.")
        self._width, self._normalizes = width or hidden_size, normalize
        super().__init__(saved, batch_size, mesh)

    @property
    def title(self) -> str:
        """What it is, for people."""
        trained = tuple(map(int, self._task["matryoshka"]))
        widths = f", trained to be cut to {', '.join(map(str, trained))}" if trained else ""
        return f"embeddings of {self._width} dimensions{widths}"

    def wanted(self, file_format: str, given: Columns) -> Wanted:
        """The column to read: the one given, else that of the fine-tuning.

        Raises:
          ValueError: a second column is given.
        """
        if given.pair:
            raise ValueError(
                f"--pair_column: got {given.pair!r} for a model of embeddings, expected one column: each "
                "text becomes one vector. Leave it out."
            )
        return Wanted(given.text or self._task["text"] or "text", "")

    def _make_form(self, saved: SavedModel) -> Form:
        def examples(inputs):
            return [EmbeddingExample(one.text, None, (), None) for one in inputs]

        def records(inputs, examples, rows, outputs):
            numbers, vectors = number_texts(examples), list(map(self._vector, outputs))
            return [{"text": one.text, "embedding": vectors[numbers[one.text]]} for one in inputs]

        return Form(examples, records, one_line("text", "embedding"))

    def _vector(self, output_D: np.ndarray) -> list[float]:
        vector_D = np.asarray(output_D, np.float32)[: self._width]
        if self._normalizes:
            vector_D = unit_vectors(vector_D)
        return [float(f"{value:.{DIGITS}g}") for value in vector_D]
