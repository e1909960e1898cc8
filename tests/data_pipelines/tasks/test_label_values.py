"""Which values of labels are classes, and which mean that there is no label."""

import json
import unicodedata
from collections import Counter

import pytest

from data_pipelines.tasks.label_values import found_classes, identity, listed_classes, spelling
from data_pipelines.tasks.load import load_task
from support.task_settings import classification, tagging, write


def counted(**labels):
    return Counter({name.removeprefix("_").replace("m", "-"): number for name, number in labels.items()})


@pytest.mark.parametrize(
    ("train", "names", "not_labels"),
    [
        ("0 1 2 -1", "0 1 2", "-1"),
        ("0 1 -100", "0 1", "-100"),
        ("1 2 3 -1", "1 2 3", "-1"),
        ("0 -1", "0", "-1"),
        ("-1 1", "-1 1", ""),
        ("-2 -1 0 1 2", "-2 -1 0 1 2", ""),
        ("-1 -0.5 0 0.5 1", "-1 -0.5 0 0.5 1", ""),
        ("good bad -1 -100 nan <NA>", "bad good", "-1 -100 nan <NA>"),
        ("0 1 null None N/A ?", "0 1", "null None N/A ?"),
        ("good bad NULL None", "None bad good", "NULL"),
        ("favor against none", "against favor none", ""),
        ("entailment neutral contradiction -", "contradiction entailment neutral", "-"),
        ("+ - 0", "+ - 0", ""),
        ("10 9 2", "2 9 10", "-1"),
        ("1.5 -3 10", "-3 1.5 10", ""),
        ("1.0 2.0", "1.0 2.0", ""),
        ("1.0 1 2", "1 2", ""),
        ("01 1", "01 1", ""),
    ],
)
def test_the_other_labels_decide(train, names, not_labels):
    classes = found_classes({"train": Counter(train.split())}, tagging=False)
    assert classes.names == tuple(names.split())
    assert [classes.numbers[identity(name)] for name in classes.names] == list(range(len(classes.names)))
    assert all(map(classes.means_no_label, not_labels.split()))
    assert not any(map(classes.means_no_label, names.split()))


def test_signs_can_be_tags():
    classes = found_classes({"train": Counter(["O", ",", "-", "?"])}, tagging=True)
    assert set(classes.names) == {"O", ",", "-", "?"}


@pytest.mark.parametrize(
    ("counts", "names"),
    [
        # As many as the others, or nearly: a class.
        ({"train": counted(m1=10, _0=12, _1=9)}, "-1 0 1"),
        ({"train": counted(m1=7, _0=12, _1=9), "validation": counted(m1=1, _1=3)}, "-1 0 1"),
        # Much rarer than the others, or in training alone although many are held out.
        ({"train": counted(m1=4, _0=100, _1=90)}, "0 1"),
        ({"train": counted(m1=90, _0=5, _1=5), "validation": counted(_0=2, _1=2)}, "0 1"),
        # A test split without labels does not tell.
        ({"train": counted(m1=10, _0=12, _1=9), "test": counted(m1=50)}, "-1 0 1"),
    ],
)
def test_minus_one_beside_zero_and_one(counts, names):
    assert found_classes(counts, tagging=False).names == tuple(names.split())


@pytest.mark.parametrize(
    "counts",
    [
        {"train": counted(m1=1, _0=2, _1=2)},
        {"train": counted(m1=1, _0=1, _1=1)},
        {"train": counted(m1=3, _0=3, _1=3), "validation": counted(_0=1, _1=1)},
    ],
)
def test_what_the_data_does_not_tell_is_asked(counts):
    message = r"'-1' \(\d\), .*Pass --config\.task\.labels=-1,0,1 or --config\.task\.labels=0,1$"
    with pytest.raises(ValueError, match=message):
        found_classes(counts, tagging=False)


def test_listed_labels_are_always_classes():
    classes = listed_classes(["-1", "nan", "none"], tagging=False)
    assert classes.numbers == {"-1": 0, "nan": 1, "none": 2} and not classes.means_no_label("-1")
    assert classes.means_no_label("-100") and not classes.means_no_label("na")
    with pytest.raises(ValueError, match=r"config\.task\.labels: got \('1', '1\.0'\), expected each label"):
        listed_classes(["1", "1.0"], tagging=False)


def test_spellings():
    values = [None, float("nan"), "", "  ", " a ", b"\xc3\xa9", True, 1, 1.0, "1.0"]
    expected = [None, None, None, None, "a", "é", "true", "1", "1.0", "1.0"]
    assert [spelling(value, "here") for value in values] == expected
    with pytest.raises(ValueError, match="here: 'label' is not valid UTF-8"):
        spelling("\ud800", "here")


def lines(*labels, **more):
    rows = [{"s": f"text {at}", "y": label} | more for at, label in enumerate(labels)]
    return "".join(json.dumps(row) + "\n" for row in rows)


def labels_of(examples):
    return [example.label for example in examples]


@pytest.mark.parametrize("code", [-1, -1.0, "-1", float("nan"), "nan", "", " ", None, -100])
def test_rows_without_a_label_are_skipped_and_counted(tmp_path, code):
    train = write(tmp_path / "a.jsonl", lines(0, 1, 2, code, 0))
    data = load_task(classification(train=train, validation=train, text="s", label="y"))
    assert data.labels == ("0", "1", "2") and labels_of(data.splits["train"]) == [0, 1, 2, 0]
    assert len(data.notes) == 2 and all(
        "skipped 1 example with a missing label" in note for note in data.notes
    )
    assert data.notes[0].endswith(f"the first at {train}:4")


@pytest.mark.parametrize("name", ["a.csv", "a.tsv"])
def test_tables_of_pandas(tmp_path, name):
    """A column of whole numbers with a missing one is written as floats."""
    separator = "," if name == "a.csv" else "\t"
    text = "s,y\none,0.0\ntwo,\nthree,1.0\nfour,nan\n".replace(",", separator)
    train = write(tmp_path / name, text)
    test = write(tmp_path / "b.jsonl", lines(1, 0))
    data = load_task(classification(train=train, test=test, text="s", label="y"))
    assert data.labels == ("0.0", "1.0") and labels_of(data.splits["train"]) == [0, 1]
    assert labels_of(data.splits["test"]) == [1, 0]


def test_one_class_in_several_spellings(tmp_path):
    train, test = (
        write(tmp_path / "a.jsonl", lines(0, 1)),
        write(tmp_path / "b.jsonl", lines(1.0, "0", "1.0")),
    )
    data = load_task(classification(train=train, test=test, text="s", label="y"))
    assert data.labels == ("0", "1") and labels_of(data.splits["test"]) == [1, 0, 1]
    train = write(tmp_path / "c.tsv", "s\ty\na\tTrue\nb\tFalse\n")
    test = write(tmp_path / "b.jsonl", lines(True, False))
    data = load_task(classification(train=train, test=test, text="s", label="y"))
    assert data.labels == ("False", "True") and labels_of(data.splits["test"]) == [1, 0]


@pytest.mark.parametrize("first", ["NFC", "NFD"])
def test_one_class_in_two_unicode_forms(tmp_path, first):
    """They look alike. The name is as the first row of them spells it."""
    second = "NFD" if first == "NFC" else "NFC"
    spelled = [unicodedata.normalize(form, "İyi") for form in (first, second)]
    train = write(tmp_path / "a.jsonl", lines(spelled[0], "kötü", spelled[1]))
    test = write(tmp_path / "b.jsonl", lines(spelled[1], unicodedata.normalize("NFD", "kötü")))
    data = load_task(classification(train=train, test=test, text="s", label="y"))
    assert set(data.labels) == {spelled[0], "kötü"}
    good, bad = data.labels.index(spelled[0]), data.labels.index("kötü")
    assert labels_of(data.splits["train"]) == [good, bad, good]
    assert labels_of(data.splits["test"]) == [good, bad]
    with pytest.raises(ValueError, match=r"config\.task\.labels: got .*, expected each label once"):
        listed_classes(spelled, tagging=False)


@pytest.mark.parametrize("code", [-1, "-1", "?", "_", None])
def test_a_test_split_with_one_placeholder_has_no_labels(tmp_path, code):
    train, test = (
        write(tmp_path / "a.jsonl", lines("good", "bad")),
        write(tmp_path / "b.jsonl", lines(code, code)),
    )
    for labels in ((), ("bad", "good")):
        data = load_task(classification(train=train, test=test, text="s", label="y", labels=labels))
        assert labels_of(data.splits["test"]) == [None, None]
        assert len(data.notes) == (code is not None)


@pytest.mark.parametrize("code", [-1, -1.0, "-1"])
def test_minus_one_in_regression(tmp_path, code):
    train = write(tmp_path / "a.jsonl", lines(0.5, -1, float("nan"), 3, "", -0.5))
    test = write(tmp_path / "b.jsonl", lines(code, code))
    task = classification(kind="regression", train=train, text="s", label="y")
    data = load_task(task | {"test": test})
    assert labels_of(data.splits["train"]) == [0.5, -1.0, 3.0, -0.5]
    assert labels_of(data.splits["test"]) == [None, None]
    assert [note.partition(", the first")[0] for note in data.notes] == [
        "train: skipped 2 examples with a missing label",
        f"test: kept 2 examples with only the label {code!r}, so that they are not scored",
    ]
    write(tmp_path / "a.jsonl", lines(code, code))
    assert labels_of(load_task(task).splits["train"]) == [-1.0, -1.0]


def test_minus_one_among_other_numbers_is_named(tmp_path):
    train = write(tmp_path / "a.jsonl", lines(0, 1.5, -1, 3, 5))
    data = load_task(classification(kind="regression", train=train, text="s", label="y"))
    assert labels_of(data.splits["train"]) == [0.0, 1.5, -1.0, 3.0, 5.0]
    assert data.notes == [
        "train: kept 1 example with the number -1, the only one below 0; if it means that there is none, "
        f"take these rows out of the data, the first at {train}:3"
    ]


def test_words_without_a_tag_are_not_scored(tmp_path):
    rows = [(["a", "boat"], [0, 1]), (["two", "lamps"], [-100, 1]), (["tea"], [-100]), (["x"], [None])]
    train = write(
        tmp_path / "a.jsonl", "".join(json.dumps({"w": words, "t": tags}) + "\n" for words, tags in rows)
    )
    data = load_task(tagging(train=train, text="w", label="t"))
    assert data.labels == ("0", "1")
    assert data.splits["train"] == [(("a", "boat"), (0, 1)), (("two", "lamps"), (-2, 1))]
    advice = "('-100'; if it is a class, list all classes in config.task.labels)"
    assert data.notes == [
        f"train: kept 1 example with a missing label of a word {advice}, the first at {train}:2",
        f"train: skipped 1 example with a missing label {advice}, the first at {train}:3",
        f"train: skipped 1 example with a missing label, the first at {train}:4",
    ]


def test_what_was_decided_is_told(tmp_path):
    train = write(tmp_path / "a.jsonl", lines("favor", "none", "none", "against"))
    task = classification(train=train, text="s", label="y")
    data = load_task(task)
    assert data.labels == ("against", "favor", "none")
    assert data.notes == [
        "train: kept 2 examples with the label 'none', taken for a class; if it means that there is none, "
        f"list the classes in config.task.labels, the first at {train}:2"
    ]
    assert load_task(task | {"labels": ("favor", "against", "none", "other")}).notes == []


def test_labels_of_a_configuration_may_be_numbers(tmp_path):
    train = write(tmp_path / "a.jsonl", lines(0, 1, -1))
    data = load_task(classification(train=train, text="s", label="y", labels=(0, 1)))
    assert data.labels == ("0", "1") and labels_of(data.splits["train"]) == [0, 1]
    data = load_task(classification(train=train, text="s", label="y", labels=("-1", "0", "1")))
    assert labels_of(data.splits["train"]) == [1, 2, 0] and data.notes == []


def test_nested_lists_are_an_error_of_the_line(tmp_path):
    train = write(tmp_path / "a.jsonl", '{"s": "a", "y": 1}\n' + "[" * 200_000)
    with pytest.raises(ValueError, match=r"a\.jsonl:2: not valid JSON"):
        load_task(classification(train=train, text="s", label="y"))
    with pytest.raises(ValueError, match=r"a\.json: .*nested too deep|not valid JSON"):
        load_task(classification(kind="question_answering", train=write(tmp_path / "a.json", "[" * 200_000)))


def test_a_missing_text_is_null_or_nan(tmp_path):
    rows = [{"s": "a", "y": 0}, {"s": None, "y": 1}, {"s": float("nan"), "y": 0}, {"s": "b", "y": 1}]
    train = write(tmp_path / "a.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    data = load_task(classification(train=train, text="s", label="y"))
    assert labels_of(data.splits["train"]) == [0, 1]
    assert data.notes == [f"train: skipped 2 examples with an empty text, the first at {train}:2"]
