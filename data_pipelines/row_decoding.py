"""Token ids of many records at once. Each record is a serialised tf.train.Example with the one feature
"input_ids", as the builder writes it; the ids are variable-length integers at its end.

The format is that of protocol buffers (https://protobuf.dev/programming-guides/encoding). A record is nested
messages, each of which ends where the record ends:

    0A LENGTH  Example.features                     0A LENGTH  Features.feature, an entry of a map
    0A 09 "input_ids"  the key of the entry         12 LENGTH  its value, a Feature
    1A LENGTH  Feature.int64_list                   0A LENGTH  Int64List.value: the ids

Shapes: n records, L ids of a row.
"""

from collections.abc import Iterator, Sequence

import numpy as np

FEATURE = "input_ids"
_KEY = bytes([0x0A, len(FEATURE), *FEATURE.encode()])
_HEADS = (b"\x0a", b"\x0a", _KEY + b"\x12", b"\x1a", b"\x0a")  # each stands before a LENGTH
_MAX_BYTES = 4  # of an id or a length: 28 bits
_NO_LENGTH = np.iinfo(np.int64).min  # no place is so far from the end of its record
BLOCK_BYTES = 1 << 21  # of records that are decoded together, which takes some 20 times that of memory


def decode_rows(records: Sequence[bytes], length: int, dtype: np.dtype) -> np.ndarray | None:
    """The ids [n, L] of records.

    Args:
      length: L.
      dtype: of the result.

    Returns:
      None if a record is not written as above, has another number of ids, or one that `dtype` does not hold.
    """
    ids_nL = np.empty((len(records), length), dtype)
    for block in _blocks(records):
        ids = _decode_block(records[block], length, dtype)
        if ids is None:
            return None
        ids_nL[block] = ids
    return ids_nL


def _blocks(records: Sequence[bytes]) -> Iterator[slice]:
    """Neighbours of BLOCK_BYTES and one record at most."""
    start = size = 0
    for number, record in enumerate(records):
        if size >= BLOCK_BYTES:
            yield slice(start, number)
            start, size = number, 0
        size += len(record)
    if records:
        yield slice(start, len(records))


def _decode_block(records: Sequence[bytes], length: int, dtype: np.dtype) -> np.ndarray | None:
    """As `decode_rows`, of one record or more."""
    sizes_n = np.fromiter(map(len, records), np.int64, len(records))
    heads = _head_sizes(records, sizes_n)
    if heads is None or (heads >= sizes_n).any():
        return None
    packed = b"".join([record[head:] for record, head in zip(records, heads.tolist(), strict=True)])
    data, stops = np.frombuffer(packed, np.uint8), np.cumsum(sizes_n - heads)
    is_last = data < 0x80  # all bytes of an integer but its last have the highest bit
    in_record = np.add.reduceat(is_last, stops - (sizes_n - heads), dtype=np.int64)
    if (in_record != length).any() or not is_last[stops - 1].all():
        return None
    ids = _integers(data, is_last)
    if ids is None or ids.max() > np.iinfo(dtype).max:
        return None
    return ids.reshape(-1, length)


def _head_sizes(records: Sequence[bytes], sizes_n: np.ndarray) -> np.ndarray | None:
    """Number of bytes before the ids of each record [n]; None for records of another form."""
    data = np.frombuffer(b"".join(records), np.uint8)
    stops = np.cumsum(sizes_n)
    starts = stops - sizes_n
    place = starts.copy()
    for head in _HEADS:
        for byte in head:
            if (place >= stops).any() or (data[place] != byte).any():
                return None
            place += 1
        found, place = _lengths(data, place, stops)
        if (place + found != stops).any():
            return None
    return place - starts


def _lengths(data: np.ndarray, place: np.ndarray, stops: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The integers at `place` [n], _NO_LENGTH where one is too long or beyond `stops`, and the places behind
    them."""
    value, is_open = np.zeros_like(place), np.ones(len(place), bool)
    for number in range(_MAX_BYTES):
        byte = data[np.minimum(place, len(data) - 1)].astype(np.int64)
        value += np.where(is_open, (byte & 0x7F) << (7 * number), 0)
        place = place + is_open
        is_open &= byte >= 0x80
        if not is_open.any():
            break
    return np.where(is_open | (place > stops), _NO_LENGTH, value), place


def _integers(data: np.ndarray, is_last: np.ndarray) -> np.ndarray | None:
    """The integers in `data`, whose last bytes are marked; None if one has more than _MAX_BYTES bytes."""
    more, digits = ~is_last, (data & 0x7F).astype(np.uint32)
    # From every byte on, the lowest digit first: one pass for each digit that the longest integer has.
    values, is_longer = digits, more
    for number in range(1, _MAX_BYTES + 1):
        if not is_longer.any():
            break
        if number == _MAX_BYTES:
            return None
        values = np.append(values[1:] << np.uint32(7), np.uint32(0)) * more + digits
        is_longer = is_longer[:-1] & more[number:]
    return values[np.append(True, is_last[:-1])]
