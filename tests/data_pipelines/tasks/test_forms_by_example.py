"""Every form of labelled data that the README shows is read as it shows it, with the flags beside it."""

import re
import shlex

import pytest

from configs import finetune
from data_pipelines.tasks.load import load_task
from support.paths import ROOT

README = ROOT / "data_pipelines" / "tasks" / "README.md"
# (file, its text, the flags that read it)
FOUND = re.findall(
    r"^```\w+ (\S+)\n(.*?)^```\n\n((?: {4}--[^\n]*\n)+)",
    README.read_text(encoding="utf-8"),
    re.MULTILINE | re.DOTALL,
)
WARM, LONG, LEFT = "A warm, funny film.", "Two hours too long.", 'He said "no" and left.'
NAMES = [
    (("Angela", "Merkel", "visits", "Helsinki"), ("B-PER", "I-PER", "O", "B-LOC")),
    (("Good", "morning"), ("O", "O")),
]
EXPECTED = {
    "reviews.tsv": [(WARM, None, "good"), (LEFT, None, "bad")],
    "no_header.tsv": [(WARM, None, "good"), (LONG, None, "bad")],
    "reviews.csv": [(WARM, None, "5"), ('He said "no".', None, "1")],
    "reviews.jsonl": [(WARM, None, "good"), (LONG, None, "bad")],
    "pairs.tsv": [
        ("A man sleeps.", "A man is awake.", "contradiction"),
        ("A dog runs in the rain.", "A dog is wet.", "neutral"),
        ("A girl sings a song.", "A girl sings.", "entailment"),
    ],
    "similarity.csv": [
        ("A plane takes off.", "An air plane is taking off.", 5.0),
        ("A man plays a flute.", "A man eats pasta.", 0.6),
    ],
    "names.conll": NAMES,
    "names.jsonl": NAMES,
    "trees.conllu": [(("Dogs", "bark", "."), ("NOUN", "VERB", "PUNCT"))],
    "questions.json": [("q1", "1,230 km", 13, False), ("q2", "", None, True)],
    "search.jsonl": [
        ("How long is the Rhine?", "The Rhine is 1,230 km long.", ("The Rhine is deep.",), None),
        ("Who wrote Faust?", "Goethe wrote Faust.", ("",), None),
    ],
    "sentences.tsv": [("A man plays a flute.", None, (), None), ("A plane takes off.", None, (), None)],
}


def with_flags(flags):
    """config.task as the flags set it."""
    values = dict(flag.removeprefix("--").split("=", 1) for flag in shlex.split(flags))
    task = finetune.get_config(values.pop("config").partition(":")[2]).task.to_dict()
    for key, value in values.items():
        name = key.removeprefix("config.task.")
        assert name in task, f"{key}: no such key"
        task[name] = value
    return task


def test_every_example_is_tested():
    assert [name for name, _, _ in FOUND] == list(EXPECTED)


@pytest.mark.parametrize(("name", "text", "flags"), FOUND, ids=list(EXPECTED))
def test_an_example_is_read(tmp_path, monkeypatch, name, text, flags):
    monkeypatch.chdir(tmp_path)
    (tmp_path / name).write_text(text, encoding="utf-8")
    task = with_flags(flags)
    assert task["train"] == name
    data = load_task(task)
    assert data.notes == [] and list(data.splits) == ["train"]
    examples = data.splits["train"]
    if task["kind"] == "tagging":
        got = [(example.words, tuple(data.labels[tag] for tag in example.tags)) for example in examples]
    elif task["kind"] == "question_answering":
        got = [(one.id, one.answer, one.start, one.is_impossible) for one in examples]
    elif task["kind"] == "embedding":
        got = examples
    else:
        spelled = lambda label: data.labels[label] if data.labels else label
        got = [(example.text, example.pair, spelled(example.label)) for example in examples]
    assert got == EXPECTED[name]


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("reviews.tsv", "its first line has the columns 'text', 'label'; if that line is no header"),
        ("no_header.tsv", r"the columns 'r1', 'good', 'A warm, funny film\.'; .* their numbers, 0 to 2"),
        ("reviews.csv", "its first line has the columns 'id', 'review', 'stars'"),
        ("reviews.jsonl", "its first line has the fields 'text', 'label', 'year'"),
        ("names.conll", r"its first word has the columns 0 \('Angela'\), 1 \('NNP'\), 2 \('B-PER'\)"),
        ("names.jsonl", "its first line has the fields 'words', 'tags'"),
    ],
)
@pytest.mark.parametrize("given", [{}, {"text": "x"}, {"label": "x"}], ids=["nothing", "text", "label"])
def test_the_first_error_lists_the_columns(tmp_path, monkeypatch, name, found, given):
    monkeypatch.chdir(tmp_path)
    [(text, flags)] = [(text, flags) for other, text, flags in FOUND if other == name]
    (tmp_path / name).write_text(text, encoding="utf-8")
    keys = " and ".join(f"config.task.{key}" for key in ("text", "label") if key not in given)
    with pytest.raises(
        ValueError, match=f"^{keys}: got '', expected the column or field of {name} .*{found}"
    ):
        load_task(with_flags(flags) | {"text": "", "label": ""} | given)


def test_a_column_file_has_no_names(tmp_path):
    (tmp_path / "a.conll").write_text("# a comment\n\nDogs\tNOUN\n", encoding="utf-8")
    task = with_flags(FOUND[-6][2]) | {"train": str(tmp_path / "a.conll"), "text": "form", "label": "1"}
    with pytest.raises(
        ValueError, match=r"config\.task\.text: got 'form'.*columns 0 \('Dogs'\), 1 \('NOUN'\)"
    ):
        load_task(task)


def test_a_file_that_is_missing_or_empty_is_named_first(tmp_path):
    task = with_flags(FOUND[0][2]) | {"text": "", "label": ""}
    with pytest.raises(FileNotFoundError, match=r"a\.tsv: does not exist, expected a file"):
        load_task(task | {"train": str(tmp_path / "a.tsv")})
    for name in ("a.tsv", "a.jsonl"):
        (tmp_path / name).write_text("")
        with pytest.raises(ValueError, match="that holds it; it is empty"):
            load_task(task | {"train": str(tmp_path / name)})
