"""`python -m electra_jax.pretrain` on a disk that takes SECONDS for each batch: python -m support.slow_reader
FLAGS."""

import runpy
import sys
import time

from data_pipelines.mixture import Mixture
from support import tiny_run

SECONDS = 0.7


def read_slowly(self, dataset_index, row, read=Mixture.read):
    time.sleep(SECONDS * len(row) / tiny_run.VALUES["train.batch_size"])  # several batches are read at once
    return read(self, dataset_index, row)


if __name__ == "__main__":
    Mixture.read = read_slowly
    sys.argv[0] = "electra_jax.pretrain"
    runpy.run_module("electra_jax.pretrain", run_name="__main__", alter_sys=True)
