"""Several datasets as one endless stream: the dataset, row and token ids of global example i.

Random access without state: the same global index gives the same row on every host, before and after a
restart. Grain determines the order (a fresh shuffle every epoch, datasets interleaved by weight). Rows are
read in batches, since one `__getitems__` of a batch costs far less than its rows one by one.
"""

import dataclasses
import os
from collections.abc import Iterable, Sequence

import grain
import numpy as np

from data_pipelines.address_space import check_address_space
from data_pipelines.dataset_cache import local_dataset
from data_pipelines.dataset_info import DatasetInfo
from data_pipelines.opened_dataset import DatasetSource, OpenedDataset
from data_pipelines.tokenizers.directory import SpecialIds
from data_pipelines.whole_files import check_utf8

_MAX_ROWS = 2**32  # Grain's index shuffle works on 32-bit indices
LARGEST_RATIO = 1e9  # of two weights


class Mixture:
    """Global example index → (dataset, row) → token ids. Made by `make_mixture` or `make_sequential`.

    Attributes:
      sources: the DatasetSource of every dataset index.
      infos: the DatasetInfo of each, fingerprints included.
      special: the special ids, the same in all datasets.
      num_rows: rows of all datasets together.
      num_examples: valid global indices are 0 … num_examples - 1; None when endless.
      sequence_length: L, tokens in a row.
      dtype: of the token ids, uint16 or int32.
    """

    def __init__(
        self,
        sources: Sequence[DatasetSource],
        datasets: Sequence[OpenedDataset],
        order: grain.MapDataset,
        *,
        num_examples: int | None,
    ):
        self._datasets = tuple(datasets)
        self._order = order  # global example index → row number in the concatenation of all datasets
        self._starts = np.cumsum([0, *(dataset.num_rows for dataset in datasets)])
        self.sources = tuple(sources)
        self.infos = tuple(dataset.info for dataset in datasets)
        self.special = SpecialIds(**self.infos[0].special_ids)
        self.num_rows = int(self._starts[-1])
        self.num_examples = num_examples
        self.sequence_length = datasets[0].sequence_length
        self.dtype = np.result_type(*(dataset.dtype for dataset in datasets))

    def rows_at(self, start: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
        """Dataset index (int32 [n]) and row number (int64 [n]) of the global examples start … stop - 1.

        Raises:
          IndexError: a negative or reversed range, or one beyond `num_examples`.
        """
        if not 0 <= start <= stop or (self.num_examples is not None and stop > self.num_examples):
            raise IndexError(
                f"global examples [{start}, {stop}): expected 0 <= start <= stop"
                + ("" if self.num_examples is None else f" <= {self.num_examples}")
                + "."
            )
        place = np.fromiter(elements(self._order, range(start, stop)), np.int64, stop - start)
        dataset_index = np.searchsorted(self._starts, place, side="right") - 1
        return dataset_index.astype(np.int32), place - self._starts[dataset_index]

    def cut_to(self, num_examples: int) -> "Mixture":
        """A mixture of `num_examples` examples of this finite one: of a single dataset the first ones; of
        several datasets evenly spaced ones, so that each has its share of them by number of rows.

        Raises:
          ValueError: an endless mixture, or not 1 … `num_examples` of this one.
        """
        whole, order = self.num_examples, self._order
        if whole is None or not 1 <= num_examples <= whole:
            raise ValueError(
                f"got {num_examples} examples of a mixture with num_examples={whole}, expected at least 1, "
                "and at most all of a finite mixture."
            )
        if len(self._datasets) > 1:
            # Whole numbers are the same on all hosts. The first and the last example are among them.
            place = lambda index: self._order[index * (whole - 1) // max(1, num_examples - 1)]
            order = grain.MapDataset.range(num_examples).map(place)
        return Mixture(self.sources, self._datasets, order, num_examples=num_examples)

    def read(self, dataset_index: np.ndarray, row: np.ndarray) -> np.ndarray:
        """Token ids [n, L] of the given rows, in the given order; one batched read per dataset.

        Raises:
          OSError: a file cannot be read; names it.
        """
        dataset_index, row = np.asarray(dataset_index), np.asarray(row)
        if len(self._datasets) == 1 and len(row):
            return self._datasets[0].read(row.tolist())
        ids = np.empty((len(row), self.sequence_length), self.dtype)
        for number in np.unique(dataset_index):
            (chosen,) = np.nonzero(dataset_index == number)
            ids[chosen] = self._datasets[number].read(row[chosen].tolist())
        return ids


def elements(order: grain.MapDataset, indices: range) -> Iterable[int]:
    """The elements of `order` at `indices`: at once, which takes two thirds of the time, where Grain can. Its
    `_getitems` is private to Grain, and another version may lack it."""
    at_once = getattr(order, "_getitems", None)
    return map(order.__getitem__, indices) if at_once is None else at_once(indices)


def make_mixture(
    datasets: Sequence[DatasetSource], *, seed: int, shuffle: bool = True, opened_by: Sequence[Mixture] = ()
) -> Mixture:
    """An endless mixture: each dataset repeats in a fresh order every epoch; weights set the shares.

    Datasets are interleaved evenly, not at random: any n consecutive global indices hold each dataset's share
    of n to within a few rows. Grain rounds a weight down to whole hundredths of the smallest weight.

    Args:
      datasets: what to mix; the order of this list is part of the mixture's identity.
      seed: any non-negative integer; runs with different seeds share no order.
      shuffle: False reads each dataset in stored order, epoch after epoch.
      opened_by: mixtures whose open datasets are used again.

    Raises:
      FileNotFoundError: a directory does not exist.
      ValueError: no datasets, a weight that is not positive, an empty split, or datasets with different
        tokenizers or row lengths.
      OSError: a truncated or damaged file; names it.
    """
    _check_weights(datasets)
    if seed < 0:
        raise ValueError(f"seed: got {seed}, expected a non-negative integer.")
    opened = _open_all(datasets, opened_by)
    orders, start = [], 0
    for index, (source, dataset) in enumerate(zip(datasets, opened, strict=True)):
        order = grain.MapDataset.range(start, start + dataset.num_rows)
        start += dataset.num_rows
        if shuffle:
            # Grain seeds epoch e with seed + e, so neighbouring seeds would replay each other's epochs; a
            # hash keeps them apart.
            number = index if source.order is None else source.order
            order = order.shuffle(seed=int(np.random.SeedSequence([seed, number]).generate_state(1)[0]))
        order = order.repeat()
        orders.append(order[source.start :] if source.start else order)
    mixed = (
        orders[0] if len(orders) == 1 else grain.MapDataset.mix(orders, weights=[d.weight for d in datasets])
    )
    return Mixture(datasets, opened, mixed, num_examples=None)


def continue_sources(parts: Sequence[tuple[Sequence[DatasetSource], int]]) -> list[list[DatasetSource]]:
    """Sources of mixtures that are read one after another, each dataset resuming where it stopped.

    Whatever the mixtures, a dataset continues in its own order: in each epoch every row is read exactly once.
    It is the same dataset wherever it lies, if sources have fingerprints.

    Args:
      parts: each mixture's sources, and the number of examples read of that mixture.

    Raises:
      ValueError: a weight that is not positive.
    """
    # (fingerprint or path, number of earlier sources in the list with the same) → examples read of it.
    read: dict[tuple[str, int], int] = {}
    continued = []
    for sources, num_examples in parts:
        _check_weights(sources)
        names = [source.fingerprint or source.path for source in sources]
        keys = [(name, names[:index].count(name)) for index, name in enumerate(names)]
        read |= {key: 0 for key in keys if key not in read}
        orders = list(read)
        continued.append(
            [
                dataclasses.replace(source, order=orders.index(key), start=read[key])
                for source, key in zip(sources, keys, strict=True)
            ]
        )
        counts = examples_of_each([source.weight for source in sources], num_examples)
        for key, count in zip(keys, counts, strict=True):
            read[key] += count
    return continued


def examples_of_each(weights: Sequence[float], num_examples: int) -> list[int]:
    """Number of examples of each dataset among the first `num_examples` of a mixture.

    Grain's order has this form: each dataset has its share, rounded up, of the examples that those before it
    in the list have left.
    """
    scale = 100 / min(weights)
    shares = [int(weight * scale) for weight in weights]  # as Grain rounds them
    counts, left, total = [], num_examples, sum(shares)
    for share in shares:
        behind = left * (total - share) // total
        counts.append(left - behind)
        left, total = behind, total - share
    return counts


def make_sequential(datasets: Sequence[DatasetSource], *, opened_by: Sequence[Mixture] = ()) -> Mixture:
    """One finite pass in stored order, dataset after dataset, for evaluation. Weights are not used.

    Arguments and errors as for `make_mixture`.
    """
    opened = _open_all(datasets, opened_by)
    num_rows = sum(dataset.num_rows for dataset in opened)
    return Mixture(datasets, opened, grain.MapDataset.range(num_rows), num_examples=num_rows)


def check_same_rows(datasets: Sequence[tuple[str, DatasetInfo]]) -> None:
    """Raises ValueError unless the datasets, (path, info), have one row length and one tokenizer."""
    identities = [
        (info.sequence_length, info.tokenizer_fingerprint, SpecialIds(**info.special_ids))
        for _, info in datasets
    ]
    if len(set(identities)) > 1:
        rows = "\n".join(
            f"  {path}: sequence_length {length}, tokenizer {fingerprint}, {special}"
            for (path, _), (length, fingerprint, special) in zip(datasets, identities, strict=True)
        )
        raise ValueError(
            "config.data: datasets of one mixture must have the same sequence_length and tokenizer, got\n"
            f"{rows}\nRebuild those that differ with the same tokenizer and length."
        )


def _check_weights(datasets: Sequence[DatasetSource]) -> None:
    bad = [dataset for dataset in datasets if not 0 < dataset.weight < float("inf")]
    if bad:
        raise ValueError(
            "config.data: every dataset needs a finite weight > 0, got "
            + ", ".join(f"{dataset.weight} for {dataset.label}" for dataset in bad)
            + ". Remove a dataset from the list to leave it out."
        )
    weights = [dataset.weight for dataset in datasets]
    if weights and max(weights) > LARGEST_RATIO * min(weights):
        raise ValueError(
            f"config.data.weights: got {min(weights):g} beside {max(weights):g}, expected weights of which "
            f"none is more than {LARGEST_RATIO:,.0f} times another. Remove a dataset from the list to leave "
            "it out."
        )


def _open_all(datasets: Sequence[DatasetSource], opened_by: Sequence[Mixture]) -> list[OpenedDataset]:
    if not datasets:
        raise ValueError(
            "config.data names no dataset; expected at least one directory made by data_pipelines.corpus."
        )
    check_address_space()
    for dataset in datasets:
        check_utf8(dataset.path, "config.data.datasets")
    missing = [dataset.path for dataset in datasets if not os.path.isdir(local_dataset(dataset.path))]
    if missing:
        raise FileNotFoundError(
            f"config.data: no such dataset directory: {', '.join(missing)}. Build it with "
            "data_pipelines.corpus, or correct the path."
        )
    # Open files are a limited resource, and opening them is slow on some storage.
    already_open = {
        (dataset.described.path, dataset.described.split): dataset
        for mixture in opened_by
        for dataset in mixture._datasets
    }
    opened = [
        already_open.get((dataset.path, dataset.split)) or OpenedDataset(dataset) for dataset in datasets
    ]
    check_same_rows([(dataset.described.path, dataset.info) for dataset in opened])
    too_large = [dataset.described.label for dataset in opened if dataset.num_rows > _MAX_ROWS]
    if too_large:
        raise ValueError(
            f"datasets of more than 2**32 rows cannot be shuffled: {', '.join(too_large)}. Build them in "
            "parts and mix the parts with weights in proportion to their rows."
        )
    return opened
