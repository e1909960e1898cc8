"""Rows and batches for scale-invariant fine-tuning, and its published settings."""

import numpy as np

from data_pipelines.tasks.windows import Window
from electra_jax.finetuning.batches import make_batch
from electra_jax.finetuning.sift import Sift
from support.tiny import SPECIAL
from support.tiny_run import VOCAB
from support.tiny_task import make_type, task_examples

PUBLISHED = Sift(vat_lambda=5.0, learning_rate=1e-4, init_perturbation=1e-2)
TASK_TYPES = ("classification", "regression", "tagging", "question_answering")


def make_ids(num_rows=3):
    ids = np.random.default_rng(0).integers(5, VOCAB, size=(num_rows, 20)).astype(np.int32)
    ids[:, 0], ids[:, 5], ids[:, 14], ids[:, 15:] = SPECIAL.cls, SPECIAL.sep, SPECIAL.sep, SPECIAL.pad
    return ids


def toy_batch(task_type, num_rows=16, num_scored=13):
    """A batch of a task that can be learnt; its last rows are padding."""
    if task_type == "question_answering":
        ids = make_ids(num_scored)
        rows = [
            Window(
                row[:15],
                np.array([7, 9, 0], np.int32),
                index,
                6,
                np.zeros((8, 2), np.int32),
                np.ones(8, bool),
            )
            for index, row in enumerate(ids)
        ]
    else:
        rows = task_examples(task_type, num_scored, 0)
    return make_batch(make_type(task_type), rows, range(num_scored), num_rows, SPECIAL.pad)
