"""Batches are the same on every sharding, after a restart, in any order; nothing hangs or is read twice."""

import threading
import time
import types

import jax
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from data_pipelines.loader import EvaluationLoader, Loader
from support.fake_mixture import (
    SECONDS,
    SHARDINGS,
    FakeMixture,
    L,
    expected_rows,
    loader_threads,
    sharding_of,
    wait_until,
)


@pytest.fixture
def one_by_one(monkeypatch):
    """Every batch is read alone, as large ones are."""
    monkeypatch.setattr("data_pipelines.loader.TOKENS_AT_ONCE", 1)


@pytest.fixture(autouse=True)
def no_thread_is_left():
    yield
    assert loader_threads() == []


@pytest.mark.parametrize("name", SHARDINGS)
def test_every_sharding_gives_the_same_batches_and_reads_a_row_once(name):
    sharding = sharding_of(*SHARDINGS[name])
    mixture = FakeMixture()
    with Loader(mixture, batch_size=16, sharding=sharding, prefetch=0) as loader:
        for step in (0, 1, 7):
            ids = loader.batch_at(step)["input_ids"]
            assert ids.dtype == np.uint16 and ids.sharding == sharding
            np.testing.assert_array_equal(np.asarray(ids), expected_rows(16 * step, 16 * step + 16))
            assert mixture.reads.pop() == list(range(16 * step, 16 * step + 16))
            assert mixture.reads == []
            for shard in ids.addressable_shards:
                np.testing.assert_array_equal(np.asarray(shard.data), np.asarray(ids)[shard.index])


class OneProcessOf(NamedSharding):
    """A sharding as seen by a process that owns devices 2, 3 and 6 of 8, like a host of a pod."""

    def addressable_devices_indices_map(self, shape):
        everything = super().addressable_devices_indices_map(shape)
        return {device: index for device, index in everything.items() if device.id in (2, 3, 6)}


def test_only_rows_of_this_process_are_read(monkeypatch):
    asked = {}

    def make_array(shape, sharding, callback):
        asked.update(
            {
                index[0].indices(shape[0])[:2]: callback(index)
                for index in sharding.addressable_devices_indices_map(shape).values()
            }
        )

    monkeypatch.setattr(jax, "make_array_from_callback", make_array)
    whole = sharding_of((8,))
    mixture = FakeMixture()
    with Loader(mixture, batch_size=16, sharding=OneProcessOf(whole.mesh, whole.spec), prefetch=0) as loader:
        loader.batch_at(1)
    assert mixture.reads == [[20, 21, 22, 23, 28, 29]]
    assert sorted(asked) == [(4, 6), (6, 8), (12, 14)]
    for (start, stop), ids in asked.items():
        np.testing.assert_array_equal(ids, expected_rows(16 + start, 16 + stop))


@pytest.mark.parametrize("prefetch", [0, 1, 3])
def test_steps_may_be_requested_in_any_order(prefetch):
    with Loader(FakeMixture(), batch_size=4, sharding=sharding_of(), prefetch=prefetch) as loader:
        for step in (0, 1, 2, 2, 9, 10, 3, 4, 6, 5, 0, 1_000_000_000):
            ids = np.asarray(loader.batch_at(step)["input_ids"])
            example = np.arange(4 * step, 4 * step + 4)
            expected = (example % 2 * 1000 + example // 2 + 1).astype(np.uint16)
            np.testing.assert_array_equal(ids[:, 0], expected)


@pytest.mark.parametrize("prefetch", [0, 2])
def test_a_batch_that_was_handed_out_is_not_handed_out_again(prefetch):
    with Loader(FakeMixture(), batch_size=4, sharding=sharding_of(), prefetch=prefetch) as loader:
        loader.batch_at(3)["input_ids"].delete()  # as donating it to a jitted step does
        np.testing.assert_array_equal(np.asarray(loader.batch_at(3)["input_ids"]), expected_rows(12, 16))


def test_resuming_gives_the_batches_of_the_uninterrupted_run():
    with Loader(FakeMixture(), batch_size=4, sharding=sharding_of()) as loader:
        through = [np.asarray(loader.batch_at(step)["input_ids"]) for step in range(8)]
    mixture = FakeMixture()
    with Loader(mixture, batch_size=4, sharding=sharding_of((4,))) as loader:
        resumed = [np.asarray(loader.batch_at(step)["input_ids"]) for step in range(5, 8)]
    np.testing.assert_array_equal(resumed, through[5:])
    assert min(min(read) for read in mixture.reads) == 20  # nothing before the restored step is read


def test_small_batches_are_read_several_at_once(monkeypatch):
    monkeypatch.setattr("data_pipelines.loader.TOKENS_AT_ONCE", 13 * L)
    mixture = FakeMixture()
    with Loader(mixture, batch_size=4, sharding=sharding_of((2,)), prefetch=4) as loader:
        for step in range(5, 9):
            np.testing.assert_array_equal(
                np.asarray(loader.batch_at(step)["input_ids"]), expected_rows(4 * step, 4 * step + 4)
            )
        loader.batch_at(6)  # an earlier one, whose neighbours are read with it
    assert mixture.reads[0] == [*range(20, 32)]  # steps 5, 6 and 7
    assert max(map(len, mixture.reads)) == 12


def test_of_batches_read_at_once_only_the_damaged_one_fails():
    mixture = FakeMixture(num_examples=19)
    mixture.bad_example = 9
    with EvaluationLoader(mixture, batch_size=4, sharding=sharding_of()) as loader:
        for index in (0, 1, 3, 4):
            ids = np.asarray(loader.batch_at(index)["input_ids"])
            rows = expected_rows(4 * index, min(4 * index + 4, 19))
            np.testing.assert_array_equal(ids[: len(rows)], rows)
        with pytest.raises(RuntimeError, match=r"evaluation batch 2: cannot read .*truncated"):
            loader.batch_at(2)
    assert [*range(12)] in mixture.reads and [*range(8, 12)] in mixture.reads


def test_reads_ahead_of_the_last_requested_step_and_no_further(one_by_one):
    mixture = FakeMixture()
    with Loader(mixture, batch_size=4, sharding=sharding_of(), prefetch=3) as loader:
        assert mixture.reads == []
        loader.batch_at(5)
        wait_until(lambda: len(mixture.reads) == 4)
        time.sleep(0.05)
        assert [read[0] // 4 for read in mixture.reads] == [5, 6, 7, 8]
        loader.batch_at(6)
        wait_until(lambda: len(mixture.reads) == 5)
        assert mixture.reads[-1][0] // 4 == 9
        loader.batch_at(8)  # inside the window: 8 and 9 are kept
        wait_until(lambda: len(mixture.reads) == 7)
        assert [read[0] // 4 for read in mixture.reads[5:]] == [10, 11]
        assert len(loader_threads()) == 1


def test_a_batch_that_was_read_ahead_is_returned_without_reading(one_by_one):
    mixture = FakeMixture(permits=3)
    with Loader(mixture, batch_size=4, sharding=sharding_of(), prefetch=2) as loader:
        loader.batch_at(0)
        wait_until(lambda: len(mixture.reads) == 3)  # steps 1 and 2, which nobody requested
        np.testing.assert_array_equal(np.asarray(loader.batch_at(1)["input_ids"]), expected_rows(4, 8))
        assert mixture.gate.is_waited_at.wait(SECONDS)  # the read of step 3 is still waiting
        assert len(mixture.reads) == 3
        mixture.gate.give(100)


def test_seconds_waited_counts_the_wait_for_reads_but_not_for_batches_read_ahead(one_by_one, monkeypatch):
    """By a clock that stands still except that every read takes a second."""
    seconds = [0.0]
    clock = types.SimpleNamespace(perf_counter=lambda: seconds[0])
    monkeypatch.setattr("data_pipelines.loader.time", clock)
    mixture = FakeMixture(permits=1)
    read = mixture.read

    def slow_read(*rows):
        ids = read(*rows)
        seconds[0] += 1.0
        return ids

    mixture.read = slow_read
    with Loader(mixture, batch_size=4, sharding=sharding_of(), prefetch=2) as loader:
        assert loader.seconds_waited == 0.0
        loader.batch_at(0)
        assert loader.seconds_waited == 1.0
        mixture.gate.give(2)
        wait_until(lambda: seconds[0] == 3.0)  # steps 1 and 2 are read, step 3 will wait for a permit
        loader.batch_at(1)
        assert loader.seconds_waited == 1.0
        mixture.gate.give(100)


@pytest.mark.parametrize("prefetch", [0, 2])
def test_a_failed_read_surfaces_at_its_own_step_with_its_cause(prefetch):
    mixture = FakeMixture()
    mixture.bad_example = 13  # step 3
    with Loader(mixture, batch_size=4, sharding=sharding_of(), prefetch=prefetch) as loader:
        for step in range(3):
            loader.batch_at(step)
        with pytest.raises(
            RuntimeError, match=r"batch of step 3: cannot read .*rows.array_record-00003"
        ) as error:
            loader.batch_at(3)
        assert isinstance(error.value.__cause__, OSError)
        loader.batch_at(4)
        mixture.bad_example = None  # the disk works again
        np.testing.assert_array_equal(np.asarray(loader.batch_at(3)["input_ids"]), expected_rows(12, 16))


def test_even_an_exit_in_the_thread_does_not_hang(monkeypatch):
    mixture = FakeMixture()
    monkeypatch.setattr(mixture, "read", lambda *_: (_ for _ in ()).throw(SystemExit("gone")))
    with (
        Loader(mixture, batch_size=4, sharding=sharding_of()) as loader,
        pytest.raises(RuntimeError, match="gone"),
    ):
        loader.batch_at(0)


def test_close_waits_for_the_thread_and_refuses_further_steps(one_by_one):
    mixture = FakeMixture(permits=1)
    loader = Loader(mixture, batch_size=4, sharding=sharding_of())
    loader.batch_at(0)
    assert mixture.gate.is_waited_at.wait(SECONDS)  # the thread is reading step 1
    closer = threading.Thread(target=loader.close)
    closer.start()
    assert len(loader_threads()) == 1
    mixture.gate.give(100)
    closer.join()
    assert loader_threads() == []
    loader.close()
    with pytest.raises(RuntimeError, match="the loader is closed; step 1 was requested"):
        loader.batch_at(1)


def test_closing_from_another_thread_wakes_a_waiting_caller():
    mixture = FakeMixture(permits=0)
    loader = Loader(mixture, batch_size=4, sharding=sharding_of())

    def close_during_the_read():
        mixture.gate.is_waited_at.wait(SECONDS)
        loader.close()

    closer = threading.Thread(target=close_during_the_read)
    closer.start()
    with pytest.raises(RuntimeError, match="closed while step 0"):
        loader.batch_at(0)
    mixture.gate.give(100)
    closer.join()


def test_rows_at_names_the_examples_of_a_step():
    with Loader(FakeMixture(), batch_size=4, sharding=sharding_of((4,))) as loader:
        assert loader.rows_at(3) == [("/data/a", 6), ("/data/b", 6), ("/data/a", 7), ("/data/b", 7)]


@pytest.mark.parametrize("make", [Loader, EvaluationLoader])
@pytest.mark.parametrize("batch_size", [0, 6, -8])
def test_a_batch_that_the_mesh_does_not_divide_is_refused_before_reading(make, batch_size):
    mixture = FakeMixture(num_examples=10)
    message = (
        rf"config.\w+.batch_size: got {batch_size}, expected a positive multiple of 4, the number of shards "
        r"of the batch over mesh axes \('data', 'fsdp'\)"
    )
    with pytest.raises(ValueError, match=message):
        make(mixture, batch_size=batch_size, sharding=sharding_of((2, 2, 2), PartitionSpec(("data", "fsdp"))))
    assert mixture.reads == []


def test_wrong_sharding_prefetch_and_step_are_errors():
    with pytest.raises(ValueError, match="can only be sharded along its rows"):
        Loader(FakeMixture(), batch_size=4, sharding=sharding_of((2,), PartitionSpec(None, "data")))
    with pytest.raises(ValueError, match=r"config.data.prefetch: got -1"):
        Loader(FakeMixture(), batch_size=4, sharding=sharding_of(), prefetch=-1)
    loader = Loader(FakeMixture(), batch_size=4, sharding=sharding_of())
    with loader, pytest.raises(IndexError, match="step -1"):
        loader.batch_at(-1)
