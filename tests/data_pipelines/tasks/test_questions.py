"""Questions in SQuAD's format, and in datasets built here with the features of the published ones."""

import json
import logging

import numpy as np
import pytest
import tensorflow_datasets as tfds

from data_pipelines.tasks.datasets import TaskDataset
from data_pipelines.tasks.questions import QUESTION_COLUMNS, Question, questions_of_dataset, read_squad_file
from data_pipelines.tasks.records import Columns, Skipped
from electra_jax.finetuning.squad_metrics import squad_score
from support.task_settings import write

CONTEXT = "The cat sat. The dog sat on the cat's\n big Mat."
TEXT = tfds.features.Text()


def answer(text, start):
    return {"text": text, "answer_start": start}


def asked(name, *answers, question="Who?", **fields):
    return {"id": name, "question": question, "answers": list(answers), **fields}


def squad(*questions, context=CONTEXT):
    return {
        "version": "1.1",
        "data": [{"title": "a", "paragraphs": [{"context": context, "qas": list(questions)}]}],
    }


def read(path, content, split="train"):
    skipped = Skipped()
    questions = read_squad_file(write(path, json.dumps(content)), split, skipped)
    return questions, skipped.sentences()


@pytest.mark.parametrize("name", ["a.json", "a.json.gz"])
def test_version_1(tmp_path, name):
    content = squad(
        asked("1", answer("cat", 4), answer("The cat", 0)), asked("2", answer("dog", 17), question="Wer saß?")
    )
    content["data"] += squad(asked("3", answer("né", 3)), context="Il né")["data"]
    assert read(tmp_path / name, content) == (
        [
            Question("1", "Who?", CONTEXT, ("cat", "The cat"), 4, "cat", False, True),
            Question("2", "Wer saß?", CONTEXT, ("dog",), 17, "dog", False, True),
            Question("3", "Who?", "Il né", ("né",), 3, "né", False, True),
        ],
        [],
    )


def test_version_2_has_questions_without_an_answer(tmp_path):
    content = squad(
        asked("1", answer("cat", 4), is_impossible=False),
        asked("2", is_impossible=True, plausible_answers=[answer("dog", 17)]),
    )
    for split in ("train", "validation"):
        assert read(tmp_path / "a.json", content, split) == (
            [
                Question("1", "Who?", CONTEXT, ("cat",), 4, "cat", False, True),
                Question("2", "Who?", CONTEXT, (), None, "", True, True),
            ],
            [],
        )
    content = squad(asked("1", answer("cat", 4), is_impossible=True))
    with pytest.raises(ValueError, match=r"qas\[0\]: is impossible but has 1 answers, expected none"):
        read(tmp_path / "a.json", content)


def test_a_test_file_may_have_no_answers(tmp_path):
    bare = {"id": "1", "question": "", "is_impossible": False}
    expected = [
        Question(name, text, CONTEXT, (), None, "", False, False) for name, text in (("1", ""), ("2", "Who?"))
    ]
    assert read(tmp_path / "a.json", squad(bare, asked("2")), "test") == (expected, [])
    for split in ("train", "validation"):
        with pytest.raises(
            ValueError, match=r"a\.json: no question has an answer, expected some; only a file to test on"
        ):
            read(tmp_path / "a.json", squad(bare, asked("2")), split)


def test_unusable_questions_are_counted(tmp_path):
    content = squad(
        asked("1"),
        asked("2", answer("cat", 4), question=" \n"),
        asked("3", is_impossible=False),
        {"id": "4", "question": "Who?"},
        asked("5", answer("cat", 4)),
    )
    content["data"] += squad(asked("6", answer("x", 0)), context="")["data"]
    for split in ("train", "validation", "test"):
        questions, notes = read(tmp_path / "a.json", content, split)
        assert [question.id for question in questions] == ["5"]
        place = f"{tmp_path / 'a.json'}: data[0].paragraphs[0]"
        assert notes == [
            f"{split}: skipped 3 examples with a missing label, the first at {place}.qas[0]",
            f"{split}: skipped 2 examples with an empty text, the first at {place}.qas[1]",
        ]


@pytest.mark.parametrize(
    ("text", "stated", "start", "found"),
    [
        ("cat", 3, 4, "cat"),
        ("cat", 31, 32, "cat"),
        ("cat", 18, 4, "cat"),
        ("cat", 19, 32, "cat"),
        ("cat", 999, 32, "cat"),
        ("cat", -4, 4, "cat"),
        ("Mat.", -4, 43, "Mat."),
        (" dog", 17, 16, " dog"),
        ("cat's big mat.", 0, 32, "cat's\n big Mat."),
        ("THE \t", 40, 28, "the"),
        ("The", 40, 13, "The"),
        ("at. t", 0, 9, "at. T"),
    ],
)
def test_a_misplaced_answer_is_searched_for(tmp_path, text, stated, start, found):
    """The nearest one is used; other letter case and white space only if there is no exact match."""
    for split in ("train", "validation"):
        [question], notes = read(tmp_path / "a.json", squad(asked("1", answer(text, stated))), split)
        assert question[3:6] == ((text,), start, found) and CONTEXT[start : start + len(found)] == found
        assert notes == [
            f"{split}: kept 1 example with an answer re-found elsewhere in its context, the first at "
            f"{tmp_path / 'a.json'}: data[0].paragraphs[0].qas[0]"
        ]


@pytest.mark.parametrize(
    ("context", "answers", "golds"),
    [
        ("Ärzte in München", ["Mu\u0308nchen"], ("Mu\u0308nchen", "München")),
        ("in Mu\u0308nchen", ["münchen", "München"], ("münchen", "München", "Mu\u0308nchen")),
        ("ｶﾞﾗｽ を 買う", ["ガラス"], ("ガラス", "ｶﾞﾗｽ")),
        ("im Jahr ２０２４", ["2024", "２０２４"], ("2024", "２０２４")),
        ("The Cat\n sat", ["the cat", "dog"], ("the cat", "dog")),
    ],
    ids=["composed", "decomposed", "narrow", "wide", "case"],
)
def test_a_prediction_is_right_as_the_context_spells_it(tmp_path, context, answers, golds):
    content = squad(asked("1", *(answer(text, 0) for text in answers)), context=context)
    [question], _ = read(tmp_path / "a.json", content, split="validation")
    assert question.answers == golds
    assert squad_score([question.answers], [question.answer]) == {"exact_match": 1.0, "f1": 1.0}


def test_an_answer_that_is_not_in_the_context(tmp_path):
    """Such a question is evaluated but not trained on, unless the context contains another of its answers."""
    content = squad(
        asked("1", answer("cow", 4)),
        asked("2", answer("cow", 4), answer("dog", 17)),
        asked("3", answer(" ", 3)),
        asked("4", answer("sat", 8), answer("cat", 0)),
        asked("5", answer("cow", 4), answer("a..", 0)),
    )
    questions, notes = read(tmp_path / "a.json", content)
    usable = [
        Question("2", "Who?", CONTEXT, ("cow", "dog"), 17, "dog", False, True),
        Question("4", "Who?", CONTEXT, ("sat", "cat"), 8, "sat", False, True),
    ]
    place = f"the first at {tmp_path / 'a.json'}: data[0].paragraphs[0]"
    assert questions == usable
    refound = f"kept 1 example with an answer re-found elsewhere in its context, {place}.qas[3]"
    assert notes == [
        f"train: skipped 3 examples with no answer in its context, {place}.qas[0]",
        f"train: {refound}",
    ]
    questions, notes = read(tmp_path / "a.json", content, "validation")
    assert [question for question in questions if question.start is not None] == usable
    assert (
        questions[0] == Question("1", "Who?", CONTEXT, ("cow",), None, "", False, True)
        and len(questions) == 5
    )
    assert notes == [
        f"validation: kept 3 examples with no answer in its context, {place}.qas[0]",
        f"validation: {refound}",
    ]


def changed(*path, value=None):
    """A good file with `value` at `path`, or with nothing there."""
    content = squad(asked("1", answer("cat", 4)))
    *parents, last = path
    inner = content
    for key in parents:
        inner = inner[key]
    if value is None:
        del inner[last]
    else:
        inner[last] = value
    return json.dumps(content)


PARAGRAPH = ("data", 0, "paragraphs", 0)
QUESTION = (*PARAGRAPH, "qas", 0)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"data": [\n{"parag', r"a\.json: not valid JSON \(.*line 2 .*a whole file in SQuAD's format"),
        ("", r"a\.json: not valid JSON \(.*line 1 "),
        ("[]", r"a\.json: got a list, expected an object with the field 'data'\. SQuAD's format is"),
        ('{"rows": 1}', r"a\.json: no field 'data', found 'rows'\. SQuAD's format is"),
        ('{"data": {}}', r"a\.json: 'data' is an object, expected a list\."),
        ('{"data": [null]}', r"a\.json: data\[0\]: got null, expected an object with the field 'paragraphs'"),
        (changed("data", 0, "paragraphs"), r"data\[0\]: no field 'paragraphs', found 'title'"),
        (changed(*PARAGRAPH, "context"), r"data\[0\]\.paragraphs\[0\]: no field 'context', found 'qas'"),
        (changed(*PARAGRAPH, "qas"), r"data\[0\]\.paragraphs\[0\]: no field 'qas'"),
        (
            changed(*QUESTION, "id"),
            r"data\[0\]\.paragraphs\[0\]\.qas\[0\]: no field 'id', found 'question', 'answers'",
        ),
        (changed(*QUESTION, "id", value=True), r"qas\[0\]: 'id' is true or false, expected a string"),
        (changed(*QUESTION, "id", value=7.5), r"qas\[0\]: 'id' is a float, expected a string"),
        (changed(*QUESTION, "question"), r"qas\[0\]: no field 'question'"),
        (changed(*QUESTION, "question", value="\ud800"), r"qas\[0\]: 'question' is not valid UTF-8"),
        (changed(*QUESTION, "answers", value="cat"), r"qas\[0\]: 'answers' is a string, expected a list"),
        (
            changed(*QUESTION, "answers", 0, value="cat"),
            r"qas\[0\]\.answers\[0\]: got a string, expected an object",
        ),
        (
            changed(*QUESTION, "answers", 0, "text"),
            r"qas\[0\]\.answers\[0\]: no field 'text', found 'answer_start'",
        ),
        (
            changed(*QUESTION, "answers", 0, "answer_start"),
            r"qas\[0\]\.answers\[0\]: no field 'answer_start'",
        ),
        (
            changed(*QUESTION, "answers", 0, "answer_start", value=4.5),
            r"'answer_start' is a float, expected a whole number",
        ),
        (
            changed(*QUESTION, "answers", 0, "answer_start", value=True),
            r"'answer_start' is true or false, expected a whole number",
        ),
        (
            changed(*QUESTION, "is_impossible", value=0),
            r"qas\[0\]: 'is_impossible' is a whole number, expected true or false",
        ),
        (
            json.dumps(squad(asked("1"), asked("7", answer("cat", 4)), asked("1"))),
            r"qas\[2\]: got the id '1', which .*a\.json: data\[0\]\.paragraphs\[0\]\.qas\[0\] has too, "
            "expected each id once",
        ),
    ],
)
def test_malformed_files(tmp_path, text, message):
    with pytest.raises(ValueError, match=message):
        read_squad_file(write(tmp_path / "a.json", text), "train", Skipped())


# Datasets.


class Squad(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """Two questions per split: the first has two answers, the second none; the test split has no answers."""

    VERSION = tfds.core.Version("3.0.0")
    BUILDER_CONFIGS = [tfds.core.BuilderConfig(name=name, version="3.0.0") for name in ("v1.1", "v2.0")]

    def _info(self):
        answers = tfds.features.Sequence({"text": TEXT, "answer_start": np.int32})
        features = {"id": np.str_, "title": TEXT, "context": TEXT, "question": TEXT, "answers": answers}
        if self.builder_config.name == "v2.0":
            features |= {"is_impossible": np.bool_, "plausible_answers": answers}
        return tfds.core.DatasetInfo(
            builder=self, features=tfds.features.FeaturesDict(features), disable_shuffling=True
        )

    def _split_generators(self, _):
        return {split: self._examples(split) for split in ("train", "validation", "test")}

    def _examples(self, split):
        answers = (
            {"text": [], "answer_start": []}
            if split == "test"
            else {"text": ["né", "ù"], "answer_start": [3, 4]}
        )
        for i, given in enumerate((answers, {"text": [], "answer_start": []})):
            example = {
                "id": f"{split} {i}",
                "title": "",
                "context": "Où né ?",
                "question": f"Où ? {i}",
                "answers": given,
            }
            if self.builder_config.name == "v2.0":
                example |= {
                    "is_impossible": i == 1 and split != "test",
                    "plausible_answers": {"text": ["ù"], "answer_start": [1]},
                }
            yield i, example

    def _generate_examples(self):
        raise NotImplementedError


@pytest.fixture(scope="module")
def datasets(tmp_path_factory):
    logging.getLogger("absl").setLevel(logging.ERROR)
    root = tmp_path_factory.mktemp("tfds")
    for name in ("v1.1", "v2.0"):
        Squad(config=name, data_dir=root, file_format="array_record").download_and_prepare()
    return {
        name: TaskDataset(str(root / "squad" / name / "3.0.0"), QUESTION_COLUMNS) for name in ("v1.1", "v2.0")
    }


@pytest.mark.parametrize("version", ["v1.1", "v2.0"])
@pytest.mark.parametrize("name", ["train", "validation"])
def test_datasets(datasets, version, name):
    skipped, dataset = Skipped(), datasets[version]
    questions = questions_of_dataset(dataset, name, "validation", skipped)
    impossible = Question(f"{name} 1", "Où ? 1", "Où né ?", (), None, "", True, True)
    assert questions == [
        Question(f"{name} 0", "Où ? 0", "Où né ?", ("né", "ù"), 3, "né", False, True),
        *([impossible] if version == "v2.0" else []),
    ]
    assert type(questions[0].start) is int and type(questions[-1].is_impossible) is bool
    place = f"the first at {dataset.source} {name}: example"
    refound = f"validation: kept 1 example with an answer re-found elsewhere in its context, {place} 0"
    missing = f"validation: skipped 1 example with a missing label, {place} 1"
    assert sorted(skipped.sentences()) == sorted([refound] if version == "v2.0" else [refound, missing])


@pytest.mark.parametrize("version", ["v1.1", "v2.0"])
def test_a_split_without_answers(datasets, version):
    questions = questions_of_dataset(datasets[version], "test", "test", Skipped())
    assert questions == [
        Question(f"test {i}", f"Où ? {i}", "Où né ?", (), None, "", False, False) for i in range(2)
    ]
    with pytest.raises(ValueError, match=r"no question of 'test' has an answer, expected some to train on"):
        questions_of_dataset(datasets[version], "test", "train", Skipped())


def test_number_ids_and_empty_answers_of_a_dataset(datasets, monkeypatch):
    dataset = datasets["v2.0"]
    examples = list(dataset.examples("train"))
    changed = {"id": np.int64(7), "answers": {"text": [b""], "answer_start": np.array([-1], np.int32)}}
    examples[1] = (examples[1][0], examples[1][1] | changed)
    monkeypatch.setattr(dataset, "examples", lambda name: iter(examples))
    question = questions_of_dataset(dataset, "train", "train", Skipped())[1]
    assert question == Question("7", "Où ? 1", "Où né ?", (), None, "", True, True)


def test_datasets_that_cannot_be_read(datasets):
    dataset = datasets["v1.1"]
    with pytest.raises(
        ValueError, match=r"cannot be read \(no split 'dev', found train, validation, test\); expected"
    ):
        questions_of_dataset(dataset, "dev", "validation", Skipped())
    other = TaskDataset(dataset.source, Columns("question", "context", "title"))
    with pytest.raises(
        ValueError, match=r"got the features .*, expected 'id' and, in 'title', sequences of 'text'"
    ):
        questions_of_dataset(other, "train", "train", Skipped())
