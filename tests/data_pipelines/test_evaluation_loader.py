"""One ordered pass over held-out rows: the last batch is padded, and nothing is read beyond it."""

import time

import numpy as np
import pytest

from data_pipelines.loader import EvaluationLoader
from support.fake_mixture import SHARDINGS, FakeMixture, L, expected_rows, sharding_of, wait_until


@pytest.mark.parametrize("name", SHARDINGS)
@pytest.mark.parametrize("prefetch", [0, 2])
def test_evaluation_pads_the_last_batch(name, prefetch):
    mixture = FakeMixture(num_examples=19)
    with EvaluationLoader(
        mixture, batch_size=8, sharding=sharding_of(*SHARDINGS[name]), prefetch=prefetch
    ) as loader:
        assert len(loader) == 3
        for _ in range(2):  # every pass is the same
            ids = np.concatenate([np.asarray(loader.batch_at(index)["input_ids"]) for index in range(3)])
            np.testing.assert_array_equal(ids[:19], expected_rows(0, 19))
            assert ids.shape == (24, L) and ids.dtype == np.uint16 and (ids[19:] == mixture.special.pad).all()
        with pytest.raises(IndexError, match=r"evaluation batch 3: expected 0 … 2"):
            loader.batch_at(3)


def test_a_process_with_nothing_but_padding_reads_nothing_but_padding():
    with EvaluationLoader(FakeMixture(num_examples=1), batch_size=8, sharding=sharding_of((8,))) as loader:
        ids = np.asarray(loader.batch_at(0)["input_ids"])
    np.testing.assert_array_equal(ids[0], expected_rows(0, 1)[0])
    assert (ids[1:] == FakeMixture.special.pad).all()


@pytest.mark.parametrize(
    ("num_examples", "max_batches", "expected"),
    [(16, None, 2), (17, None, 3), (17, 2, 2), (17, 9, 3), (1, 1, 1)],
)
def test_number_of_evaluation_batches(monkeypatch, num_examples, max_batches, expected):
    monkeypatch.setattr("data_pipelines.loader.TOKENS_AT_ONCE", 1)  # every batch is read alone
    mixture = FakeMixture(num_examples=num_examples)
    with EvaluationLoader(
        mixture, batch_size=8, sharding=sharding_of(), max_batches=max_batches, prefetch=5
    ) as loader:
        assert len(loader) == expected
        loader.batch_at(0)
        wait_until(lambda: len(mixture.reads) == expected)
        time.sleep(0.02)
        assert len(mixture.reads) == expected  # never reads beyond the last batch


def test_evaluation_refuses_an_endless_mixture_and_no_batches():
    with pytest.raises(ValueError, match="needs a finite mixture"):
        EvaluationLoader(FakeMixture(), batch_size=8, sharding=sharding_of())
    with pytest.raises(ValueError, match=r"config.eval.max_batches: got 0"):
        EvaluationLoader(FakeMixture(num_examples=3), batch_size=8, sharding=sharding_of(), max_batches=0)
