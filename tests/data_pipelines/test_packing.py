"""Rows are well formed; contiguous and documents lose no token; electra follows the original recipe."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipelines import packing
from data_pipelines.tokenizers.directory import SpecialIds

PAD_ID, CLS_ID, SEP_ID, *_ = SPECIAL = SpecialIds(pad=0, cls=1, sep=2, unk=3, mask=4)
ELECTRA = SpecialIds(pad=0, cls=101, sep=102, unk=100, mask=103)

LINES = st.lists(st.lists(st.integers(5, 60_000), max_size=30), max_size=6)
DOCUMENTS = st.lists(LINES, min_size=1, max_size=60)


def pack(documents, special=SPECIAL, **arguments):
    return packing.pack(documents, special=special, **arguments)


def flat(documents):
    return [token for document in documents for line in document for token in line]


def check_rows(rows, length):
    assert rows.dtype == np.int32 and rows.shape[1] == length
    for row in rows:
        filled = np.flatnonzero(row != PAD_ID)
        assert row[0] == CLS_ID and row[filled[-1]] == SEP_ID
        assert (np.diff(filled) == 1).all()  # padding only at the end


@settings(deadline=None, max_examples=50)
@given(DOCUMENTS, st.integers(3, 20), st.sampled_from(["contiguous", "documents"]))
def test_no_token_is_lost_and_rows_are_well_formed(documents, length, mode):
    rows = pack(documents, sequence_length=length, mode=mode, seed=0)
    check_rows(rows, length)
    kept = [int(token) for token in rows.ravel() if token not in (PAD_ID, CLS_ID, SEP_ID)]
    if mode == "contiguous":
        assert kept == flat(documents)
        assert (rows[:-1] != PAD_ID).all()
    else:
        assert sorted(kept) == sorted(flat(documents))


@settings(deadline=None, max_examples=50)
@given(
    st.lists(st.lists(st.integers(1, 25), max_size=6), min_size=1, max_size=40),
    st.integers(5, 40),
    st.integers(0, 9),
)
def test_electra_rows_are_consecutive_text_of_one_document(line_lengths, length, seed):
    counter = iter(range(10_000, 10**9))  # unique ids show order and origin
    documents = [[[next(counter) for _ in range(size)] for size in document] for document in line_lengths]
    rows = pack(documents, sequence_length=length, mode="electra", seed=seed)
    check_rows(rows, length)
    origin = {token: number for number, document in enumerate(documents) for token in flat([document])}
    for row in rows:
        kept = row[row > 4]
        assert 1 <= (row == SEP_ID).sum() <= 2 and (row == CLS_ID).sum() == 1
        assert len({origin[int(token)] for token in kept}) == 1
        for segment in np.split(row, np.flatnonzero(row == SEP_ID)):
            # A short line may still join A after B began, as in the original; each segment is in order.
            assert (np.diff(segment[segment > 4]) > 0).all()
    kept = rows[rows > 4]
    assert len(np.unique(kept)) == len(kept)
    assert {origin[int(token)] for token in kept} == set(origin.values())  # no document goes missing


def test_electra_has_the_published_rates():
    documents = [[[10 + token for token in range(4)] for _ in range(12_000)]]
    rows = pack(documents, sequence_length=64, mode="electra", seed=1)
    np.testing.assert_array_equal(rows, pack(documents, sequence_length=64, mode="electra", seed=1))
    assert not np.array_equal(rows, pack(documents, sequence_length=64, mode="electra", seed=2)[: len(rows)])
    full = rows[(rows != PAD_ID).sum(1) == 64]
    short = 1 - len(full) / len(rows)
    assert 0.02 < short < 0.09
    assert 0.05 < ((full == SEP_ID).sum(1) == 1).mean() < 0.16
    first = np.argmax(full[(full == SEP_ID).sum(1) == 2] == SEP_ID, axis=1) - 1
    assert (
        28 <= np.median(first) <= 32
    )  # lines of 4 stop below (64 − 3) // 2 = 30, or one random choice later


def test_electra_by_hand():
    # Target 13: A should have 5 ids; after [10, 11], 2 + 4 ids are too many in one of two random choices.
    rows = pack(
        [[[10, 11], [12, 13, 14, 15], [16, 17, 18, 19, 20, 21, 22]]],
        sequence_length=13,
        mode="electra",
        seed=3,
    )
    ids = list(range(10, 23))
    single = [1, *ids[:11], 2]
    split_at_two, split_at_six = [1, 10, 11, 2, *ids[2:10], 2], [1, *ids[:6], 2, *ids[6:10], 2]
    assert rows.shape == (1, 13) and rows[0].tolist() in (single, split_at_two, split_at_six)
    seen = {
        tuple(pack([[ids[:2], ids[2:6], ids[6:]]], sequence_length=13, mode="electra", seed=seed)[0])
        for seed in range(80)
    }
    assert seen == {tuple(single), tuple(split_at_two), tuple(split_at_six)}


def test_documents_by_hand():
    documents = [[[10, 11]], [[12]], [[13, 14, 15], [16, 17, 18, 19]]]
    rows = pack(documents, sequence_length=8, mode="documents", seed=0)
    np.testing.assert_array_equal(
        rows, [[1, 10, 11, 2, 1, 12, 2, 0], [1, 13, 14, 15, 16, 17, 18, 2], [1, 19, 2, 0, 0, 0, 0, 0]]
    )


def test_contiguous_by_hand():
    rows = pack([[[10], [11]], [], [[12]]], sequence_length=5, mode="contiguous", seed=0)
    np.testing.assert_array_equal(rows, [[1, 10, 11, 2, 2], [1, 12, 2, 0, 0]])


@settings(deadline=None, max_examples=50)
@given(
    DOCUMENTS,
    st.sampled_from(sorted(packing.PACKERS)),
    st.sampled_from([ELECTRA, SpecialIds(pad=70_001, cls=70_002, sep=70_003, unk=3, mask=70_004)]),
)
def test_rows_differ_only_in_the_special_ids(documents, mode, special):
    away = lambda row: [[[token + 200 for token in line] for line in document] for document in row]
    rows = pack(away(documents), sequence_length=16, mode=mode, seed=0)
    expected = np.select([rows == PAD_ID, rows == CLS_ID, rows == SEP_ID], special[:3], rows)
    np.testing.assert_array_equal(
        pack(away(documents), special, sequence_length=16, mode=mode, seed=0), expected
    )


@pytest.mark.parametrize(
    "arguments",
    [
        {"sequence_length": 2, "mode": "documents"},
        {"sequence_length": 8, "mode": "best"},
        {"sequence_length": 4, "mode": "electra"},
    ],
)
def test_errors_state_the_expected_value(arguments):
    with pytest.raises(ValueError, match="expected"):
        pack([[[5]]], seed=0, **arguments)
