"""Files as people have them: other encodings, line ends, compression and column types, and missing texts."""

import codecs
import gzip
import json

import numpy as np
import pyarrow
import pytest
import zstandard
from pyarrow import parquet

from data_pipelines import document_bytes, document_formats
from data_pipelines.documents import ReadReport, read_documents, source_bytes

TEXT = "tea pan\nbada\n\nsecond text\n"
DOCUMENTS = ["tea pan\nbada", "second text"]
LINES = [json.dumps({"text": document}) for document in DOCUMENTS]


def write(path, data):
    path.write_bytes(data)
    return str(path)


def read(*sources, **options):
    """The documents, and the report's counts of the text as a dictionary of what is not 0."""
    report = ReadReport()
    documents = list(read_documents([str(source) for source in sources], report=report, **options))
    return documents, {name: value for name, value in vars(report).items() if value and name != "bytes_read"}


@pytest.mark.parametrize("name", ["a.txt", "a.txt.gz", "a.jsonl.zst", "a.parquet"])
def test_all_bytes_of_a_file_are_counted(tmp_path, name):
    source = tmp_path / name
    documents = [f"document {number} " * 500 for number in range(600)]  # several blocks
    lines = "".join(json.dumps({"text": document}) + "\n" for document in documents).encode()
    if name.endswith(".parquet"):
        parquet.write_table(pyarrow.table({"text": documents}), source)
    elif ".jsonl" in name:
        write(source, zstandard.compress(lines))
    else:
        text = "\n\n".join(documents).encode()
        write(source, gzip.compress(text) if name.endswith(".gz") else text)
    report = ReadReport()
    counted = [report.bytes_read for _ in read_documents([str(source), str(source)], report=report)]
    assert len(counted) == 1200 and counted == sorted(counted)
    assert report.bytes_read == 2 * source.stat().st_size == source_bytes([str(source)] * 2)
    assert source_bytes([str(source), "tfds:x"]) is None


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be", "utf-16", "utf-32-le", "utf-32-be", "utf-32"])
@pytest.mark.parametrize("name", ["a.txt", "a.txt.gz", "a.jsonl"])
def test_wide_characters_are_refused(tmp_path, name, encoding):
    """Even if invalid lines are skipped: much of such a file is valid UTF-8."""
    data = ("".join(line + "\n" for line in LINES) if name == "a.jsonl" else TEXT).encode(encoding)
    source = write(tmp_path / name, gzip.compress(data) if name.endswith(".gz") else data)
    for on_invalid in ("error", "skip", "replace"):
        with pytest.raises(ValueError, match=r"a\.\S+: got text in UTF-16 or UTF-32, expected UTF-8.*iconv"):
            read(source, on_invalid_utf8=on_invalid)


def test_other_alphabets_in_utf_16_without_a_mark_are_refused(tmp_path):
    """All bytes of these texts are ASCII."""
    for text in ("при мер текст\n", "ข้อ ความ\n", "نص مثال\n", "a"):
        source = write(tmp_path / "a.txt", text.encode("utf-16-le"))
        with pytest.raises(ValueError, match="UTF-16"):
            read(source)


def test_single_nul_characters_stay_in_the_text(tmp_path):
    for text in ("a\0b c d", "one two\n\0 three four"):
        assert read(write(tmp_path / "a.txt", text.encode()))[0] == [text.strip()]


@pytest.mark.parametrize("end", ["\r", "\r\n", "\r\r\n"])
def test_line_ends(tmp_path, end):
    """ "\\r" alone is that of Mac OS up to 9, "\\r\\r\\n" that of files converted twice."""
    for text in (TEXT, TEXT.rstrip()):
        source = write(tmp_path / "a.txt", text.replace("\n", end).encode())
        assert [document.split() for document in read(source)[0]] == [one.split() for one in DOCUMENTS]
    source = write(tmp_path / "a.jsonl", "".join(line + end for line in LINES).encode())
    assert read(source)[0] == DOCUMENTS


def test_carriage_returns_within_lines_end_none(tmp_path):
    assert read(write(tmp_path / "a.txt", b"10 %\r\r20 %\r\rdone\nmore\n"))[0] == [
        "10 %\r\r20 %\r\rdone\nmore"
    ]
    assert read(write(tmp_path / "a.txt", b"one line\r"))[0] == ["one line"]


def test_marks_of_joined_files_are_no_text(tmp_path):
    mark = codecs.BOM_UTF8
    assert read(write(tmp_path / "a.txt", (mark + TEXT.encode() + mark + b"\n") * 2))[0] == DOCUMENTS * 2
    lines = "".join(line + "\n" for line in LINES).encode()
    assert read(write(tmp_path / "a.jsonl", (mark + lines) * 2 + mark))[0] == DOCUMENTS * 2


def test_empty_files_have_no_documents(tmp_path):
    compressed = {"c.txt.gz": gzip.compress(b""), "d.jsonl.zst": zstandard.compress(b"")}
    names = {
        "a.txt": b"",
        "b.jsonl": b"",
        "e.txt.gz": b"",
        "f.txt.zst": b"",
        "g.txt": b"\n \n\n",
        **compressed,
    }
    sources = [write(tmp_path / name, data) for name, data in names.items()]
    assert read(*sources) == ([], {})


# Without a time stamp, so that all processes that collect the tests give them the same names.
GZIP_OF_TEA = gzip.compress(b"tea", mtime=0)


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        (
            "a.txt",
            GZIP_OF_TEA,
            r"got gzip data, expected text in UTF-8; give it the ending \.gz",
        ),
        ("a.jsonl.gz", gzip.compress(GZIP_OF_TEA, mtime=0), "got gzip data"),
        ("a.jsonl", zstandard.compress(b"tea"), r"got Zstandard data, .* ending \.zst"),
        ("a.txt", b"PAR1....", r"got Parquet data, .* ending \.parquet"),
        ("a.txt", b"PK\3\4....", "got zip data, expected text in UTF-8; decompress it"),
        ("a.txt.gz", b"plain text\n", "damaged or cut-off .*correct its name if it is not compressed"),
        ("a.txt.zst", b"plain text\n", "damaged or cut-off .*correct its name if it is not compressed"),
        ("a.parquet", b"plain text\n", "not a Parquet file, or damaged"),
        ("a.parquet", b"", "not a Parquet file, or damaged"),
    ],
)
def test_endings_that_do_not_fit_the_contents(tmp_path, name, data, message):
    source = write(tmp_path / name, data)
    for on_invalid in ("error", "replace"):
        with pytest.raises(ValueError, match=f"{name}: {message}"):
            read(source, on_invalid_utf8=on_invalid)


def zstd_frame(text, **parameters):
    parameters = zstandard.ZstdCompressionParameters.from_level(3, **parameters)
    stream = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    return stream.compress(text.encode()) + stream.flush()


def test_zstandard_frames(tmp_path):
    """Several, skippable ones between them, and those of `zstd --long=31`, whose window is larger."""
    skippable = b"\x50\x2a\x4d\x18" + (4).to_bytes(4, "little") + b"none"
    frames = [
        zstd_frame("one\n\n"),
        skippable,
        zstd_frame("two\n\n", window_log=30),
        zstd_frame("thr"),
        zstd_frame("ee"),
    ]
    assert read(write(tmp_path / "a.txt.zst", b"".join(frames)))[0] == ["one", "two", "three"]


def test_zstandard_of_much_repetition_is_read_in_blocks(tmp_path):
    """A few bytes of the file expand to all repetitions."""
    data = np.random.default_rng(0).bytes(1 << 20).hex().encode() + b" tea" * 1_000_000
    blocks = list(document_bytes.text_blocks(write(tmp_path / "a.txt.zst", zstandard.compress(data))))
    assert b"".join(blocks) == data and max(map(len, blocks)) <= document_bytes.BLOCK_BYTES


@pytest.mark.parametrize("cut", [1, 5, 2_000])
def test_cut_off_compression_is_an_error(tmp_path, cut):
    """Also of Zstandard, which a plain reader takes for the end of the text."""
    text = "\n\n".join(f"document {number}" for number in range(20_000))
    for name, data in (("a.txt.gz", gzip.compress(text.encode())), ("a.txt.zst", zstd_frame(text))):
        with pytest.raises(ValueError, match=f"{name}: damaged or cut-off compressed data"):
            read(write(tmp_path / name, data[:-cut]))


@pytest.mark.parametrize("missing", ["null", "NaN", '""', '"  "'])
def test_missing_texts_are_empty_documents(tmp_path, missing):
    source = write(tmp_path / "a.jsonl", f'{{"text": {missing}}}\n{LINES[0]}\n'.encode())
    documents, report = read(source)
    assert documents == DOCUMENTS[:1] and report["skipped_empty"] == 1


@pytest.mark.parametrize("place", [0, 1])
def test_records_without_the_field_are_counted(tmp_path, place):
    lines = LINES[:]
    lines.insert(place, '{"title": "tea"}')
    source = write(tmp_path / "a.jsonl", "\n".join(lines).encode())
    documents, report = read(source)
    where = f"{source}:{place + 1}"
    assert documents == DOCUMENTS and (report["without_field"], report["first_without_field"]) == (1, where)
    [line] = ReadReport(**report).lines("error")
    assert line == f"1 records without the text field skipped; the first: {where}"


def test_a_field_that_no_record_has_is_an_error(tmp_path, monkeypatch):
    other = b'{"title": "tea"}\n'
    source = write(tmp_path / "a.jsonl", b"\n" + other * 9)
    words = r"a\.jsonl:2: no field 'text', found 'title'; name .* --text_field"
    with pytest.raises(ValueError, match=words):
        read(source)
    monkeypatch.setattr(document_formats, "RECORDS_WITHOUT_FIELD", 5)  # it does not read on for ever
    with pytest.raises(ValueError, match=words):
        read(write(tmp_path / "a.jsonl", b"\n" + other * 5 + b"{damaged"))


@pytest.mark.parametrize(
    "column_type",
    [
        pyarrow.string(),
        pyarrow.large_string(),
        pyarrow.binary(),
        pyarrow.large_binary(),
        pyarrow.string_view(),
        pyarrow.binary_view(),
        pyarrow.dictionary(pyarrow.int32(), pyarrow.string()),
        pyarrow.dictionary(pyarrow.int8(), pyarrow.large_string()),
    ],
    ids=str,
)
def test_columns_of_strings_of_any_type(tmp_path, column_type):
    source = tmp_path / "a.parquet"
    column = pyarrow.array(["one", None, "zwölf", "one"], pyarrow.string()).cast(column_type)
    parquet.write_table(pyarrow.table({"text": column}), source)
    documents, report = read(source)
    assert documents == ["one", "zwölf", "one"] and report["skipped_empty"] == 1


def test_other_columns(tmp_path):
    source = tmp_path / "a.parquet"
    parquet.write_table(pyarrow.table({"text": pyarrow.nulls(3)}), source)
    assert read(source) == ([], {"skipped_empty": 3})
    for values, name in (([1, 2], "int64"), ([["a"], ["b"]], "list<.*>"), ([{"a": "b"}], "struct<.*>")):
        parquet.write_table(pyarrow.table({"text": values}), source)
        with pytest.raises(ValueError, match=rf"a\.parquet: column 'text' is {name}, expected string"):
            read(source)


def test_columns_with_similar_names(tmp_path):
    """Parquet also takes "a.b" for the field "b" of "a"."""
    source = tmp_path / "a.parquet"
    parquet.write_table(pyarrow.table({"a": [{"b": "other"}], "a.b": ["tea"]}), source)
    assert read(source, text_field="a.b")[0] == ["tea"]
    columns = [pyarrow.array([text]) for text in ("tea", "pan")]
    parquet.write_table(pyarrow.Table.from_arrays(columns, names=["text", "text"]), source)
    with pytest.raises(ValueError, match=r"a\.parquet: got several columns 'text', expected one"):
        read(source)


def test_a_damaged_parquet_file_is_named(tmp_path):
    source = tmp_path / "a.parquet"
    parquet.write_table(pyarrow.table({"text": [f"text {number}" for number in range(3000)]}), source)
    data = bytearray(source.read_bytes())
    data[4:300] = bytes(296)
    source.write_bytes(data)
    with pytest.raises(ValueError, match=r"a\.parquet: not a Parquet file, or damaged"):
        read(source)


def test_sources_that_are_no_files(tmp_path):
    for name in ("a.jsonl", "folder"):
        (tmp_path / name).mkdir()
        with pytest.raises(
            FileNotFoundError, match=f"{name}: is a directory, expected a file; give the files"
        ):
            read(tmp_path / name)
    with pytest.raises(FileNotFoundError, match=r"\*\.txt: does not exist, .*a pattern that no file matches"):
        read(tmp_path / "*.txt")


def test_a_file_that_vanishes_is_named(tmp_path):
    for name, data in (("a.txt", b"tea"), ("a.jsonl", LINES[0].encode()), ("a.parquet", b"")):
        documents = read_documents([write(tmp_path / name, data)])
        (tmp_path / name).unlink()
        with pytest.raises(FileNotFoundError, match=name):
            list(documents)


def test_reports_of_parts_add_up():
    total = ReadReport(documents=1, characters=2, first_invalid="a:1")
    total.add(
        ReadReport(documents=2, characters=5, invalid_utf8=1, first_invalid="b:1", first_without_field="b:2")
    )
    assert total == ReadReport(3, 7, invalid_utf8=1, first_invalid="a:1", first_without_field="b:2")
