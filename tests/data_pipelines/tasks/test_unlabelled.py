"""Inputs without labels: every format in order, bounded memory, errors that name the line and the flag."""

import gzip
import io
import itertools
import json

import pytest

from data_pipelines.tasks import unlabelled
from data_pipelines.tasks.unlabelled import Source, Wanted, count_inputs, find_format, read_unlabelled
from support.task_settings import COLUMNS, CONLLU, write

TEXT, PAIR = Wanted("text", ""), Wanted("one", "two")
WORDS = Wanted("text", "", has_words=True)


def read(path, wanted=TEXT, given="", tagging=False):
    return list(read_unlabelled(Source(path, find_format(path, given, tagging=tagging)), wanted))


def texts(path, *arguments, **choices):
    return [(one.text, one.pair) for one in read(path, *arguments, **choices)]


def test_each_line_of_text_is_an_input(tmp_path):
    """Blank lines too, so that line n of the output belongs to line n of the input."""
    path = write(tmp_path / "a.txt", "\ufeffone\n\ntwo \x0b\u2028three\r\nlast")
    assert texts(path) == [("one", None), ("", None), ("two \x0b\u2028three", None), ("last", None)]
    assert [one.where for one in read(path)] == [f"{path}:{number}" for number in range(1, 5)]
    assert count_inputs(Source(path, "text"), TEXT) == 4


def test_tables_are_read_by_name_and_by_number(tmp_path):
    tsv = write(tmp_path / "a.tsv", 'label\ttwo\tone\nx\tb "\ta\n\ny\td\tc\n')
    assert texts(tsv, PAIR) == [("a", 'b "'), ("c", "d")]
    for ends in ("\n", "\r\n", "\r"):
        three = write(tmp_path / "c.csv", f"one,two{ends}a,b{ends}c,d{ends}e,f")
        assert len(texts(three, PAIR)) == count_inputs(Source(three, "csv"), PAIR) == 3
    assert count_inputs(Source(write(tmp_path / "c.tsv", "one\ttwo\na\tb\nc\td"), "tsv"), PAIR) == 2
    csv = write(tmp_path / "a.csv.gz", 'one,two\n"a,\nb",c\n"d ""e""",f\n')
    assert texts(csv, PAIR) == [("a,\nb", "c"), ('d "e"', "f")]
    assert [one.where for one in read(csv, PAIR)] == [f"{csv}:2", f"{csv}:4"]
    old = write(tmp_path / "b.csv", '\ufeffone,two\ra,"b\rc"\r\nd,e\nf,g\r')
    assert texts(old, PAIR) == [("a", "b\rc"), ("d", "e"), ("f", "g")]
    assert [one.where for one in read(old, PAIR)] == [f"{old}:{number}" for number in (2, 4, 5)]
    bare = write(tmp_path / "b.tsv", "a\tb\nc\td\n")
    assert texts(bare, Wanted("1", "0")) == [("b", "a"), ("d", "c")]


@pytest.mark.parametrize("name", ["a.tsv", "a.csv"])
def test_a_blank_line_of_a_table_with_one_column_is_an_empty_text(name, tmp_path):
    """So that record n belongs to row n. Blank lines at the end are none, nor are those before a header."""
    path = write(tmp_path / name, "\n\ntext\none\n\r\n\nfour\n\n\n")
    found = read(path)
    assert [one.text for one in found] == ["one", "", "", "four"]
    assert [one.where for one in found] == [f"{path}:{number}" for number in range(4, 8)]
    bare = write(tmp_path / name, "\none\n\nthree\n\n")
    assert [one.text for one in read(bare, Wanted("0", ""))] == ["", "one", "", "three"]
    empty = write(tmp_path / name, "text\n\n\n")
    with pytest.raises(ValueError, match="got no input in it"):
        read(empty)
    several = write(tmp_path / name, "\none\ttwo\n\na\tb\n".replace("\t", "," if "csv" in name else "\t"))
    assert texts(several, PAIR) == [("a", "b")]


def test_json_lines_may_hold_words_and_ids(tmp_path):
    lines = [{"text": ["New", "York"], "n": 7}, {"text": "a b"}, {"text": None, "n": 0}]
    path = write(tmp_path / "a.jsonl", "\n".join(map(json.dumps, lines)) + "\n\n")
    found = read(path, WORDS._replace(id="n"))
    assert [(one.text, one.words, one.id) for one in found] == [
        ("New York", ("New", "York"), "7"),
        ("a b", None, None),
        ("", None, "0"),
    ]


def test_sentences_and_questions_are_read_as_in_fine_tuning(tmp_path):
    conllu = write(tmp_path / "a.conllu", CONLLU)
    assert [one.words for one in read(conllu, WORDS._replace(text=""), tagging=True)] == [
        ("It", "'s", "here", "_"),
        ("Go",),
    ]
    columns = write(tmp_path / "a.txt", COLUMNS)
    found = read(columns, WORDS._replace(text="0", tags="2"), "conll", tagging=True)
    assert [one.words for one in found] == [("EU", "#", "\u3000"), ("#", "Peter")]
    untagged = write(tmp_path / "b.conll.gz", "New\nYork\n\nis\n")
    found = read(untagged, WORDS._replace(text="0", tags="1"), tagging=True)
    assert [(one.text, one.words) for one in found] == [("New York", ("New", "York")), ("is", ("is",))]

    questions = [{"id": 3, "question": "Who?"}, {"id": "b", "question": "Where?", "answers": []}]
    squad = {"data": [{"paragraphs": [{"context": "Here.", "qas": questions}]}]}
    path = write(tmp_path / "a.json", json.dumps(squad))
    assert [(one.id, one.text, one.pair) for one in read(path, Wanted("question", "context"))] == [
        ("3", "Who?", "Here."),
        ("b", "Where?", "Here."),
    ]


class Endless(io.RawIOBase):
    """Lines without an end; it fails where more than a few are read ahead."""

    def __init__(self):
        self.count = -1

    def readline(self, size=-1):
        self.count += 1
        return f"line {self.count}\n".encode()


def test_standard_input_is_read_as_it_comes(monkeypatch):
    stream = Endless()
    monkeypatch.setattr("sys.stdin", type("Stdin", (), {"buffer": stream})())
    found = itertools.islice(read_unlabelled(Source("-", "text"), TEXT), 3)
    assert [one.text for one in found] == ["line 0", "line 1", "line 2"] and stream.count == 2
    assert count_inputs(Source("-", "text"), TEXT) is None


def test_sentences_come_from_standard_input_too(monkeypatch):
    monkeypatch.setattr("sys.stdin", type("Stdin", (), {"buffer": io.BytesIO(b"New\tX\nYork\tX\n\n")})())
    found = list(read_unlabelled(Source("-", "conll"), WORDS._replace(text="0", tags="1")))
    assert [one.words for one in found] == [("New", "York")]


@pytest.mark.parametrize(
    ("name", "content", "wanted", "message"),
    [
        ("a.txt", "", TEXT, "a.txt: got no input in it"),
        ("a.tsv", "text\n", TEXT, "a.tsv: got no input in it"),
        ("a.json", '{"data": []}', PAIR, "a.json: got no input in it"),
        ("a.txt", b"good\nb\xe4d\n", TEXT, "a.txt:2: not valid UTF-8"),
        ("a.csv", b"text\nb\xe4d\n", TEXT, "a.csv:2: not valid UTF-8"),
        (
            "a.tsv",
            "sentence\tclass\nx\ty\n",
            TEXT,
            "no column 'text', found 'sentence', 'class'; set --text_column",
        ),
        ("a.tsv", "x\ty\n", Wanted("0", "2"), "no column '2', found 2 columns, counted from 0"),
        ("a.tsv", "text\ty\ttext\n", TEXT, "a.tsv:1: got several columns 'text', expected one"),
        ("a.tsv", "text\tb\nx\ty\tz\n", TEXT, "a.tsv:2: got 3 columns, expected 2"),
        ("a.csv", 'text\n"x\n', TEXT, "a.csv:2: not valid CSV"),
        ("a.jsonl", '{"tekst": 1}\n', TEXT, "a.jsonl:1: no column 'text', found 'tekst'; set --text_column"),
        ("a.jsonl", '{"text": "a"}\n[1]\n', TEXT, "a.jsonl:2: got a list, expected an object"),
        ("a.jsonl", '{"text": 1}\n', TEXT, "in --text_column or --pair_column"),
        ("a.jsonl", "{\n", TEXT, "a.jsonl:1: not valid JSON"),
        ("a.txt", "x\n", PAIR, "the model reads two texts. Give a .tsv"),
        ("a.conll", "x\ty\n", TEXT, "only models for tagging read"),
        ("a.json", "{}", TEXT, "the model does not answer questions"),
        ("a.json", "[1]", PAIR, "SQuAD's format"),
        ("a.conll", "x y\nz\n", WORDS._replace(text="0", tags="1"), "columns other than"),
        ("a.conll", "x y\n", WORDS._replace(text="word", tags="1"), "--text_column: got 'word', expected"),
        ("a.conllu", CONLLU, WORDS._replace(text="word"), "no column 'word'"),
        ("a.txt.gz", b"no gzip", TEXT, "damaged or cut-off compressed data"),
    ],
)
def test_errors_name_the_place_and_the_flag(name, content, wanted, message, tmp_path):
    path = tmp_path / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises(ValueError, match=r".*") as raised:
        read(str(path), wanted)
    assert message in str(raised.value) and "config.task" not in str(raised.value)


def test_cut_off_compression_is_an_error_after_the_inputs_before_it(tmp_path):
    whole = gzip.compress(b"".join(b"line %d\n" % number for number in range(100000)))
    path = tmp_path / "a.txt.gz"
    path.write_bytes(whole[: len(whole) // 2])
    inputs = read_unlabelled(Source(str(path), "text"), TEXT)
    assert next(inputs).text == "line 0"
    with pytest.raises(ValueError, match="damaged or cut-off"):
        list(inputs)


def test_the_format_is_not_guessed_where_two_are_possible(tmp_path):
    path = write(tmp_path / "a.txt", "x\n")
    with pytest.raises(ValueError, match="--input_format=text or --input_format=conll"):
        find_format(path, "", tagging=True)
    assert find_format(path, "", tagging=False) == "text" == find_format("-", "", tagging=True)
    assert set(unlabelled.ENDINGS) == {"text", "tsv", "csv", "jsonl", "conll", "conllu", "json"}
    other = write(tmp_path / "a.xlsx", "x")
    with pytest.raises(ValueError, match=r"ends in '\.xlsx', expected one of \.txt, \.tsv"):
        find_format(other, "", tagging=False)
    with pytest.raises(FileNotFoundError, match=r"--input: .*none\.txt does not exist"):
        find_format(str(tmp_path / "none.txt"), "", tagging=False)
