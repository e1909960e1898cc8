"""Every format returns its documents unchanged, and every defect is named or counted."""

import gzip
import json
import logging

import numpy as np
import pyarrow
import pytest
import tensorflow_datasets as tfds
import zstandard
from pyarrow import parquet

from data_pipelines import document_bytes, documents
from data_pipelines.documents import ReadReport, read_documents, read_pieces


def _write(path, data):
    path.write_bytes(data)
    return str(path)


@pytest.mark.parametrize(
    ("document_separator", "documents"),
    [
        ("blank_line", ["one\ntwo", "three\nfour"]),
        ("line", ["one", "two", "three", "four"]),
        ("file", ["one\ntwo\n\n\nthree\nfour"]),
    ],
)
@pytest.mark.parametrize("name", ["a.txt", "a.txt.gz", "a.jsonl"])
def test_what_ends_a_document_of_a_text_file_can_be_chosen(tmp_path, name, document_separator, documents):
    text = "one\ntwo\n\n \nthree\nfour\n"
    if name == "a.jsonl":  # where a record is a document
        text, documents = json.dumps({"text": text}), [text.strip()]
    data = text.encode()
    (tmp_path / name).write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    sources = [str(tmp_path / name)] * 2
    read = list(read_documents(sources, document_separator=document_separator))
    assert [document.replace(" ", "") for document in read] == [
        document.replace(" ", "") for document in documents
    ] * 2


def test_an_unknown_separator_is_an_error():
    with pytest.raises(ValueError, match="got 'tab', expected one of blank_line, line, file"):
        read_documents([], document_separator="tab")


def test_blank_lines_end_text_documents(tmp_path):
    source = _write(tmp_path / "a.txt", b"\n\none\ntwo\r\n  \n\nthree \xc3\xa9\n")
    report = ReadReport()
    assert list(read_documents([source], report=report)) == ["one\ntwo", "three é"]
    assert (report.documents, report.characters) == (2, 14)


@pytest.mark.parametrize("block", [1, 2, 3, 7])
def test_documents_do_not_depend_on_the_block_size(tmp_path, monkeypatch, block):
    source = _write(tmp_path / "a.txt", "aé ☃ b\r\nzwei\r\n\n \nüber 😀\n\n\nend".encode())
    monkeypatch.setattr(document_bytes, "BLOCK_BYTES", block)
    assert list(read_documents([source])) == ["aé ☃ b\nzwei", "über 😀", "end"]


@pytest.mark.parametrize("block", [4, 1 << 20])
def test_long_documents_are_cut_at_whitespace_without_losing_words(tmp_path, monkeypatch, block):
    for module in (documents, document_bytes):
        monkeypatch.setattr(module, "BLOCK_BYTES", block)
    words = [f"word{i}" for i in range(200)]
    source = _write(tmp_path / "a.txt", " ".join(words).encode())
    report = ReadReport()
    got = list(read_documents([source], max_document_chars=50, report=report))
    assert " ".join(got).split() == words
    assert max(map(len, got)) <= 50 and report.cut == len(got) - 1 > 10


@pytest.mark.parametrize("block", [4, 1 << 20])
def test_long_documents_are_cut_after_sentences(tmp_path, monkeypatch, block):
    for module in (documents, document_bytes):
        monkeypatch.setattr(module, "BLOCK_BYTES", block)
    text = 'One two three. Four (or 4.5) five! "Six seven?" Eight nine ten eleven twelve thirteen. End'
    source = _write(tmp_path / "a.txt", text.encode())
    got = list(read_documents([source], max_document_chars=35))
    assert got == [
        "One two three. Four (or 4.5) five!",
        '"Six seven?" Eight nine ten eleven',  # the sentence ends in the first half of 35 characters
        "twelve thirteen. End",
    ]
    japanese = _write(tmp_path / "b.txt", "猫がいる。犬がいる。鳥もいるかもしれない".encode())
    assert list(read_documents([japanese], max_document_chars=12)) == [
        "猫がいる。犬がいる。",
        "鳥もいるかもしれない",
    ]


def test_a_line_without_whitespace_is_cut_anyway(tmp_path):
    source = _write(tmp_path / "a.txt", b"x" * 25)
    assert [len(d) for d in read_documents([source], max_document_chars=10)] == [10, 10, 5]


@pytest.mark.parametrize("name", ["a.txt", "a.jsonl"])
def test_invalid_utf8(tmp_path, name):
    lines = [b"good", b"b\xffd", b"fine"]
    data = b"\n\n".join(lines) if name == "a.txt" else b"\n".join(b'{"text": "%s"}' % line for line in lines)
    source = _write(tmp_path / name, data)
    where = f"{source}:{3 if name == 'a.txt' else 2}"
    with pytest.raises(ValueError, match=f"{where}: not valid UTF-8"):
        list(read_documents([source]))
    for mode, expected in (("skip", ["good", "fine"]), ("replace", ["good", "b\ufffdd", "fine"])):
        report = ReadReport()
        assert list(read_documents([source], on_invalid_utf8=mode, report=report)) == expected
        assert (report.invalid_utf8, report.first_invalid) == (1, where)


def test_lone_surrogates_in_json_are_invalid_text(tmp_path):
    source = _write(tmp_path / "a.jsonl", b'{"text": "a\\ud800b"}\n')
    with pytest.raises(ValueError, match=r"a\.jsonl:1: not valid UTF-8"):
        list(read_documents([source]))
    assert list(read_documents([source], on_invalid_utf8="replace")) == ["a\ufffdb"]


def test_jsonl_defects_are_named(tmp_path):
    for data, message in (
        (b'{"text": "a"}\n{"te', r"a\.jsonl:2: not valid JSON"),
        (b'{"body": "a"}', r"a\.jsonl:1: no field 'text', found 'body'"),
        (b'{"text": 3}', "is a whole number, expected a string"),
        (b"[1]", "got a list"),
        (b"null", "got null, expected an object"),
        (b'{"text": "a"}\n{"text": ["b"]}', r"a\.jsonl:2: field 'text' is a list, expected a string"),
        (b'{"text": "a", "more": ' + b"[" * 100_000, r"a\.jsonl:1: not valid JSON"),
    ):
        source = _write(tmp_path / "a.jsonl", data)
        with pytest.raises(ValueError, match=message):
            list(read_documents([source]))


def test_compressed_files(tmp_path):
    data = "".join(json.dumps({"text": text}) + "\n" for text in ("one", "", "zwölf")).encode()
    report = ReadReport()
    sources = [
        _write(tmp_path / "a.jsonl.gz", gzip.compress(data)),
        _write(tmp_path / "b.jsonl.zst", zstandard.compress(data)),
        _write(tmp_path / "c.txt.zst", zstandard.compress(b"three")),
    ]
    assert list(read_documents(sources, report=report)) == ["one", "zwölf", "one", "zwölf", "three"]
    assert report.skipped_empty == 2
    damaged = _write(tmp_path / "d.txt.gz", gzip.compress(data)[:-12])
    with pytest.raises(ValueError, match=r"d\.txt\.gz: damaged"):
        list(read_documents([damaged]))


def test_a_parquet_file_with_a_wrong_byte_is_read_or_refused_by_name(tmp_path):
    """A wrong byte made pyarrow end the process, a name that is no text an error without the file's name."""
    path = tmp_path / "a.parquet"
    parquet.write_table(pyarrow.table({"text": ["one document", "another"]}), path)
    content, messages = path.read_bytes(), set()
    for place, byte in enumerate(content):
        for wrong in {0, byte ^ 1, byte ^ 128} - {byte}:
            path.write_bytes(content[:place] + bytes([wrong]) + content[place + 1 :])
            try:
                list(read_documents([str(path)]))
            except ValueError as error:
                assert str(path) in str(error), (place, wrong)
                messages.add(str(error).removeprefix(f"{path}: "))
    assert (
        "got 2 rows in its groups, expected 0, as its description says; the file is damaged, fetch it again"
        in messages
    )
    assert any("can't decode byte" in message for message in messages)


def test_parquet(tmp_path):
    source = str(tmp_path / "a.parquet")
    parquet.write_table(pyarrow.table({"text": ["one", None, "zwölf"], "id": [1, 2, 3]}), source)
    assert list(read_documents([source])) == ["one", "zwölf"]
    with pytest.raises(ValueError, match="column 'id' is int64"):
        list(read_documents([source], text_field="id"))
    with pytest.raises(ValueError, match="no field 'body', found 'text', 'id'"):
        list(read_documents([source], text_field="body"))


class Sentences(tfds.core.GeneratorBasedBuilder):
    """A TensorFlow Dataset of a text and a label."""

    VERSION = tfds.core.Version("1.0.0")
    texts = {"train": ["one", "zwölf ☃\nthree", "  ", "four"], "test": ["held out", b"b\xffd"]}

    def _info(self):
        features = tfds.features.FeaturesDict(
            {"text": tfds.features.Text(), "label": tfds.features.Scalar(np.int32)}
        )
        return tfds.core.DatasetInfo(builder=self, features=features, disable_shuffling=True)

    def _split_generators(self, _):
        return {
            split: enumerate({"text": text, "label": 7} for text in texts)
            for split, texts in self.texts.items()
        }

    def _generate_examples(self):
        raise NotImplementedError


@pytest.fixture(scope="module")
def sentences(tmp_path_factory):
    logging.getLogger("absl").setLevel(logging.ERROR)
    builder = Sentences(data_dir=tmp_path_factory.mktemp("tfds"), file_format="array_record")
    builder.download_and_prepare(download_config=tfds.download.DownloadConfig(num_shards=2))
    return f"tfds:{builder.data_path}"


def test_tensorflow_datasets(sentences):
    report = ReadReport()
    expected = ["one", "zwölf ☃\nthree", "four"]
    assert (
        list(read_documents([sentences, f"{sentences}@train[1:]"], report=report)) == expected + expected[1:]
    )
    assert (report.documents, report.skipped_empty) == (5, 2)
    with pytest.raises(ValueError, match="test: example 1: not valid UTF-8"):
        list(read_documents([f"{sentences}@test"]))
    assert list(read_documents([f"{sentences}@test"], on_invalid_utf8="skip")) == ["held out"]
    assert list(read_documents([f"{sentences}@test"], on_invalid_utf8="replace")) == ["held out", "b\ufffdd"]


def test_the_number_of_a_record_counts_those_without_text(sentences, tmp_path):
    """So that other fields of the source can be joined."""
    long = "long " * 100
    values = ["one", None, "", "x" * 2000, long, "last"]
    lines = [json.dumps({"text": value}) for value in values]
    lines[3:3] = ["", json.dumps({"id": 3})]  # lines 4 and 5
    jsonl = _write(tmp_path / "a.jsonl", "\n".join(lines).encode())
    table = str(tmp_path / "a.parquet")
    parquet.write_table(pyarrow.table({"text": values}), table)
    text = _write(tmp_path / "a.txt", f"\n\none\n\n{long}\n\n\nlast".encode())
    for source, numbers in (
        (jsonl, {"one": 1, long: 7, "last": 8}),
        (table, {"one": 1, long: 5, "last": 6}),
        (text, {"one": 1, long: 2, "last": 3}),
        (sentences, {"one": 1, "zwölf ☃\nthree": 2, "four": 4}),
    ):
        pieces = list(read_pieces([source], max_document_chars=300, max_record_bytes=1000))
        assert {piece.record: piece.text for piece in pieces if piece.is_first} == {
            number: text[:300].strip() for text, number in numbers.items()
        }
        assert len(pieces) == 3 + (long in numbers)


def test_tensorflow_datasets_that_cannot_be_read(sentences, tmp_path):
    for source, message in (
        (f"{sentences}@dev", "no split 'dev', found train, test"),
        (f"tfds:{tmp_path}", "cannot be read .*already prepared with file_format='array_record'"),
    ):
        with pytest.raises(ValueError, match=message):
            list(read_documents([source]))
    for field, message in (
        ("body", "no field 'body', found 'label', 'text'"),
        ("label", "field 'label' is a .*, expected a string"),
    ):
        with pytest.raises(ValueError, match=f"example 0: {message}"):
            list(read_documents([sentences], text_field=field))


def test_sources_are_checked_before_reading(tmp_path):
    with pytest.raises(FileNotFoundError, match="does not exist"):
        read_documents([str(tmp_path / "none.txt")])
    with pytest.raises(ValueError, match="unknown source format"):
        read_documents(["a.csv"])
    with pytest.raises(TypeError, match="expected a list"):
        read_documents("a.txt")
