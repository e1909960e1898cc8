"""Rows are whole, and no token is lost."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipelines.packing import pack
from data_pipelines.tokenizer import CLS_ID, PAD_ID, SEP_ID

DOCUMENTS = st.lists(st.lists(st.integers(5, 60_000), max_size=40), min_size=1, max_size=200)


@settings(deadline=None, max_examples=50)
@given(DOCUMENTS, st.integers(3, 20), st.sampled_from(["contiguous", "documents"]))
def test_no_token_is_lost_and_rows_are_well_formed(documents, length, mode):
    rows = pack(documents, sequence_length=length, mode=mode)
    assert rows.shape[1] == length
    special = (PAD_ID, CLS_ID, SEP_ID)
    kept = [int(token) for token in rows.ravel() if token not in special]
    given_tokens = [token for document in documents for token in document]
    assert (kept if mode == "contiguous" else sorted(kept)) == (
        given_tokens if mode == "contiguous" else sorted(given_tokens))
    for row in rows:
        filled = np.flatnonzero(row != PAD_ID)
        assert row[0] == CLS_ID and row[filled[-1]] == SEP_ID
        assert (np.diff(filled) == 1).all()  # padding only at the end


def test_documents_by_hand():
    rows = pack([[10, 11], [12], [13, 14, 15, 16, 17, 18, 19]], sequence_length=8, mode="documents")
    np.testing.assert_array_equal(
        rows, [[1, 10, 11, 2, 1, 12, 2, 0], [1, 13, 14, 15, 16, 17, 18, 2], [1, 19, 2, 0, 0, 0, 0, 0]])


def test_contiguous_by_hand():
    rows = pack([[10, 11], [12]], sequence_length=5, mode="contiguous")
    np.testing.assert_array_equal(rows, [[1, 10, 11, 2, 2], [1, 12, 2, 0, 0]])


@pytest.mark.parametrize("arguments", [{"sequence_length": 2, "mode": "documents"}, {"sequence_length": 8, "mode": "best"}])
def test_errors_say_what_was_expected(arguments):
    with pytest.raises(ValueError, match="expected"):
        pack([[5]], **arguments)
