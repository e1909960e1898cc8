"""Records and lines that are longer than anybody means: passed over and counted, in bounded memory."""

import gzip
import json
import tracemalloc

import pyarrow
import pytest
import zstandard
from pyarrow import parquet

from data_pipelines import parquet_batches
from data_pipelines.corpus_settings import CorpusSettings
from data_pipelines.documents import ReadReport, read_documents
from data_pipelines.tasks import text_files, unlabelled
from data_pipelines.tasks.files import table_rows

MIB = 1 << 20


def read(source, **options):
    report = ReadReport()
    return list(read_documents([str(source)], report=report, **options)), report


@pytest.mark.parametrize("ending", ["jsonl", "jsonl.gz", "jsonl.zst"])
def test_a_line_that_is_too_long_is_passed_over(ending, tmp_path):
    lines = [json.dumps({"text": text}) for text in ("one", "x" * 5000, "two", "y" * 4000, "three")]
    data = "\n".join(lines).encode()
    compress = {"jsonl": bytes, "jsonl.gz": gzip.compress, "jsonl.zst": zstandard.compress}[ending]
    source = tmp_path / f"a.{ending}"
    source.write_bytes(compress(data))
    documents, report = read(source, max_record_bytes=3000)
    assert documents == ["one", "two", "three"] and (report.too_long, report.documents) == (2, 3)
    assert report.first_too_long == f"{source}:2 ({len(lines[1]):,} bytes)"
    [line] = report.lines("error")
    assert line.startswith("2 records passed over (--max_record_bytes)") and f"{source}:2" in line
    assert read(source)[1].too_long == 0
    assert read(source, max_record_bytes=len(lines[1]))[1].too_long == 0


@pytest.mark.parametrize("ending", ["gz", "zst"])
def test_a_line_of_a_quarter_of_a_gigabyte_takes_little_memory(ending, tmp_path):
    source = tmp_path / f"bomb.jsonl.{ending}"
    if ending == "gz":
        with gzip.open(source, "wb", 1) as file:
            file.write(b'{"text": "')
            for _ in range(256):
                file.write(b" a" * (MIB // 2))
            file.write(b'"}\n{"text": "end"}\n')
    else:
        with open(source, "wb") as file, zstandard.ZstdCompressor(1).stream_writer(file) as writer:
            writer.write(b'{"text": "')
            for _ in range(256):
                writer.write(b" a" * (MIB // 2))
            writer.write(b'"}\n{"text": "end"}\n')
    assert source.stat().st_size < 2 * MIB
    tracemalloc.start()
    try:
        documents, report = read(source, max_record_bytes=8 * MIB)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert documents == ["end"] and report.too_long == 1 and peak < 150 * MIB, peak


def test_long_values_of_parquet_are_passed_over(tmp_path, monkeypatch):
    source = tmp_path / "a.parquet"
    parquet.write_table(pyarrow.table({"text": ["one", "x" * 5000, None, "two"]}), source)
    documents, report = read(source, max_record_bytes=3000)
    assert documents == ["one", "two"] and (report.too_long, report.skipped_empty) == (1, 1)
    assert report.first_too_long == f"{source}: row 2 (5,000 bytes)"
    # Stored once, and in memory once for each row of a batch.
    column = pyarrow.array(["ab " * 100_000] * 600)
    parquet.write_table(pyarrow.table({"text": column}), source, row_group_size=200, store_schema=False)
    assert source.stat().st_size < MIB
    monkeypatch.setattr(parquet_batches, "PARQUET_BYTES", 4 * MIB)
    pyarrow.default_memory_pool().release_unused()
    tracemalloc.start()
    try:
        count = sum(1 for _ in read_documents([str(source)]))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert count == 600 and peak < 20 * MIB, peak  # a batch of 256 has 77 MiB


@pytest.mark.parametrize("options", [{}, {"use_dictionary": False}, {"dictionary_pagesize_limit": 2000}])
@pytest.mark.parametrize("store_schema", [True, False])
def test_a_large_row_group_is_read_many_rows_at_a_time(options, store_schema, tmp_path, monkeypatch):
    """Its values are short, also where some are in a dictionary and others are not."""
    source, texts = tmp_path / "a.parquet", [f"text {number % 2000}" for number in range(3000)]
    table = pyarrow.table({"text": pyarrow.array(texts)})
    parquet.write_table(table, source, store_schema=store_schema, **options)
    monkeypatch.setattr(parquet_batches, "PARQUET_BYTES", 8000)  # the column has more
    with parquet.ParquetFile(source) as file:
        sizes = [batch.num_rows for batch in parquet_batches.parquet_batches(file, str(source), "text")]
        assert file.metadata.row_group(0).column(0).total_uncompressed_size > 8000
    assert sum(sizes) == 3000 and len(sizes) == 12
    assert read(source)[0] == texts


@pytest.mark.parametrize("first", ["two", "x" * 300, None])
def test_long_values_that_are_stored_once_are_read_few_at_a_time(first, tmp_path, monkeypatch):
    source = tmp_path / "a.parquet"
    texts = [first, "one", *["x" * 300] * 98]
    parquet.write_table(pyarrow.table({"text": pyarrow.array(texts)}), source)
    monkeypatch.setattr(parquet_batches, "PARQUET_BYTES", 4000)
    monkeypatch.setattr(parquet_batches, "PARQUET_ROWS", 10**6)
    with parquet.ParquetFile(source) as file:
        batches = parquet_batches.parquet_batches(file, str(source), "text")
        assert next(batches).num_rows == 4000 // 300
    assert read(source)[0] == [text for text in texts if text]


@pytest.mark.parametrize("options", [{"use_dictionary": False}, {"dictionary_pagesize_limit": 200}])
def test_long_values_that_are_stored_by_themselves_are_read_few_at_a_time(options, tmp_path, monkeypatch):
    source, texts = tmp_path / "a.parquet", ["x" * 1000 + str(number) for number in range(200)]
    parquet.write_table(pyarrow.table({"text": pyarrow.array(texts)}), source, compression="none", **options)
    monkeypatch.setattr(parquet_batches, "PARQUET_BYTES", 20_000)
    with parquet.ParquetFile(source) as file:
        batches = list(parquet_batches.parquet_batches(file, str(source), "text"))
    assert max(batch.nbytes for batch in batches) <= 21_000
    assert len(batches) < 16 or options != {"use_dictionary": False}
    assert [text for batch in batches for text in batch.column(0).to_pylist()] == texts


def test_a_long_document_names_its_first_cut(tmp_path):
    source = tmp_path / "a.txt"
    source.write_text("word " * 100)
    documents, report = read(source, max_document_chars=50)
    assert len(documents) == report.cut + 1 and report.first_cut == str(source)
    assert report.lines("error")[-1].endswith(f"the first in {source}")


def test_the_limit_is_a_setting_of_a_dataset():
    settings = {
        "train": ["a"],
        "validation": ["b"],
        "tokenizer": "t",
        "sequence_length": 32,
        "packing": "documents",
    }
    assert "max_record_bytes" not in CorpusSettings(**settings).sources
    assert CorpusSettings(**settings, max_record_bytes=9).sources["max_record_bytes"] == 9
    with pytest.raises(ValueError, match="max_record_bytes: got 0, expected 1 or more"):
        CorpusSettings(**settings, max_record_bytes=0)
    report = ReadReport(too_long=2, first_too_long="a:1 (9 bytes)")
    error = CorpusSettings(**settings).no_text("train", report)
    assert "Passed over: 2 records of more than --max_record_bytes 67108864, the first a:1" in str(error)


def test_labelled_data_that_unfolds_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(text_files, "MAX_BYTES", 10_000)
    for name, compress in (("a.tsv.gz", gzip.compress), ("a.tsv", bytes)):
        path = tmp_path / name
        path.write_bytes(compress(b"x" * 20_000))
        with pytest.raises(ValueError, match=rf"{name}: got more than 10,000 bytes of text"):
            text_files.read_text(str(path))


def test_a_line_to_predict_that_is_too_long_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(unlabelled, "MAX_TEXT", 1000)
    path = tmp_path / "a.txt.gz"
    path.write_bytes(gzip.compress(b"short\n" + b"x" * 2000 + b"\n"))
    source = unlabelled.Source(str(path), "text")
    with pytest.raises(ValueError, match=r"a\.txt\.gz:2: got a line of more than 1,000 bytes"):
        list(unlabelled.read_unlabelled(source, unlabelled.Wanted("text", "")))


def test_a_long_text_in_csv_is_read(tmp_path):
    """Of more than 131,072 characters, the limit of Python's csv by default."""
    long, path = "word, " * 50_000, tmp_path / "a.csv"
    path.write_text(f'text,label\n"{long}",x\n')
    assert table_rows(str(path)) == [(1, ["text", "label"]), (2, [long, "x"])]
    source = unlabelled.Source(str(path), "csv")
    [found] = unlabelled.read_unlabelled(source, unlabelled.Wanted("text", ""))
    assert (found.text, found.where) == (long, f"{path}:2")
