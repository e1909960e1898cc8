"""Labelled data in files: tables and JSON lines."""

import gzip
import json

import pytest

from data_pipelines.tasks.load import load_task
from support.task_settings import CONLLU, classification, tagging, write


@pytest.mark.parametrize("name", ["a.tsv", "a.tsv.gz"])
def test_quotes_have_no_meaning_in_tsv(tmp_path, name):
    train = write(
        tmp_path / name, '\ufeffsentence\tid\tlabel\r\n"an open quote\t0\tgood\r\na\x85b, c\t1\t bad\n\n'
    )
    data = load_task(classification(train=train, text="sentence", label="label"))
    assert data == (("bad", "good"), {"train": [('"an open quote', None, 1), ("a\x85b, c", None, 0)]}, [], {})


def test_csv_has_quotes(tmp_path):
    train = write(tmp_path / "a.csv", 'a,b,y\n"one, ""1""\nline",two,0\nthree,four,1\n')
    data = load_task(classification(train=train, text="a", pair="b", label="y"))
    assert data.splits["train"] == [('one, "1"\nline', "two", 0), ("three", "four", 1)]
    write(tmp_path / "a.csv", 'a,b,y\n"1\n1",2,3\n"one,two,0\nthree,four,1\n')
    with pytest.raises(ValueError, match=r"a\.csv:4: not valid CSV .*name the file \.tsv"):
        load_task(classification(train=train, text="a", pair="b", label="y"))


@pytest.mark.parametrize("name", ["a.tsv", "a.csv"])
def test_columns_by_name_and_by_number_are_refused(tmp_path, name):
    """Whether there is a header decides where `predict` begins, which reads no label."""
    between = "," if name.endswith("csv") else "\t"
    train = write(tmp_path / name, between.join(("0", "y")) + "\n" + between.join(("one", "1")) + "\n")
    expected = (
        rf"{name}: got the columns '0' by number and 'y' by name, expected all by number or all by name\. "
        "Rename the column '0' in the file and in config"
    )
    with pytest.raises(ValueError, match=expected):
        load_task(classification(train=train, text="0", label="y"))
    records = write(tmp_path / "a.jsonl", '{"0": "one", "y": 1}\n')
    assert load_task(classification(train=records, text="0", label="y")).splits["train"]


def test_columns_by_number_have_no_header(tmp_path):
    train = write(tmp_path / "a.tsv", "gj04\t1\t\tThe boat sank.\ngj04\t0\t*\tBoat the sank.\n")
    data = load_task(classification(train=train, validation=train, text="3", label="1"))
    assert data.labels == ("0", "1")
    assert (
        data.splits["train"]
        == data.splits["validation"]
        == [("The boat sank.", None, 1), ("Boat the sank.", None, 0)]
    )


def test_jsonl(tmp_path):
    train = write(
        tmp_path / "a.jsonl",
        '{"s": "one", "t": "zwölf", "y": true}\n\n{"s": "a", "t": "b", "y": false, "z": 1}\n',
    )
    data = load_task(classification(train=train, text="s", pair="t", label="y"))
    assert data == (("false", "true"), {"train": [("one", "zwölf", 1), ("a", "b", 0)]}, [], {})


def test_labels_are_sorted_by_value_or_given(tmp_path):
    train = write(tmp_path / "a.tsv", "".join(f"text {i}\t{i}\n" for i in (10, 9, 2)))
    task = classification(train=train, text="0", label="1")
    assert load_task(task).labels == ("2", "9", "10")
    data = load_task(task | {"labels": ("9", "10", "2", "7")})
    assert data.labels == ("9", "10", "2", "7") and [example.label for example in data.splits["train"]] == [
        1,
        0,
        2,
    ]


def test_an_unknown_label_is_an_error(tmp_path):
    train = write(tmp_path / "a.tsv", "s\ty\none\tgood\ntwo\tbad\n")
    test = write(tmp_path / "b.tsv", "s\ty\none\tgood\ntwo\tugly\n")
    message = r"b\.tsv:3: label 'ugly', expected one of 'bad', 'good'; .*every label in config\.task\.labels"
    with pytest.raises(ValueError, match=message):
        load_task(classification(train=train, test=test, text="s", label="y"))


def test_an_error_shows_some_of_many_labels(tmp_path):
    rows = "".join(f"text\ta long label of a column that was meant as text {n}\n" for n in range(500))
    train = write(tmp_path / "a.tsv", f"s\ty\n{rows}")
    test = write(tmp_path / "b.tsv", "s\ty\none\tother\n")
    with pytest.raises(ValueError, match=r"expected one of .a long label .* and 488 more; correct") as error:
        load_task(classification(train=train, test=test, text="s", label="y"))
    assert len(str(error.value)) < 1_500


@pytest.mark.parametrize("label", ["NaN", "nan", "<NA>", "null", " NULL ", ""])
@pytest.mark.parametrize("name", ["a.tsv", "a.csv"])
def test_regression_has_no_label_where_a_table_says_so(tmp_path, name, label):
    between = "," if name.endswith("csv") else "\t"
    rows = ("s", "y"), ("one", "1"), ("two", label), ("three", "2")
    train = write(tmp_path / name, "".join(between.join(row) + "\n" for row in rows))
    data = load_task(classification(kind="regression", train=train, text="s", label="y"))
    assert [example.label for example in data.splits["train"]] == [1.0, 2.0]
    assert data.notes == [f"train: skipped 1 example with a missing label, the first at {train}:3"]


@pytest.mark.parametrize("label", ["high", "-nan", "inf"])
def test_regression_takes_finite_numbers(tmp_path, label):
    train = write(tmp_path / "a.tsv", "one\t-1\ntwo\t2.5e0\n")
    task = classification(kind="regression", train=train, text="0", label="1")
    assert load_task(task) == ((), {"train": [("one", None, -1.0), ("two", None, 2.5)]}, [], {})
    write(tmp_path / "a.tsv", f"one\t-1\ntwo\t{label}\n")
    with pytest.raises(
        ValueError, match=rf"a\.tsv:2: label '{label}', expected a finite number .*config\.task\.label"
    ):
        load_task(task)


def test_unusable_rows_are_counted(tmp_path):
    rows = [
        "one\tuno\t1",
        "two\tdos\t1\tmore",
        "\ttres\t0",
        "four\t \t0",
        "five\tcinco\t",
        "six\tseis",
        "seven\tsiete\t0",
    ]
    train = write(tmp_path / "a.tsv", "s\tt\ty\n" + "\n".join(rows))
    data = load_task(classification(train=train, text="s", pair="t", label="y"))
    assert data.splits["train"] == [("one", "uno", 1), ("seven", "siete", 0)]
    assert data.notes == [
        f"train: skipped 2 examples with a number of columns other than 3, the first at {train}:3",
        f"train: skipped 2 examples with an empty text, the first at {train}:4",
        f"train: skipped 1 example with a missing label, the first at {train}:6",
    ]
    records = [
        {"s": "a", "t": "b", "y": "1"},
        {"s": "a", "y": "1"},
        {"s": "a", "t": "b"},
        {"s": None, "t": "b", "y": "1"},
    ]
    train = write(tmp_path / "a.jsonl", "\n".join(map(json.dumps, records)))
    data = load_task(classification(train=train, text="s", pair="t", label="y"))
    assert data.splits["train"] == [("a", "b", 0)]
    assert data.notes == [
        f"train: skipped 2 examples with an empty text, the first at {train}:2",
        f"train: skipped 1 example with a missing label, the first at {train}:3",
    ]


def test_a_test_split_may_lack_labels(tmp_path):
    train = write(tmp_path / "a.tsv", "s\ty\none\t1\n")
    for lines in ("s\nthree\n", "s\ty\nthree\t\n"):
        test = write(tmp_path / "b.tsv", lines)
        data = load_task(classification(train=train, test=test, text="s", label="y"))
        assert data.splits["test"] == [("three", None, None)] and data.notes == []
    unlabelled = write(tmp_path / "c.tsv", "s\ty\none\t\n")
    with pytest.raises(ValueError, match=r"c\.tsv:2: no label, and none in the rest of the training split"):
        load_task(classification(train=unlabelled, text="s", label="y"))


def test_no_row_of_a_split_without_labels_is_skipped(tmp_path):
    train = write(tmp_path / "a.tsv", "s\ty\none\t1\n")
    test = write(tmp_path / "b.tsv", "s\ty\nthree\t\n \t\nfive\t\n")
    data = load_task(classification(train=train, test=test, text="s", label="y"))
    assert [example.text for example in data.splits["test"]] == ["three", " ", "five"] and data.notes == []
    for name, ends in (("b.tsv", "\n"), ("b.csv", "\n"), ("b.csv", "\r")):
        test = write(tmp_path / name, "\ns\nthree\n\nfive\n\n".replace("\n", ends))
        data = load_task(classification(train=train, test=test, text="s", label="y"))
        assert [example.text for example in data.splits["test"]] == ["three", "", "five"]
    train = write(tmp_path / "a.jsonl", '{"w": ["EU"], "t": ["B"]}')
    test = write(tmp_path / "b.jsonl", '{"w": ["EU", ""]}\n{"w": []}')
    data = load_task(tagging(train=train, test=test, text="w", label="t"))
    assert data.splits["test"] == [(("EU", ""), (-2, -2)), ((), ())]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("b.tsv", "s\nthree\nfour\tx\nfive\n", r"b\.tsv:3: got 2 columns, expected 1: the file has no lab"),
        ("b.csv", "s,y\nthree,\nfour\nfive,\n", r"b\.csv:3: got 1 columns, expected 2: .*correct the row"),
        ("b.conll", "EU\n\nrejects x\n\ncalls\n", r"b\.conll:3: got 2 columns, expected 1: "),
        ("b.conllu", "1\tEU" + "\t_" * 8 + "\n\n1\tit\n", r"b\.conllu:3: got 2 columns, expected 10: "),
    ],
    ids=["tsv", "csv", "conll", "conllu"],
)
def test_a_malformed_row_of_a_file_without_labels_is_an_error(tmp_path, name, text, message):
    """Its predictions are identified by position."""
    trained = {
        "b.conll": tagging(text="0", label="1", train=write(tmp_path / "a.conll", "EU B\nran O\n")),
        "b.conllu": tagging(train=write(tmp_path / "a.conllu", CONLLU)),
    }
    table = write(tmp_path / "a.tsv", "s\ty\none\t1\n")
    task = trained.get(name, classification(train=table, text="s", label="y"))
    with pytest.raises(ValueError, match=message):
        load_task(task | {"test": write(tmp_path / name, text)})


def test_a_malformed_row_beside_labelled_ones_is_skipped(tmp_path):
    train = write(tmp_path / "a.tsv", "s\ty\none\t1\n")
    test = write(tmp_path / "b.tsv", "s\ty\none\t1\ntwo\n")
    data = load_task(classification(train=train, test=test, text="s", label="y"))
    assert data.splits["test"] == [("one", None, 0)]
    assert data.notes == [
        f"test: skipped 1 example with a number of columns other than 2, the first at {test}:3"
    ]


def test_a_split_of_several_files(tmp_path):
    one, other = write(tmp_path / "a.tsv", "s\ty\none\tb\n"), write(tmp_path / "b.tsv", "s\ty\ntwo\ta\n")
    data = load_task(classification(train=f"{one}, {other}", validation=other, text="s", label="y"))
    assert data == (
        ("a", "b"),
        {"train": [("one", None, 1), ("two", None, 0)], "validation": [("two", None, 0)]},
        [],
        {},
    )


def test_questions_of_files(tmp_path):
    answered = {"id": "1", "question": "Who ran?", "answers": [{"text": "Peter", "answer_start": 9}]}
    asked = {"id": "2", "question": "Who fell?"}
    train, test = (
        write(
            tmp_path / name,
            json.dumps({"data": [{"paragraphs": [{"context": "So Peter ran.", "qas": [qa]}]}]}),
        )
        for name, qa in (("train.json", answered), ("test.json", asked))
    )
    data = load_task(classification(kind="question_answering", train=train, test=test))
    assert [(question.start, question.answer) for question in data.splits["train"]] == [(3, "Peter")]
    assert [(question.id, question.is_labelled) for question in data.splits["test"]] == [("2", False)]
    assert data.labels == () and data.notes == [
        f"train: kept 1 example with an answer re-found elsewhere in its context, the first at {train}: "
        "data[0].paragraphs[0].qas[0]"
    ]


def test_a_split_without_rows_has_no_reasons_of_other_splits(tmp_path):
    train = write(tmp_path / "train.tsv", "s\ty\none\t1\n\t1\ntwo\t0\n")
    for text, reason in (
        ("s\ty\n", "it has no rows"),
        ("s\ty\n\t1\n", "test: skipped 1 example with an empty text, .*2"),
    ):
        test = write(tmp_path / "test.tsv", text)
        message = rf"^config\.task: no example is left in test, expected some; {reason}; check its text and "
        with pytest.raises(ValueError, match=message):
            load_task(classification(train=train, test=test, text="s", label="y"))


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.tsv", "x\ty\none\t1\n", r"a\.tsv:1: no column 's', found 'x', 'y'; set config\.task\.text"),
        ("a.tsv", "s\tlabel\none\t1\n", r"a\.tsv:1: no column 'y', found 's', 'label'"),
        ("a.tsv", "s\ty\ts\none\t1\ttwo\n", r"a\.tsv:1: got several columns 's', expected one"),
        ("a.tsv", "s\ty\n", r"no example is left in train, .*it has no rows"),
        ("a.tsv", "", r"no example is left in train, .*it has no rows"),
        (
            "a.tsv",
            "s\ty\none\ttwo\t1\n",
            r"no example is left in train, .*a number of columns other than 2, the first",
        ),
        ("a.tsv", b"s\ty\none\t1\n\xff\t1\n", r"a\.tsv:3: not valid UTF-8"),
        ("a.jsonl", '{"s": "a", "y": 1}\n{"s', r"a\.jsonl:2: not valid JSON"),
        ("a.jsonl", "[1]", r"a\.jsonl:1: got a list, expected an object"),
        ("a.jsonl", '{"x": "a", "y": 1}', r"a\.jsonl: no field 's', found 'x', 'y'; set config\.task\.text"),
        ("a.jsonl", '{"s": ["a"], "y": 1}', r"a\.jsonl:1: 's' is a list, expected a string"),
        ("a.jsonl", '{"s": "\\ud800", "y": 1}', r"a\.jsonl:1: 's' is not valid UTF-8"),
        ("a.jsonl", '{"s": "a", "y": [1]}', r"a\.jsonl:1: label is a list, expected a string or number"),
        ("a.conllu", "", r"unknown file format for classification or regression, expected one of \.tsv"),
    ],
)
def test_malformed_files(tmp_path, name, text, message):
    with pytest.raises(ValueError, match=message):
        load_task(classification(train=write(tmp_path / name, text), text="s", label="y"))


def test_missing_and_damaged_files(tmp_path):
    for name, what in (("none.tsv", "does not exist"), ("folder.tsv", "is a directory")):
        (tmp_path / "folder.tsv").mkdir(exist_ok=True)
        with pytest.raises(FileNotFoundError, match=rf"{name}: {what}, expected a file"):
            load_task(classification(train=str(tmp_path / name), text="s", label="y"))
    (tmp_path / "a.tsv.gz").write_bytes(gzip.compress(b"s\ty\none\t1\n")[:-12])
    with pytest.raises(ValueError, match=r"a\.tsv\.gz: damaged or cut-off"):
        load_task(classification(train=str(tmp_path / "a.tsv.gz"), text="s", label="y"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kind": "ranking"}, "kind: got 'ranking', expected one of classification, regression, tagging"),
        ({"train": ""}, "train: got '' and no config.task.source"),
        ({"text": ""}, "text: got '', expected the column or field of a.tsv"),
        ({"label": ""}, "label: got '', expected the column or field of a.tsv"),
        ({"kind": "regression", "labels": ("a",)}, r"labels: got \('a',\), expected \(\) for regression"),
        ({"labels": ("a", "a")}, "labels: got .*, expected each label once"),
        ({"kind": "tagging", "pair": "x"}, "pair: got 'x', expected '' for tagging"),
        ({"train": "a.tsv", "language": "de"}, "language: got 'de', expected ''"),
    ],
)
def test_contradictory_settings(tmp_path, monkeypatch, changes, message):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "a.tsv", "s\ty\none\t1\n")
    with pytest.raises(ValueError, match=rf"config\.task\.{message}"):
        load_task(classification(train="a.tsv", text="s", label="y") | changes)
