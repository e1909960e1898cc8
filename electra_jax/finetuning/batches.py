"""Batches of encoded examples, padded to a few lengths (padding.py).

The last batch is filled up with padding, so that no example is dropped. Shapes: B batch, L length.
"""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from electra_jax.finetuning.packed_rows import PackedRows
from electra_jax.finetuning.padding import pad_rows
from electra_jax.finetuning.task_types import TaskType
from electra_jax.training.schedules import check_schedule, decay_length


class TaskBatch(NamedTuple):
    """Rows of one task; rows of padding that fill the batch are not scored."""

    ids_BL: np.ndarray
    labels: Any  # an array, whose shape and dtype depend on the task type; of embeddings OtherTexts
    is_scored: np.ndarray  # bool [B], of tags [B, L]
    indices_B: np.ndarray  # of each row among the encoded ones, −1 for a row of padding
    # The same texts for the encoder, of embeddings those of `all_texts`; None: it computes them as they are.
    packed: PackedRows | None = None


def make_batch(
    task_type: TaskType, rows: Sequence[Any], indices: Sequence[int], batch_size: int, pad: int
) -> TaskBatch:
    """The rows at `indices`, at most `batch_size` of them."""
    chosen = [rows[index] for index in indices]
    ids_BL = pad_rows([row.ids for row in chosen], batch_size, pad)
    labels, is_scored = task_type.make_labels(chosen, *ids_BL.shape, pad)
    indices_B = np.full(batch_size, -1, np.int64)
    indices_B[: len(chosen)] = indices
    return TaskBatch(ids_BL, labels, is_scored, indices_B)


def training_batches(
    task_type: TaskType, rows: Sequence[Any], batch_size: int, num_epochs: int, seed: int, pad: int
) -> Iterator[TaskBatch]:
    """All rows once an epoch, each epoch in a new order; the last batch of an epoch is completed with the
    first rows of the next one."""
    source = np.random.default_rng(seed)
    order = np.concatenate([source.permutation(len(rows)) for _ in range(num_epochs)])
    for start in range(0, len(order), batch_size):
        yield make_batch(task_type, rows, order[start : start + batch_size], batch_size, pad)


def evaluation_batches(
    task_type: TaskType, rows: Sequence[Any], batch_size: int, pad: int
) -> Iterator[TaskBatch]:
    """Every row once, rows of similar length together."""
    order = np.argsort([len(row.ids) for row in rows], kind="stable")
    for start in range(0, len(order), batch_size):
        yield make_batch(task_type, rows, order[start : start + batch_size], batch_size, pad)


def num_training_steps(num_rows: int, batch_size: int, num_epochs: int) -> int:
    """Number of batches that `training_batches` makes."""
    return -(-num_rows * num_epochs // batch_size)


class TrainingSteps(NamedTuple):
    """How long a fine-tuning is."""

    total: int
    warmup: int  # how many of them the learning rate rises


def training_steps(config: dict[str, Any], num_rows: int) -> TrainingSteps:
    """The steps of one fine-tuning on `num_rows` rows.

    Args:
      config: has the sections optimizer and train. With optimizer.warmup_steps = 0 the warm-up is
        optimizer.warmup_share of the steps.

    Raises:
      ValueError: the warm-up does not end before the run, or overlaps the decay.
    """
    train, optimizer = config["train"], config["optimizer"]
    batch_size, num_epochs = train["batch_size"], train["num_epochs"]
    total = num_training_steps(num_rows, batch_size, num_epochs)
    warmup = optimizer["warmup_steps"] or int(optimizer["warmup_share"] * total)
    check_schedule(
        warmup,
        total,
        decay_length(optimizer, total),
        total=f"the {total} steps of the run ({num_rows} rows, config.train.num_epochs={num_epochs}, "
        f"config.train.batch_size={batch_size})",
        remedy="Pass --config.optimizer.warmup_steps=0, which warms up for config.optimizer.warmup_share of "
        "the steps, or more --config.train.num_epochs.",
    )
    return TrainingSteps(total, warmup)
