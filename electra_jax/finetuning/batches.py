"""Batches of encoded examples: padded to a few lengths, so that few shapes are compiled; filled up, so that
none is dropped.

Shapes: B batch, L length.
"""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from electra_jax.finetuning.task_types import TaskType

LENGTHS = (32, 64, 128, 256, 512)  # longer rows get a multiple of the last


class TaskBatch(NamedTuple):
    """`labels` and `is_scored` are the kind's; rows that only fill the batch are padding and not scored."""

    ids_BL: np.ndarray
    labels: np.ndarray
    is_scored: np.ndarray
    indices_B: np.ndarray  # place of each row among the encoded ones, −1 for one that fills


def padded_length(length: int) -> int:
    """The smallest of LENGTHS that holds `length` tokens."""
    return next((bound for bound in LENGTHS if length <= bound), -(-length // LENGTHS[-1]) * LENGTHS[-1])


def make_batch(
    kind: TaskType, rows: Sequence[Any], indices: Sequence[int], batch_size: int, pad: int
) -> TaskBatch:
    """The rows at `indices`, at most B of them."""
    chosen = [rows[index] for index in indices]
    length = padded_length(max(len(row.ids) for row in chosen))
    ids_BL = np.full((batch_size, length), pad, np.int32)
    for ids_L, row in zip(ids_BL, chosen, strict=False):
        ids_L[: len(row.ids)] = row.ids
    labels, is_scored = kind.lay_out(chosen, batch_size, length)
    indices_B = np.full(batch_size, -1, np.int64)
    indices_B[: len(chosen)] = indices
    return TaskBatch(ids_BL, labels, is_scored, indices_B)


def training_batches(
    kind: TaskType, rows: Sequence[Any], batch_size: int, num_epochs: int, seed: int, pad: int
) -> Iterator[TaskBatch]:
    """Every epoch all rows in a new order; one epoch's last batch is completed by the next one's first
    rows."""
    source = np.random.default_rng(seed)
    order = np.concatenate([source.permutation(len(rows)) for _ in range(num_epochs)])
    for start in range(0, len(order), batch_size):
        yield make_batch(kind, rows, order[start : start + batch_size], batch_size, pad)


def evaluation_batches(kind: TaskType, rows: Sequence[Any], batch_size: int, pad: int) -> Iterator[TaskBatch]:
    """Every row once, those of about one length together."""
    order = np.argsort([len(row.ids) for row in rows], kind="stable")
    for start in range(0, len(order), batch_size):
        yield make_batch(kind, rows, order[start : start + batch_size], batch_size, pad)


def num_training_steps(num_rows: int, batch_size: int, num_epochs: int) -> int:
    """Batches that `training_batches` makes."""
    return -(-num_rows * num_epochs // batch_size)
