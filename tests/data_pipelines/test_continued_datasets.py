"""Mixtures that follow each other: each dataset is continued in its own order."""

import collections
import shutil

import pytest
from grain import MapDataset
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipelines.mixture import DatasetSource, continue_sources, examples_of_each, make_mixture


@pytest.fixture(scope="module")
def corpora(data, tmp_path_factory):
    """Two datasets of one text, "long" and "second"."""
    root = tmp_path_factory.mktemp("corpora")
    for name in ("long", "second"):
        shutil.copytree(data / "corpus", root / name)
    return root


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(1, 100), min_size=1, max_size=4), st.integers(0, 10**12))
def test_how_many_examples_of_a_mixture_are_of_each_dataset(weights, many):
    small, mixed = (
        many % 300,
        MapDataset.mix(
            [MapDataset.range(1).map(lambda _, i=index: i).repeat() for index in range(len(weights))],
            weights=weights,
        ),
    )
    counts = collections.Counter(mixed[index] for index in range(small))
    assert examples_of_each(weights, small) == [counts[index] for index in range(len(weights))]
    assert sum(examples_of_each(weights, many)) == many  # fast, however many


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(1e-4, 1e5), min_size=2, max_size=4), st.integers(0, 10**12))
def test_examples_of_datasets_of_very_different_weights(weights, many):
    """Grain's next example is the first one of its dataset that is not counted."""
    endless = 2**48
    numbered = [MapDataset.range(index * endless, (index + 1) * endless) for index in range(len(weights))]
    dataset, place = divmod(MapDataset.mix(numbered, weights=weights)[many], endless)
    assert examples_of_each(weights, many)[dataset] == place


def test_examples_of_a_weight_that_is_never_drawn():
    """Counted without looking for its first example."""
    assert examples_of_each([1.0, 1e-9], 10**12) == [999_999_999_001, 999]
    assert examples_of_each([1e-9, 1.0], 10**6) == [1, 999_999]


def rows_of(mixed, count):
    """(path, row) of the first examples."""
    return [
        (mixed.sources[index].path, row)
        for index, row in zip(*(array.tolist() for array in mixed.rows_at(0, count)), strict=True)
    ]


def test_every_dataset_is_read_in_its_own_order_whatever_the_batches_and_mixtures(corpora):
    paths = [str(corpora / "long"), str(corpora / "second")]
    reference = rows_of(make_mixture([DatasetSource(path) for path in paths], seed=3), 4000)
    orders = {path: [row for name, row in reference if name == path] for path in paths}
    mixtures = st.sampled_from([paths[:1], paths, paths[1:], paths[::-1]])

    @settings(max_examples=25, deadline=None)
    @given(
        st.lists(
            st.tuples(mixtures, st.integers(1, 5), st.integers(1, 7), st.integers(1, 30)),
            min_size=1,
            max_size=5,
        )
    )
    def check(parts):
        parts = [(paths, 1, 1, 1), *parts]
        numbers = [steps * batch_size for *_, batch_size, steps in parts]
        sources = continue_sources(
            [
                ([DatasetSource(path, weight) for path, weight in zip(names, (1, weight), strict=False)], n)
                for (names, weight, *_), n in zip(parts, numbers, strict=True)
            ]
        )
        opened = []
        for one in sources:
            opened.append(make_mixture(one, seed=3, opened_by=opened))
        read = [pair for one, number in zip(opened, numbers, strict=True) for pair in rows_of(one, number)]
        assert len(read) == sum(numbers)
        for path in paths:
            mine = [row for name, row in read if name == path]
            assert mine == orders[path][: len(mine)]

    check()


def test_a_dataset_listed_twice_is_continued_twice(corpora):
    path = str(corpora / "long")
    whole = make_mixture([DatasetSource(path), DatasetSource(path)], seed=0)
    _, then = continue_sources([([DatasetSource(path)] * 2, 40)] * 2)
    assert rows_of(whole, 80)[40:] == rows_of(make_mixture(then, seed=0), 40)
