"""Many records decoded at once: the ids that TFDS reads from each, or nothing."""

import tracemalloc

import numpy as np
import pytest
import tensorflow_datasets as tfds
from array_record.python.array_record_module import ArrayRecordWriter
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipelines import row_decoding
from data_pipelines.record_files import RecordFiles
from data_pipelines.row_decoding import decode_rows
from data_pipelines.shards import row_features

# Around the ids at which one more byte is written.
IDS = st.one_of(
    st.integers(0, 130),
    st.integers(16_380, 16_390),
    st.integers(2_097_148, 2_097_156),
    st.integers(0, 2**28 - 1),
)


def serialised(rows, dtype=np.int32):
    features = row_features(len(rows[0]), dtype)
    return [features.serialize_example({"input_ids": np.asarray(row, dtype)}) for row in rows]


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_ids_are_those_that_were_written(data):
    length = data.draw(st.integers(1, 40))
    rows = data.draw(st.lists(st.lists(IDS, min_size=length, max_size=length), min_size=1, max_size=5))
    records = serialised(rows)
    ids = decode_rows(records, length, np.dtype(np.int32))
    assert ids.dtype == np.int32 and ids.tolist() == rows
    read = row_features(length, np.int32).deserialize_example_np(records[0])["input_ids"]
    assert read.tolist() == rows[0]


@pytest.mark.parametrize("length", [1, 20, 128, 3000])  # lengths of one byte and of two
def test_rows_of_any_length(length):
    rows = np.random.default_rng(0).integers(0, 2**16, (7, length)).astype(np.uint16)
    ids = decode_rows(serialised(rows, np.uint16), length, np.dtype(np.uint16))
    assert ids.dtype == np.uint16 and (ids == rows).all()
    assert decode_rows([], length, np.dtype(np.uint16)).shape == (0, length)


def of_features(**features):
    described = tfds.features.FeaturesDict(
        {name: tfds.features.Tensor(shape=value.shape, dtype=value.dtype) for name, value in features.items()}
    )
    return described.serialize_example(features)


ROW = np.arange(100, 108, dtype=np.int64)
RECORD = of_features(input_ids=ROW)


OTHERS = {
    "another name": of_features(other_ids=ROW),
    "two features": of_features(input_ids=ROW, more=ROW),
    "too few ids": of_features(input_ids=ROW[:7]),
    "too many ids": of_features(input_ids=np.append(ROW, ROW)),
    "floats": of_features(input_ids=ROW.astype(np.float32)),
    "negative ids": of_features(input_ids=-ROW),
    "ids of five bytes": of_features(input_ids=ROW + 2**28),
    "ids beyond the type of the result": of_features(input_ids=ROW + 2**16),
    "no ids": of_features(input_ids=ROW[:0]),
    **{f"the first {size} bytes": RECORD[:size] for size in range(len(RECORD))},
    "a byte too many": RECORD + b"\0",
    "two records": RECORD + RECORD,
    "an open last id": RECORD[:-1] + b"\x80",
    "no record": b"\xff" * 40,
}


# By name: records of two features are written in any order.
@pytest.mark.parametrize("name", OTHERS)
def test_records_of_another_form_are_left_to_others(name):
    record = OTHERS[name]
    good = of_features(input_ids=ROW)
    assert decode_rows([good, good], 8, np.dtype(np.uint16)).tolist() == [ROW.tolist()] * 2
    for records in ([record], [good, record], [record, good], [good, record, good]):
        assert decode_rows(records, 8, np.dtype(np.uint16)) is None


@pytest.mark.parametrize("ending", [b"\x0a\x80", b"\x0a\xff\xff", b"\x0a"])
def test_a_last_length_without_its_end(ending):
    """The lengths before it are right; what follows it is of the next record."""
    value = b"\x1a" + bytes([len(ending)]) + ending
    entry = b"\x0a\x09input_ids\x12" + bytes([len(value)]) + value
    features = b"\x0a" + bytes([len(entry)]) + entry
    bad = b"\x0a" + bytes([len(features)]) + features
    for records in ([bad], [bad, RECORD], [RECORD, bad], [bad, bad], [RECORD, bad, RECORD]):
        assert decode_rows(records, 8, np.dtype(np.uint16)) is None


@pytest.mark.parametrize("block_bytes", [1, 1000, 1 << 20])
def test_records_are_decoded_in_blocks(block_bytes, monkeypatch):
    monkeypatch.setattr(row_decoding, "BLOCK_BYTES", block_bytes)
    rows = np.random.default_rng(0).integers(0, 2**16, (50, 128)).astype(np.uint16)
    records = serialised(rows, np.uint16)
    assert (decode_rows(records, 128, np.dtype(np.uint16)) == rows).all()
    assert decode_rows([*records[:40], RECORD, *records[40:]], 128, np.dtype(np.uint16)) is None


def test_memory_does_not_grow_with_the_records():
    """In addition to the result."""
    records = serialised(np.full((1, 1024), 2**16 - 1, np.uint16), np.uint16) * 8192  # 25 MB
    tracemalloc.start()
    try:
        ids = decode_rows(records, 1024, np.dtype(np.uint16))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert (ids == 2**16 - 1).all() and peak < ids.nbytes + 50 * row_decoding.BLOCK_BYTES // 2, peak


def test_records_of_several_files_by_number(tmp_path):
    ends, files, written = [], [], []
    for number, size in enumerate((3, 1, 4)):
        files.append(str(tmp_path / f"{number}.array_record"))
        writer = ArrayRecordWriter(files[-1], "group_size:1")
        for place in range(size):
            written.append(f"record {place} of file {number}".encode())
            writer.write(written[-1])
        writer.close()
        ends.append(len(written))
    records = RecordFiles(files, ends)
    for rows in ([7, 0, 3, 3, 2, 4], [5], [], list(range(8))):
        assert records.read(rows) == [written[row] for row in rows]
    assert RecordFiles(files[:1], ends[:1]).read([2, 0]) == [written[2], written[0]]
