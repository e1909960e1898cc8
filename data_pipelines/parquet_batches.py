"""How many rows of a Parquet file are read at a time, so that a small file does not fill the memory.

A value that occurs often may be stored once, in the dictionary of its column, and a few bytes can stand for
very many. A batch has every row's value in full.
"""

from collections.abc import Iterator, Sequence
from typing import Any

from data_pipelines.document_bytes import import_reader

PARQUET_ROWS, PARQUET_BYTES = 256, 1 << 29  # the most of a batch
# In which the values of a column have together at most the column's size, but for those of a dictionary.
PLAIN = {"PLAIN", "RLE", "BIT_PACKED", "DELTA_LENGTH_BYTE_ARRAY", "BYTE_STREAM_SPLIT"}
DICTIONARY = {"RLE_DICTIONARY", "PLAIN_DICTIONARY"}


def parquet_batches(file: Any, source: str, field: str, others: Sequence[str] = ()) -> Iterator[Any]:
    """The rows of a column, at most PARQUET_ROWS at a time. A batch holds about PARQUET_BYTES of text, or one
    value; more if the values that are stored by themselves are longer there than on average, but never more
    of these than the column has in its row group.

    Args:
      file: the ParquetFile of `source`.
      others: columns that come with it, whose values are small.

    Raises:
      pyarrow.ArrowException, OSError: the file is damaged.
    """
    for group in range(file.metadata.num_row_groups):
        rows = _rows_at_once(file, source, field, group)
        yield from file.iter_batches(batch_size=rows, row_groups=[group], columns=[field, *others])


def _rows_at_once(file: Any, source: str, field: str, group: int) -> int:
    # pyarrow ends the process where a column's description is damaged, unless it is about to read the column.
    next(file.iter_batches(batch_size=1, row_groups=[group], columns=[field]), None)
    described = file.metadata.row_group(group)
    paths = [file.schema.column(number).path for number in range(len(file.schema))]
    columns = [described.column(number) for number, path in enumerate(paths) if path == field]
    longest = max([1, *(column.total_uncompressed_size for column in columns)])  # of any value
    if PARQUET_BYTES // longest < PARQUET_ROWS:
        encodings = {encoding for column in columns for encoding in column.encodings}
        mean = max(1, -(-longest // max(1, described.num_rows)))
        if encodings <= PLAIN:
            longest = mean
        elif encodings <= PLAIN | DICTIONARY:
            longest = max(mean, _longest_in_dictionary(source, field, group) or longest)
    return max(1, min(PARQUET_ROWS, PARQUET_BYTES // longest))


def _longest_in_dictionary(source: str, field: str, group: int) -> int:
    """Bytes of the longest value in the dictionary of a row group, which has one at most; 0 if the first row
    does not tell.

    Read as a dictionary, the first row comes with all values that are stored once, if it is stored so.
    """
    arrow, parquet = import_reader("pyarrow", source), import_reader("pyarrow.parquet", source)
    with parquet.ParquetFile(source, read_dictionary=[field]) as file:
        row = next(file.iter_batches(batch_size=1, row_groups=[group], columns=[field]), None)
    column = row and row.column(0)
    # A row outside of a dictionary would make a dictionary of one.
    if not isinstance(column, arrow.DictionaryArray) or len(column.dictionary) < 2:
        return 0
    compute = import_reader("pyarrow.compute", source)
    return compute.max(compute.binary_length(column.dictionary)).as_py()
