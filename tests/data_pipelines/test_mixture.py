"""Example index → row is a pure function; epochs are permutations; errors name the damaged file."""

import collections
import itertools
import json
import logging
import shutil
import types

import grain
import numpy as np
import pytest
import tensorflow_datasets as tfds
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipelines import opened_dataset
from data_pipelines.loader import EvaluationLoader
from data_pipelines.mixture import DatasetSource, Mixture, elements, make_mixture, make_sequential
from data_pipelines.record_files import RecordFiles
from data_pipelines.tokenizers.directory import SpecialIds
from support.fake_mixture import sharding_of

L = 5
VOCAB_SIZE = 5000
SPECIAL = SpecialIds(pad=0, cls=101, sep=102, unk=100, mask=103)


class Rows(tfds.core.GeneratorBasedBuilder):
    """A dataset of given rows in stored order."""

    VERSION = tfds.core.Version("1.0.0")
    splits_of_rows: dict = {}

    def _info(self):
        rows = next(iter(self.splits_of_rows.values()))
        feature = tfds.features.Tensor(shape=rows.shape[1:], dtype=rows.dtype)
        return tfds.core.DatasetInfo(
            builder=self, features=tfds.features.FeaturesDict({"input_ids": feature}), disable_shuffling=True
        )

    def _split_generators(self, _):
        return {
            name: ((index, {"input_ids": row}) for index, row in enumerate(rows))
            for name, rows in self.splits_of_rows.items()
        }

    def _generate_examples(self):
        raise NotImplementedError


def build(directory, splits, num_shards=1):
    Rows.splits_of_rows = splits
    builder = Rows(data_dir=directory, file_format="array_record")
    builder.download_and_prepare(download_config=tfds.download.DownloadConfig(num_shards=num_shards))
    return str(builder.data_path)


def row_with(number, length=L):
    """[CLS], the same number throughout, [SEP]."""
    return [SPECIAL.cls, *[number] * (length - 2), SPECIAL.sep]


def rows_of(dataset, count, dtype=np.uint16, length=L, first=1):
    """Row r of dataset d has the number d·1000 + r + first."""
    return np.array([row_with(dataset * 1000 + row + first, length) for row in range(count)], dtype)


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    logging.getLogger("absl").setLevel(logging.ERROR)
    root = tmp_path_factory.mktemp("datasets")
    return types.SimpleNamespace(
        a=build(root / "a", {"train": rows_of(0, 40), "validation": rows_of(0, 7, first=501)}, num_shards=4),
        b=build(root / "b", {"train": rows_of(1, 23)}),
        wide=build(root / "wide", {"train": rows_of(2, 9, np.int32)}),
        one=build(root / "one", {"train": rows_of(3, 1)}),
        long=build(root / "long", {"train": rows_of(4, 3, length=8)}),
    )


def splits_of(path):
    """The entry of a corpus.json."""
    splits = tfds.builder_from_directory(path).info.splits
    return {
        name: {"shards": split.filenames, "rows_by_shard": split.shard_lengths}
        for name, split in splits.items()
    }


@pytest.fixture(autouse=True)
def tokenizers(monkeypatch):
    """Directory → tokenizer fingerprint and special ids, in place of its corpus.json."""
    by_directory = collections.defaultdict(lambda: ("tokenizer-1", SPECIAL))
    monkeypatch.setattr(
        opened_dataset,
        "load_dataset_info",
        lambda path: types.SimpleNamespace(
            tokenizer_fingerprint=by_directory[path][0],
            special_ids=by_directory[path][1]._asdict(),
            vocab_size=VOCAB_SIZE,
            splits=splits_of(path),
            sequence_length=8 if "/long/" in path else L,
        ),
    )
    return by_directory


@pytest.fixture
def record_sources(monkeypatch):
    """The files of records of all datasets that are opened from here on, in order; a test can replace how
    they are read."""
    sources = []

    def opened(files, ends):
        sources.append(RecordFiles(files, ends))
        return sources[-1]

    monkeypatch.setattr(opened_dataset, "RecordFiles", opened)
    return sources


def pairs(mixed, start, stop):
    return list(zip(*(array.tolist() for array in mixed.rows_at(start, stop)), strict=True))


def test_rows_do_not_depend_on_the_ranges_requested(built):
    sources = [DatasetSource(built.a, 2.0), DatasetSource(built.b, 1.0)]
    mixed = make_mixture(sources, seed=3)
    whole = pairs(mixed, 0, 120)
    again = make_mixture(sources, seed=3)  # after a restart

    @settings(max_examples=12, deadline=None)
    @given(st.lists(st.integers(0, 120), min_size=1, max_size=6))
    def in_any_pieces(cuts):
        pieces = itertools.pairwise([0, *sorted(cuts), 120])
        assert [pair for start, stop in pieces for pair in pairs(again, start, stop)] == whole

    in_any_pieces()
    assert pairs(again, 97, 98) == whole[97:98]
    dataset_index, row = mixed.rows_at(0, 4)
    assert dataset_index.dtype == np.int32 and row.dtype == np.int64
    assert mixed.rows_at(5, 5)[0].shape == (0,)


def test_every_epoch_is_a_permutation_in_a_fresh_order(built):
    mixed = make_mixture([DatasetSource(built.a)], seed=0)
    epochs = [[row for _, row in pairs(mixed, 40 * epoch, 40 * epoch + 40)] for epoch in range(4)]
    assert all(sorted(epoch) == list(range(40)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 4
    assert list(range(40)) not in epochs


def test_neighbouring_seeds_do_not_replay_each_others_epochs(built):
    orders = {seed: make_mixture([DatasetSource(built.a)], seed=seed) for seed in (5, 6)}
    epochs = [
        tuple(pairs(orders[seed], 40 * epoch, 40 * epoch + 40)) for seed in (5, 6) for epoch in range(3)
    ]
    assert len(set(epochs)) == 6


def test_datasets_of_one_size_do_not_share_an_order(built):
    mixed = make_mixture([DatasetSource(built.a), DatasetSource(built.a)], seed=0)
    first, second = ([row for dataset, row in pairs(mixed, 0, 80) if dataset == number] for number in (0, 1))
    assert sorted(first) == sorted(second) and first != second


def test_without_shuffling_rows_come_in_stored_order(built):
    mixed = make_mixture([DatasetSource(built.b)], seed=0, shuffle=False)
    assert pairs(mixed, 0, 50) == [(0, index % 23) for index in range(50)]


def test_weights_decide_the_shares_and_epochs_of_each_dataset_stay_whole(built):
    sources = [DatasetSource(built.a, 0.3), DatasetSource(built.b, 0.6), DatasetSource(built.one, 0.1)]
    mixed = make_mixture(sources, seed=1)
    for start in (0, 400, 12_345):
        counts = collections.Counter(dataset for dataset, _ in pairs(mixed, start, start + 200))
        for number, share in enumerate((60, 120, 20)):
            assert abs(counts[number] - share) <= 3, counts
    of_b = [row for dataset, row in pairs(mixed, 0, 200) if dataset == 1]
    assert sorted(of_b[:23]) == sorted(of_b[23:46]) == list(range(23)) and of_b[:23] != of_b[23:46]


def test_read_returns_rows_in_the_given_order(built):
    mixed = make_mixture([DatasetSource(built.a), DatasetSource(built.b)], seed=7)
    dataset_index, row = mixed.rows_at(11, 75)
    ids = mixed.read(dataset_index, row)
    assert ids.shape == (64, L) and ids.dtype == np.uint16
    np.testing.assert_array_equal(ids, [row_with(number) for number in dataset_index * 1000 + row + 1])
    np.testing.assert_array_equal(mixed.read([1, 0, 1, 1], [3, 39, 3, 0])[:, 1], [1004, 40, 1004, 1001])
    assert mixed.read(*mixed.rows_at(3, 3)).shape == (0, L)


def test_datasets_are_read_once_per_batch(built, record_sources):
    mixed = make_mixture([DatasetSource(built.a), DatasetSource(built.b)], seed=7)
    calls = []
    for source in record_sources:
        read = source.read
        source.read = lambda rows, read=read: calls.append(len(rows)) or read(rows)
    mixed.read(*mixed.rows_at(0, 64))
    assert calls == [32, 32]


def test_an_order_at_once_is_the_order_element_by_element():
    orders = [grain.MapDataset.range(start, start + 50).shuffle(seed=start).repeat() for start in (0, 50)]
    mixed = grain.MapDataset.mix([orders[0], orders[1][7:]], weights=[1.0, 2.5])
    one_by_one = types.SimpleNamespace(__getitem__=mixed.__getitem__)
    assert list(elements(mixed, range(90, 300))) == [mixed[index] for index in range(90, 300)]
    assert list(elements(one_by_one, range(90, 300))) == [mixed[index] for index in range(90, 300)]


def test_mixed_dtypes_widen(built):
    mixed = make_mixture([DatasetSource(built.a), DatasetSource(built.wide)], seed=0)
    ids = mixed.read([0, 1], [4, 5])
    assert mixed.dtype == ids.dtype == np.int32 and ids[:, 1].tolist() == [5, 2006]


def test_sequential_is_one_pass_in_stored_order(built):
    mixed = make_sequential([DatasetSource(built.a, split="validation"), DatasetSource(built.b)])
    assert mixed.num_rows == mixed.num_examples == 30
    assert pairs(mixed, 0, 30) == [(0, row) for row in range(7)] + [(1, row) for row in range(23)]
    assert mixed.read(*mixed.rows_at(5, 9))[:, 1].tolist() == [506, 507, 1001, 1002]
    with pytest.raises(IndexError, match=r"\[29, 31\): expected 0 <= start <= stop <= 30"):
        mixed.rows_at(29, 31)


def evaluated(mixture, max_batches):
    """The numbers in the rows that a loader of batches of 4 rows reads; 0 for padding."""
    with EvaluationLoader(mixture, batch_size=4, sharding=sharding_of(), max_batches=max_batches) as batches:
        ids = [np.asarray(batches.batch_at(index)["input_ids"]) for index in range(len(batches))]
    return np.concatenate(ids)[:, 1].tolist()


def test_an_evaluation_of_some_batches_has_each_datasets_share_of_rows(built):
    held_out = DatasetSource(built.a, split="validation")
    mixed = make_sequential([held_out, DatasetSource(built.b)])
    assert evaluated(mixed, 2) == [501, 505, 1002, 1006, 1010, 1014, 1018, 1023]
    every = [*range(501, 508), *range(1001, 1024), 0, 0]
    assert evaluated(mixed, 8) == evaluated(mixed, None) == every
    # Of a single dataset the first rows, as ever.
    assert evaluated(make_sequential([held_out]), 1) == [501, 502, 503, 504]


@given(st.lists(st.integers(1, 40), min_size=2, max_size=4), st.data())
@settings(max_examples=50, deadline=None)
def test_evenly_spaced_rows_are_different_and_shared_by_size(sizes, data):
    datasets = [
        types.SimpleNamespace(
            num_rows=size,
            info=types.SimpleNamespace(special_ids=SPECIAL._asdict()),
            sequence_length=L,
            dtype=np.uint16,
        )
        for size in sizes
    ]
    whole = sum(sizes)
    mixture = Mixture([], datasets, grain.MapDataset.range(whole), num_examples=whole)
    number = data.draw(st.integers(1, whole))
    found = pairs(mixture.cut_to(number), 0, number)
    assert len(set(found)) == number and found == sorted(found)
    for index, size in enumerate(sizes):
        assert abs(sum(one == index for one, _ in found) - number * size / whole) < 2
    with pytest.raises(ValueError, match=f"got {whole + 1} examples of a mixture with num_examples={whole}"):
        mixture.cut_to(whole + 1)


def test_an_endless_mixture_cannot_be_cut(built):
    with pytest.raises(ValueError, match="got 3 examples of a mixture with num_examples=None"):
        make_mixture([DatasetSource(built.a)], seed=0).cut_to(3)


def test_attributes_of_a_mixture(built):
    mixed = make_mixture([DatasetSource(built.a), DatasetSource(built.b)], seed=0)
    assert (mixed.num_rows, mixed.num_examples, mixed.sequence_length, mixed.dtype) == (
        63,
        None,
        L,
        np.uint16,
    )
    assert [source.path for source in mixed.sources] == [built.a, built.b]
    assert [info.tokenizer_fingerprint for info in mixed.infos] == ["tokenizer-1"] * 2
    assert mixed.special == SPECIAL
    assert make_mixture([DatasetSource(built.one)], seed=0).rows_at(0, 3)[1].tolist() == [0, 0, 0]


@pytest.mark.parametrize(("start", "stop"), [(-1, 3), (4, 2)])
def test_impossible_ranges(built, start, stop):
    with pytest.raises(IndexError, match="expected 0 <= start <= stop"):
        make_mixture([DatasetSource(built.b)], seed=0).rows_at(start, stop)


def test_rows_that_do_not_exist(built):
    with pytest.raises(IndexError, match=r"has rows 0 … 22, got 22 … 23"):
        make_mixture([DatasetSource(built.b)], seed=0).read([0, 0], [22, 23])


@pytest.mark.parametrize("weight", [0.0, -1.0, float("nan"), float("inf")])
def test_bad_weight(built, weight):
    with pytest.raises(
        ValueError, match=r"config.data: every dataset needs a finite weight > 0, got .*/b/.*'train'"
    ):
        make_mixture([DatasetSource(built.a), DatasetSource(built.b, weight)], seed=0)


def test_weights_that_are_too_far_apart(built):
    sources = [DatasetSource(built.a), DatasetSource(built.b, 1e-10)]
    with pytest.raises(ValueError, match=r"weights: got 1e-10 beside 1, expected weights of which none is"):
        make_mixture(sources, seed=0)


def test_missing_directories_are_listed_together(built, tmp_path):
    with pytest.raises(
        FileNotFoundError, match=r"no such dataset directory: .*/nowhere, .*/nor_here\. Build"
    ):
        make_mixture(
            [
                DatasetSource(str(tmp_path / "nowhere")),
                DatasetSource(built.a),
                DatasetSource(str(tmp_path / "nor_here")),
            ],
            seed=0,
        )


def test_missing_or_empty_split(built):
    with pytest.raises(ValueError, match=r"split 'validation' is missing or empty; .* \{'train': 23\}"):
        make_sequential([DatasetSource(built.b, split="validation")])


def test_a_split_without_rows(built, tmp_path):
    path = shutil.copytree(built.a, tmp_path / "copy")
    info = json.loads((path / "dataset_info.json").read_text())
    (validation,) = [split for split in info["splits"] if split["name"] == "validation"]
    validation["shardLengths"] = ["0" for _ in validation["shardLengths"]]
    (path / "dataset_info.json").write_text(json.dumps(info))
    with pytest.raises(ValueError, match=r"split 'validation' is missing or empty; .* 'validation': 0"):
        make_sequential([DatasetSource(str(path), split="validation")])


def test_a_dataset_of_another_feature(built, monkeypatch):
    monkeypatch.setattr(opened_dataset, "FEATURE", "tokens")
    with pytest.raises(ValueError, match=r"expected a feature 'tokens' of shape (.|\n)*got (.|\n)*input_ids"):
        make_mixture([DatasetSource(built.a)], seed=0)


def test_a_row_of_another_length_is_never_broadcast(built, record_sources):
    mixed = make_mixture([DatasetSource(built.b)], seed=0)
    features = tfds.features.FeaturesDict({"input_ids": tfds.features.Tensor(shape=(1,), dtype=np.uint16)})
    record = features.serialize_example({"input_ids": np.ones(1, np.uint16)})
    record_sources[0].read = lambda rows: [record for _ in rows]
    with pytest.raises(OSError, match=r"cannot read .*train.*: .*size 1 into shape \(5,\)"):
        mixed.read([0], [3])


def test_records_in_another_form_are_read_too(built, record_sources):
    """An example with more features than the rows."""
    mixed = make_mixture([DatasetSource(built.b)], seed=0)
    expected, read = mixed.read([0, 0], [3, 1]), record_sources[0].read
    more = tfds.features.FeaturesDict({"a": tfds.features.Tensor(shape=(1,), dtype=np.uint16)})
    extra = more.serialize_example({"a": np.ones(1, np.uint16)})
    record_sources[0].read = lambda rows: [record + extra for record in read(rows)]
    ids = mixed.read([0, 0], [3, 1])
    assert ids.dtype == expected.dtype and ids.tolist() == expected.tolist()


def test_a_dataset_of_another_shape(tmp_path):
    path = build(tmp_path, {"train": np.ones((2, 3, 4), np.uint16)})
    with pytest.raises(ValueError, match=r"expected a feature 'input_ids' of shape (.|\n)*got (.|\n)*3, 4"):
        make_mixture([DatasetSource(path)], seed=0)


def test_no_datasets_and_bad_seed(built):
    with pytest.raises(ValueError, match=r"config.data names no dataset"):
        make_mixture([], seed=0)
    with pytest.raises(ValueError, match=r"seed: got -1"):
        make_mixture([DatasetSource(built.a)], seed=-1)


def test_datasets_of_other_lengths_or_tokenizers(built, tokenizers):
    with pytest.raises(
        ValueError, match=r"sequence_length and tokenizer, got\n.*/a/.*length 5,.*\n.*/long/.*length 8"
    ):
        make_mixture([DatasetSource(built.a), DatasetSource(built.long)], seed=0)
    for other, message in (
        (("tokenizer-2", SPECIAL), r"/a/.*tokenizer tokenizer-1,.*\n.*/b/.*tokenizer tokenizer-2"),
        (("tokenizer-1", SPECIAL._replace(mask=4)), r"/a/.*mask=103.*\n.*/b/.*mask=4"),
    ):
        tokenizers[built.b] = other
        with pytest.raises(ValueError, match=message):
            make_sequential([DatasetSource(built.a), DatasetSource(built.b)])


def damaged_copy(path, tmp_path, damage):
    copy = tmp_path / "copy"
    shutil.copytree(path, copy)
    victim = sorted(copy.glob("*train*"))[2]
    damage(victim)
    return str(copy), victim.name


@pytest.mark.parametrize(
    "damage",
    [
        lambda file: file.write_bytes(file.read_bytes()[:-1]),
        lambda file: file.write_bytes(file.read_bytes()[: len(file.read_bytes()) // 2]),
        lambda file: file.write_bytes(b""),
        lambda file: file.unlink(),
        lambda file: shutil.copy(sorted(file.parent.glob("*validation*"))[0], file),  # whole, but too short
    ],
    ids=["one byte short", "half", "empty", "missing", "another file"],
)
def test_a_damaged_file_is_named_before_the_first_batch(built, tmp_path, damage):
    path, name = damaged_copy(built.a, tmp_path, damage)
    with pytest.raises(OSError, match=rf"cannot read .*{name}: (.|\n)*copy it again or rebuild the dataset"):
        make_mixture([DatasetSource(path)], seed=0)


def test_damage_that_appears_later_is_named_by_the_read(built, record_sources):
    mixed = make_mixture([DatasetSource(built.a)], seed=0)
    (source,) = record_sources
    read = source.read

    def checksum(rows):
        if 27 in rows:
            raise RuntimeError("hash mismatch")
        return read(rows)

    source.read = checksum
    mixed.read([0, 0], [26, 28])
    with pytest.raises(OSError, match=r"train'\): cannot read .*-00002-of-00004: hash mismatch"):
        mixed.read([0, 0, 0], [3, 27, 39])
