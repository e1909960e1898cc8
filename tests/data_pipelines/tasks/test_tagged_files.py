"""Tagged sentences in files: CoNLL-U, columns, JSON lines."""

import pytest

from data_pipelines.tasks.load import load_task
from support.task_settings import COLUMNS, CONLLU, classification, tagging, write


def test_only_words_are_read_from_conllu(tmp_path):
    train = write(tmp_path / "a.conllu.gz", CONLLU)
    data = load_task(tagging(train=train))
    assert data.labels == ("ADV", "AUX", "PRON", "PUNCT", "VERB") and data.notes == []
    assert data.splits["train"] == [(("It", "'s", "here", "_"), (2, 1, 0, 3)), (("Go",), (4,))]
    assert load_task(tagging(train=train, text="form", label="feats")).labels == ("Mood=Imp", "_")
    assert load_task(tagging(train=train, text="2", label="xpos")).splits["train"][1] == (("go",), (3,))
    with pytest.raises(ValueError, match="no column 'pos', expected one of id, form, lemma"):
        load_task(tagging(train=train, text="form", label="pos"))


def test_only_conllu_needs_no_names_of_columns(tmp_path):
    train = write(tmp_path / "a.conllu", CONLLU)
    other = write(tmp_path / "a.conllu.jsonl", '{"words": ["Go"], "tags": ["VERB"]}\n')
    with pytest.raises(
        ValueError, match=r"text and config\.task\.label: got '', .* of \S+a\.conllu\.jsonl that"
    ):
        load_task(tagging(train=train, validation=other))
    rows = write(tmp_path / "a.conllu.tsv", "s\ty\none\t1\n")
    with pytest.raises(ValueError, match="its first line has the columns 's', 'y'"):
        load_task(classification(train=rows))


def test_unusable_sentences_are_counted(tmp_path):
    cut, untagged = CONLLU.replace("\tcop\t_\t_", "\tcop"), CONLLU.replace("\tADV\tRB", "\t_\tRB", 1)
    nameless = CONLLU.replace("\tIt\tit", "\t\tit")
    for text, reason, line in (
        (cut, "a number of columns other than 10", 5),
        (untagged, "a missing label", 4),
        (nameless, "an empty word", 4),
    ):
        train = write(tmp_path / "a.conllu", text)
        data = load_task(tagging(train=train))
        assert [example.words for example in data.splits["train"]] == [("Go",)]
        assert data.notes == [f"train: skipped 1 example with {reason}, the first at {train}:{line}"]


def test_an_unknown_tag_is_named_by_its_line(tmp_path):
    labels = ("PRON", "ADV", "PUNCT", "VERB")
    with pytest.raises(
        ValueError, match=r"a\.conllu:5: label 'AUX', expected one of 'PRON', 'ADV', 'PUNCT', 'VERB'"
    ):
        load_task(tagging(train=write(tmp_path / "a.conllu", CONLLU), labels=labels))


@pytest.mark.parametrize("separator", [" ", "\t", "   "])
@pytest.mark.parametrize("name", ["a.conll", "a.txt"])
def test_column_files(tmp_path, name, separator):
    train = write(
        tmp_path / name,
        "\n".join(
            line if line.startswith("# id") else line.replace(" ", separator) for line in COLUMNS.split("\n")
        ),
    )
    data = load_task(tagging(train=train, text="0", label="2"))
    expected = [(("EU", "#", "\u3000"), (0, 2, 2)), (("#", "Peter"), (2, 1))]
    assert data == (("B-ORG", "B-PER", "O"), {"train": expected}, [], {})


def test_column_files_with_blanks_in_words_and_without_tags(tmp_path):
    train, test = (
        write(tmp_path / "a.conll", "New York\tB\nran\tO\n"),
        write(tmp_path / "b.conll", "New York\t\nran\t\n"),
    )
    task = tagging(train=train, test=test, text="0", label="1")
    for _ in range(2):
        data = load_task(task)
        assert data.splits == {
            "train": [(("New York", "ran"), (0, 1))],
            "test": [(("New York", "ran"), (-2, -2))],
        }
        write(tmp_path / "a.conll", "New York\tx\tB\nran\tx\tO\n")
        task |= {"label": "2"}


def test_malformed_column_files(tmp_path):
    train = write(tmp_path / "a.conll", COLUMNS.replace("Peter NNP B-PER", "Peter B-PER"))
    data = load_task(tagging(train=train, text="0", label="2"))
    assert data.notes == [
        f"train: skipped 1 example with a number of columns other than 3, the first at {train}:9"
    ]
    for columns, message in (
        ({"text": "word", "label": "2"}, r"config\.task\.text: got 'word', expected a column number"),
        ({"text": "0", "label": "3"}, "no column 3, its rows have 3 columns"),
    ):
        with pytest.raises(ValueError, match=message):
            load_task(tagging(train=train, **columns))


def test_words_and_tags_in_json_lines(tmp_path):
    train = write(tmp_path / "a.jsonl", '{"w": ["EU", "rejects"], "t": ["B", "O"]}\n{"w": ["a"], "t": ["O"]}')
    assert load_task(tagging(train=train, text="w", label="t")).splits["train"] == [
        (("EU", "rejects"), (0, 1)),
        (("a",), (1,)),
    ]
    test = write(tmp_path / "b.jsonl", '{"w": ["EU", "rejects"]}')
    assert load_task(tagging(train=train, test=test, text="w", label="t")).splits["test"] == [
        (("EU", "rejects"), (-2, -2))
    ]
    for line, message in (
        ('{"w": ["EU", "x"], "t": ["B"]}', r"a\.jsonl:1: 't' is 1 tags, expected a list with one tag"),
        ('{"w": "EU", "t": ["B"]}', r"a\.jsonl:1: 'w' is a string, expected a list of words"),
    ):
        with pytest.raises(ValueError, match=message):
            load_task(tagging(train=write(tmp_path / "a.jsonl", line), text="w", label="t"))
    write(tmp_path / "a.jsonl", '{"w": ["EU", "x"], "t": ["B", "I"]}')
    with pytest.raises(ValueError, match=r"a\.jsonl:1: word 1: label 'I', expected one of 'B'"):
        load_task(tagging(train=train, text="w", label="t", labels=("B",)))
