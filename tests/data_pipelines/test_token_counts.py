"""Counts of the tokens in training rows: those of the builder, of a mixture, and of datasets without any."""

import shutil

import numpy as np
import pytest

from data_pipelines import token_counts
from data_pipelines.dataset_directory import TOKEN_COUNTS_FILE
from data_pipelines.mixture import DatasetSource, make_mixture
from data_pipelines.token_counts import mixture_counts
from support.small_corpus import build, rows_of, write, write_data


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """A corpus, and one of other text, with more rows in it."""
    root = write_data(tmp_path_factory.mktemp("token_counts"))
    build(root, root / "one")
    texts = [f"the cat sat under the hat {number}" for number in range(900)]
    build(root, root / "two", train=[write(root / "cats.jsonl", texts)])
    return root


def counts_of(directory, vocab_size):
    return np.bincount(rows_of(directory).ravel(), minlength=vocab_size)


def mixture_of(*sources):
    return make_mixture([DatasetSource(str(path), weight) for path, weight in sources], seed=0)


def test_the_builder_counts_the_training_rows(built, tmp_path):
    counts = np.load(built / "one" / TOKEN_COUNTS_FILE)
    assert counts.dtype == np.int64 and not list((built / "one").glob("*.tokens.npy"))
    np.testing.assert_array_equal(counts, counts_of(built / "one", len(counts)))
    mixed = mixture_counts(mixture_of((built / "one", 3.0)), tmp_path)
    np.testing.assert_allclose(mixed, counts, rtol=1e-12)
    assert not any(tmp_path.iterdir())


def test_a_mixture_is_counted_as_its_rows_are_read(built, tmp_path):
    """The frequencies are those of the tokens that training reads, to sampling."""
    mixture = mixture_of((built / "one", 1.0), (built / "two", 3.0))
    counts = mixture_counts(mixture, tmp_path)
    size = len(counts)
    one, two = counts_of(built / "one", size), counts_of(built / "two", size)
    assert counts.sum() == pytest.approx(one.sum() + two.sum())
    rows = [len(rows_of(built / name)) for name in ("one", "two")]
    expected = one / rows[0] + 3 * two / rows[1]
    np.testing.assert_allclose(counts / counts.sum(), expected / expected.sum(), rtol=1e-12)
    # A whole number of epochs of both: 3 · rows[0] · rows[1] rows of the second.
    read = mixture.read(*mixture.rows_at(0, 4 * rows[0] * 50))
    read = np.bincount(read.ravel(), minlength=size) / read.size
    np.testing.assert_allclose(counts / counts.sum(), read, atol=2e-3)


def test_a_dataset_of_an_earlier_version_is_counted_once(built, tmp_path, capsys):
    old = tmp_path / "old"
    build(built, old)
    expected = np.load(old / TOKEN_COUNTS_FILE)
    (old / TOKEN_COUNTS_FILE).unlink()
    np.testing.assert_allclose(mixture_counts(mixture_of((old, 1.0)), tmp_path / "run"), expected, rtol=1e-12)
    assert f"{old}: it has no {TOKEN_COUNTS_FILE}" in capsys.readouterr().err
    mixture_counts(mixture_of((old, 1.0)), tmp_path / "run")
    assert capsys.readouterr().err == ""
    (kept,) = (tmp_path / "run").iterdir()
    kept.write_bytes(b"\x93NUMPY")
    np.testing.assert_allclose(mixture_counts(mixture_of((old, 1.0)), tmp_path / "run"), expected, rtol=1e-12)


def test_of_many_rows_a_part_is_counted_and_scaled(built, tmp_path, monkeypatch):
    old = tmp_path / "old"
    build(built, old)
    (old / TOKEN_COUNTS_FILE).unlink()
    rows = rows_of(old)
    monkeypatch.setattr(token_counts, "MAX_TOKENS", rows.size // 3)
    monkeypatch.setattr(token_counts, "TOKENS_AT_ONCE", 7 * rows.shape[1])
    counts = mixture_counts(mixture_of((old, 1.0)), tmp_path / "run")
    chosen = rows[:: -(-rows.size // (rows.size // 3))]
    assert 0.2 < len(chosen) / len(rows) < 0.4 and counts.sum() == pytest.approx(rows.size)
    expected = np.bincount(chosen.ravel(), minlength=len(counts)) * len(rows) / len(chosen)
    np.testing.assert_allclose(counts, expected, rtol=1e-12)


@pytest.mark.parametrize("start, stop", [(0, 4), (6, 10), (10, 20), (23, 87), (60, 61)])
def test_counts_with_a_damaged_header_are_made_again(start, stop, built, tmp_path, capsys):
    copy = tmp_path / "copy"
    shutil.copytree(built / "one", copy)
    path = copy / TOKEN_COUNTS_FILE
    expected, content = np.load(path), path.read_bytes()
    path.write_bytes(content[:start] + bytes(stop - start) + content[stop:])
    np.testing.assert_allclose(
        mixture_counts(mixture_of((copy, 1.0)), tmp_path / "run"), expected, rtol=1e-12
    )
    assert f"{copy}: its {TOKEN_COUNTS_FILE} is damaged" in capsys.readouterr().err


@pytest.mark.parametrize(
    "damage",
    [
        lambda counts: counts[:-1],
        lambda counts: np.where(np.arange(len(counts)) < 8, 0, counts),
        lambda counts: counts ^ (np.arange(len(counts)) == 5),  # a bit
        lambda counts: -counts,
        lambda counts: counts.astype(np.float32),
    ],
)
def test_damaged_counts_are_made_again(damage, built, tmp_path, capsys):
    copy = tmp_path / "copy"
    shutil.copytree(built / "one", copy)
    expected = np.load(copy / TOKEN_COUNTS_FILE)
    np.save(copy / TOKEN_COUNTS_FILE, damage(expected))
    np.testing.assert_allclose(
        mixture_counts(mixture_of((copy, 1.0)), tmp_path / "run"), expected, rtol=1e-12
    )
    assert f"{copy}: its {TOKEN_COUNTS_FILE} is damaged" in capsys.readouterr().err
