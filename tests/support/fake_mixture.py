"""A mixture in memory, and shardings of its batches, for tests of loaders."""

import copy
import threading
import time
import types

import jax
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from data_pipelines.tokenizers.directory import SpecialIds

L = 6
SECONDS = 10.0  # after which a test fails instead of waiting


class Gate:
    """Lets as many reads pass as permits were given; with None all."""

    def __init__(self, permits=None):
        self._permits = None if permits is None else threading.Semaphore(permits)
        self.is_waited_at = threading.Event()  # a read came for which there was no permit

    def give(self, permits):
        self._permits.release(permits)

    def take(self):
        if self._permits is not None and not self._permits.acquire(blocking=False):
            self.is_waited_at.set()
            assert self._permits.acquire(timeout=SECONDS), "no permit came"


class FakeMixture:
    """Row r of dataset d holds the ids d·1000 + r; remembers which rows were read."""

    sequence_length, dtype = L, np.dtype(np.uint16)
    special = SpecialIds(pad=9_000, cls=9_001, sep=9_002, unk=9_003, mask=9_004)

    def __init__(self, num_examples=None, permits=None):
        self.num_examples, self.gate = num_examples, Gate(permits)
        self.sources = (types.SimpleNamespace(path="/data/a"), types.SimpleNamespace(path="/data/b"))
        self.reads: list[list[int]] = []
        self.bad_example = None

    def rows_at(self, start, stop):
        assert self.num_examples is None or stop <= self.num_examples
        example = np.arange(start, stop)
        return (example % 2).astype(np.int32), (example // 2).astype(np.int64)

    def cut_to(self, num_examples):
        cut = copy.copy(self)  # remembers its reads in the same list
        cut.num_examples = num_examples
        return cut

    def read(self, dataset_index, row):
        self.gate.take()
        examples = (row * 2 + dataset_index).tolist()
        self.reads.append(examples)
        if self.bad_example in examples:
            raise OSError("cannot read /data/a/rows.array_record-00003: truncated")
        return np.repeat((dataset_index * 1000 + row + 1)[:, None], L, axis=1).astype(self.dtype)


def expected_rows(start, stop):
    example = np.arange(start, stop)
    return np.repeat((example % 2 * 1000 + example // 2 + 1)[:, None], L, axis=1).astype(np.uint16)


BY_DATA = PartitionSpec("data")


def sharding_of(sizes=(1,), spec=BY_DATA):
    names = ("data", "fsdp", "tensor")[: len(sizes)]
    devices = jax.devices()[: int(np.prod(sizes))]
    return NamedSharding(
        jax.make_mesh(sizes, names, axis_types=(AxisType.Auto,) * len(sizes), devices=devices), spec
    )


def loader_threads():
    return [thread for thread in threading.enumerate() if thread.name == "loader"]


def wait_until(condition):
    deadline = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.005)


SHARDINGS = {
    "one device": ((1,), PartitionSpec("data")),
    "8": ((8,), PartitionSpec("data")),
    "4x2": ((4, 2), PartitionSpec(("data", "fsdp"))),
    "2x2x2, replicated over tensor": ((2, 2, 2), PartitionSpec(("data", "fsdp"))),
    "1x8x1": ((1, 8, 1), PartitionSpec(("data", "fsdp"), None)),
    "4x2, replicated over fsdp": ((4, 2), PartitionSpec("data")),
    "8, all replicated": ((8,), PartitionSpec()),
}
