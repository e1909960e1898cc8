"""Comments of CoNLL files, and words that begin with "#"."""

import pytest

from data_pipelines.tasks.files import read_sentences
from data_pipelines.tasks.load import load_task
from data_pipelines.tasks.records import Columns, Skipped
from support.task_settings import tagging, write

DOUBT = "a comment that has as many columns as the words"


def read(path, text, label, split="train"):
    skipped = Skipped()
    sentences = read_sentences(write(path, text), Columns("0", "", str(label)), split, skipped)
    return [(sentence.words, sentence.tags) for sentence in sentences], skipped.sentences()


MILL = (["the", "mill"], ["O", "B-LOC"])


@pytest.mark.parametrize(
    "comment",
    [
        "# id 0000-1\tdomain=en",
        "# id 7 x",
        "# id = 7",
        "# text = O",
        "# id 0000-1 x y z\tdomain=en",
        "#",
        "# newdoc",
        "## id 7 x",
        "# id 1 B-LOC\n# text = O",
        "-DOCSTART- -X- _ O\n# id 1 x",
    ],
)
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
@pytest.mark.parametrize("start", ["", "\ufeff", "\n \t\n"])
def test_comments_are_no_words(tmp_path, comment, newline, start):
    if comment.startswith("# id 1 B-LOC"):  # only as the start of every sentence
        text = 3 * f"{comment}\nthe _ _ O\nmill _ _ B-LOC\n\n"
    else:
        text = f"{comment}\nthe _ _ O\nmill _ _ B-LOC\n\nthe _ _ O\nmill _ _ B-LOC\n"
    sentences, _ = read(tmp_path / "a.conll", start + text.replace("\n", newline), 3)
    assert sentences == [MILL] * (3 if comment.startswith("# id 1 B-LOC") else 2)


@pytest.mark.parametrize("comment", ["# id 7\tdomain=en", "# id 7\tO", "# id 7", "#\tid", "# text = a\tO"])
def test_comments_of_files_with_tabs(tmp_path, comment):
    sentences, _ = read(tmp_path / "a.conll", f"{comment}\nthe old\tO\nmill\tB-LOC \n\nthe\tO\n", 1)
    assert sentences == [(["the old", "mill"], ["O", "B-LOC"]), (["the"], ["O"])]


@pytest.mark.parametrize(
    ("text", "first"),
    [
        ("# O\nthe O\n\nmill B-LOC\n", "#"),
        ("#lake B-LOC\nthe O\n\nmill O\n", "#lake"),
        ("#lake O\nthe O\n\n#lake O\nmill B-LOC\n\n#lake O\nthe O\n", "#lake"),
        ("# #\nthe O\n\nmill B-LOC\n", "#"),
        ("# O\nthe O\n\n#lake O\nmill O\n\n#mill B-LOC\n", "#"),
        ("#lake\tO\nthe O\n\nmill B-LOC\n", "#lake"),
        ("# O\n\n# O\nx O\n", "#"),
    ],
)
def test_words_that_begin_with_a_hash(tmp_path, text, first):
    sentences, notes = read(tmp_path / "a.conll", text, 1)
    assert sentences[0][0][0] == first and notes == []


def test_comments_before_every_sentence(tmp_path):
    text = "# O\nthe O\n\n# O\nmill B-LOC\n\n# O\nthe O\n"
    sentences, notes = read(tmp_path / "a.conll", text, 1)
    assert [words for words, _ in sentences] == [["the"], ["mill"], ["the"]]
    assert notes == [f"train: kept 3 examples with {DOUBT}, the first at {tmp_path / 'a.conll'}:1"]


def test_comments_of_a_test_file_without_tags(tmp_path):
    train = write(tmp_path / "a.conll", "# id 1\tdomain=en\nthe _ _ O\nmill _ _ B-LOC\n")
    for tags in (" _", ""):
        text = f"# id 1\tdomain=en\nthe _ _{tags}\nmill _ _{tags}\n"
        test = write(tmp_path / "b.conll", text)
        data = load_task(tagging(train=train, test=test, text="0", label="3"))
        assert data.labels == ("B-LOC", "O")
        assert data.splits["test"] == [(("the", "mill"), (-2, -2))]
