"""Batches of encoded examples: padded to a few lengths, so that few shapes are compiled; filled up, so that none is dropped.

Shapes: B batch, L length.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from data_pipelines.tasks import EncodedExample

LENGTHS = (32, 64, 128, 256, 512)  # longer examples get a multiple of the last


class TaskBatch(NamedTuple):
    """`labels` and `is_scored` are [B], or [B, L] in tagging; rows that only fill the batch are padding and not scored."""

    ids_BL: np.ndarray
    labels: np.ndarray
    is_scored: np.ndarray
    indices_B: np.ndarray  # place of each row among the examples, −1 for one that fills


def padded_length(length: int) -> int:
    """The smallest of LENGTHS that holds `length` tokens."""
    return next((bound for bound in LENGTHS if length <= bound), -(-length // LENGTHS[-1]) * LENGTHS[-1])


def make_batch(examples: Sequence[EncodedExample], indices: Sequence[int], batch_size: int, *, kind: str,
               pad: int) -> TaskBatch:
    """The examples at `indices`, at most B of them; labels that are None are not scored."""
    chosen = [examples[index] for index in indices]
    length = padded_length(max(len(example.ids) for example in chosen))
    ids_BL = np.full((batch_size, length), pad, np.int32)
    shape = (batch_size, length) if kind == "tagging" else (batch_size,)
    labels = np.zeros(shape, np.float32) if kind == "regression" else np.full(shape, -1, np.int32)
    is_scored = np.zeros(shape, bool)
    for row, example in enumerate(chosen):
        size = len(example.ids)
        ids_BL[row, :size] = example.ids
        if example.label is None:
            continue
        if kind == "tagging":
            labels[row, :size], is_scored[row, :size] = example.label, example.label >= 0
        else:
            labels[row], is_scored[row] = example.label, True
    indices_B = np.full(batch_size, -1, np.int64)
    indices_B[: len(chosen)] = indices
    return TaskBatch(ids_BL, labels, is_scored, indices_B)


def training_batches(examples: Sequence[EncodedExample], batch_size: int, num_epochs: int, seed: int, *, kind: str,
                     pad: int) -> Iterator[TaskBatch]:
    """Every epoch all examples in a new order; one epoch's last batch is completed by the next one's first examples."""
    source = np.random.default_rng(seed)
    order = np.concatenate([source.permutation(len(examples)) for _ in range(num_epochs)])
    for start in range(0, len(order), batch_size):
        yield make_batch(examples, order[start : start + batch_size], batch_size, kind=kind, pad=pad)


def evaluation_batches(examples: Sequence[EncodedExample], batch_size: int, *, kind: str, pad: int) -> Iterator[TaskBatch]:
    """Every example once, those of about one length together."""
    order = np.argsort([len(example.ids) for example in examples], kind="stable")
    for start in range(0, len(order), batch_size):
        yield make_batch(examples, order[start : start + batch_size], batch_size, kind=kind, pad=pad)


def num_training_steps(num_examples: int, batch_size: int, num_epochs: int) -> int:
    """Batches that `training_batches` makes."""
    return -(-num_examples * num_epochs // batch_size)
