"""`python -m electra_jax.pretrain` on a disk that takes SECONDS for each of the first NUM_BATCHES batches,
long enough for an alarm: python -m support.slow_reader FLAGS."""

import runpy
import sys
import time

from data_pipelines.mixture import Mixture
from support import tiny_run

SECONDS, NUM_BATCHES = 0.7, 20


def slow(read):
    """`Mixture.read` from that disk."""
    done = 0.0

    def read_slowly(self, dataset_index, row):
        nonlocal done
        batches = len(row) / tiny_run.VALUES["train.batch_size"]  # several are read at once
        if done < NUM_BATCHES:
            time.sleep(SECONDS * batches)
        done += batches
        return read(self, dataset_index, row)

    return read_slowly


if __name__ == "__main__":
    Mixture.read = slow(Mixture.read)
    sys.argv[0] = "electra_jax.pretrain"
    runpy.run_module("electra_jax.pretrain", run_name="__main__", alter_sys=True)
