"""SQuAD's format as annotation tools and Hugging Face write it."""

import json

import pytest

from data_pipelines.tasks.load import load_task
from data_pipelines.tasks.questions import read_squad_file
from data_pipelines.tasks.records import Skipped
from support.task_settings import classification, write

CONTEXT = "The boat left at noon."
BOAT = {"text": "boat", "answer_start": 4}
NOTHING = {"text": "", "answer_start": -1}


def asked(name, **fields):
    return {"id": name, "question": "What left?"} | fields


def squad(*questions, context=CONTEXT):
    return {"data": [{"paragraphs": [{"context": context, "qas": list(questions)}]}]}


def read(tmp_path, content, split="train"):
    skipped = Skipped()
    questions = read_squad_file(write(tmp_path / "a.json", json.dumps(content)), split, skipped)
    return questions, [note.partition(", the first")[0] for note in skipped.sentences()]


@pytest.mark.parametrize(("name", "start"), [(7, 4), (7.0, 4.0), ("7", "4"), (7, -1), (7, 900.0)], ids=str)
def test_numbers_as_text_and_as_floats(tmp_path, name, start):
    content = squad(asked(name, answers=[{"text": "boat", "answer_start": start}]))
    [question], _ = read(tmp_path, content)
    assert (question.id, question.start, question.answer) == ("7", 4, "boat")


def test_ids_are_compared_as_text(tmp_path):
    with pytest.raises(ValueError, match="got the id '7', which"):
        read(tmp_path, squad(asked(7, answers=[BOAT]), asked("7", answers=[BOAT])))


@pytest.mark.parametrize("answers", [[], [NOTHING], [NOTHING, NOTHING], [{"text": None, "answer_start": 0}]])
def test_an_impossible_question_may_have_an_empty_answer(tmp_path, answers):
    content = squad(
        asked("1", answers=[BOAT], is_impossible=False), asked("2", answers=answers, is_impossible=True)
    )
    (_, question), notes = read(tmp_path, content)
    assert question.is_impossible and question.answers == () and question.start is None and notes == []


def test_empty_answers_without_a_word_about_them(tmp_path):
    """Where no question tells whether it is impossible, those with an empty list are."""
    content = squad(
        asked("1", answers=[BOAT]), asked("2", answers=[]), asked("3", answers=[NOTHING]), asked("4")
    )
    questions, notes = read(tmp_path, content)
    assert [(question.id, question.is_impossible) for question in questions] == [
        ("1", False),
        ("2", True),
        ("3", True),
    ]
    assert notes == [
        "train: kept 2 examples with an empty list of answers, taken for no answer in its context",
        "train: skipped 1 example with a missing label",
    ]
    content["data"][0]["paragraphs"][0]["qas"][0]["is_impossible"] = False
    questions, notes = read(tmp_path, content)
    assert len(questions) == 1 and notes == ["train: skipped 3 examples with a missing label"]


def test_a_test_file_with_empty_answers_has_none(tmp_path):
    questions, notes = read(tmp_path, squad(asked("1", answers=[]), asked("2", answers=[NOTHING])), "test")
    assert [question.is_labelled for question in questions] == [False, False] and notes == []


def test_answers_as_lists_and_questions_with_their_contexts(tmp_path):
    flat = {"data": [asked("1", context=CONTEXT, title="t", answers={"text": ["boat"], "answer_start": [4]})]}
    nested = squad(asked("1", answers={"text": ["boat"], "answer_start": [4]}))
    for content in (flat, nested):
        [question], notes = read(tmp_path, content)
        assert (question.context, question.answers, question.start) == (CONTEXT, ("boat",), 4) and notes == []
    flat["data"].append(asked("2", context=CONTEXT, answers={"text": [], "answer_start": []}))
    assert [question.is_impossible for question in read(tmp_path, flat)[0]] == [False, True]
    with pytest.raises(ValueError, match=r"answers: got 1 texts and 0 starts, expected as many"):
        read(tmp_path, squad(asked("1", answers={"text": ["boat"], "answer_start": []})))


def test_missing_texts_are_counted(tmp_path):
    content = squad(asked("1", answers=[BOAT]), asked("2", answers=[BOAT]) | {"question": None})
    content["data"] += squad(asked("3", answers=[BOAT]), context=None)["data"]
    questions, notes = read(tmp_path, content)
    assert len(questions) == 1 and notes == ["train: skipped 2 examples with an empty text"]


@pytest.mark.parametrize(
    ("context", "text", "found"),
    [
        ("Le caf\u0065\u0301 ouvre.", "caf\u00e9", "caf\u0065\u0301"),
        ("Le caf\u00e9 ouvre.", "caf\u0065\u0301", "caf\u00e9"),
        ("A \ufb01ne day", "fine", "\ufb01ne"),
        ("\uff12\uff10 boats", "20 Boats", "\uff12\uff10 boats"),
        ("\u1112\u1161\u11ab\u1100\u1173\u11af", "\ud55c\uae00", "\u1112\u1161\u11ab\u1100\u1173\u11af"),
        ("le  cafe\u0301\u00a0noir", "caf\u00e9 noir", "cafe\u0301\u00a0noir"),
    ],
)
def test_answers_in_another_unicode_form(tmp_path, context, text, found):
    content = squad(asked("1", answers=[{"text": text, "answer_start": 0}]), context=context)
    [question], notes = read(tmp_path, content)
    assert question.answer == found == context[question.start : question.start + len(found)]
    assert question.answers == (text, found) and len(notes) <= 1


def test_two_files_to_evaluate_on_share_no_ids(tmp_path):
    one, other = (
        write(tmp_path / name, json.dumps(squad(asked(0, answers=[BOAT])))) for name in ("a.json", "b.json")
    )
    task = classification(kind="question_answering", train=f"{one},{other}", validation=one)
    assert len(load_task(task).splits["train"]) == 2
    with pytest.raises(ValueError, match=r"config\.task\.validation: got 1 ids of questions that two of its"):
        load_task(task | {"validation": f"{one},{other}"})


def test_questions_that_are_held_out_share_no_ids(tmp_path):
    content = {"data": []}
    for number in range(4):
        question = asked(number, answers=[BOAT])
        content["data"] += squad(question, context=f"{CONTEXT} {number}")["data"]
    one, other = (write(tmp_path / name, json.dumps(content)) for name in ("a.json", "b.json"))
    task = classification(kind="question_answering", train=f"{one},{other}")
    assert len(load_task(task).splits["train"]) == 8
    with pytest.raises(
        ValueError,
        match=r"config\.task\.train: got 2 ids of questions to hold out that two of its files have, such as "
        r".*set config\.task\.validation to a file in place of config\.task\.validation_fraction",
    ):
        load_task(task | {"validation_fraction": 0.5})
    data = load_task(task | {"train": one, "validation_fraction": 0.5})
    assert [len(questions) for questions in data.splits.values()] == [2, 2]


def test_a_file_without_answers_beside_one_with_answers_is_not_scored(tmp_path):
    one = write(tmp_path / "a.json", json.dumps(squad(asked("1", answers=[BOAT]))))
    other = write(tmp_path / "b.json", json.dumps(squad(asked("2"), asked("3"))))
    task = classification(kind="question_answering", train=one)
    for test in (f"{one},{other}", f"{other},{one}"):
        data = load_task(task | {"test": test})
        assert [(question.id, question.is_labelled) for question in data.splits["test"]] == [("1", True)]
        assert data.notes == [f"test: skipped 2 examples with a missing label, the first at {other}"]
    data = load_task(task | {"test": other})
    assert [question.is_labelled for question in data.splits["test"]] == [False, False] and data.notes == []


def test_missing_and_damaged_files(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"a\.json: does not exist, expected a file"):
        read_squad_file(str(tmp_path / "a.json"), "train", Skipped())
    (tmp_path / "a.json.gz").write_bytes(b"{}")
    with pytest.raises(ValueError, match=r"a\.json\.gz: damaged or cut-off"):
        read_squad_file(str(tmp_path / "a.json.gz"), "train", Skipped())


def test_occurrences_that_overlap(tmp_path):
    content = squad(asked("1", answers=[{"text": "aa", "answer_start": 9}]), context="aaa a")
    [question], _ = read(tmp_path, content)
    assert (question.start, question.answer) == (1, "aa")
