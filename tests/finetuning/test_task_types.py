"""From outputs to predictions, their files, and fine-tuned models on disk."""

import json
import re
from pathlib import Path

import jax
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from data_pipelines.tasks.datasets import Origin
from data_pipelines.tasks.encoding import EncodedExample, encode_examples
from data_pipelines.tasks.labels import UNKNOWN
from data_pipelines.tasks.load import TaggedExample, TaskData, TextExample
from data_pipelines.tasks.questions import Question
from data_pipelines.tokenizers.load import load_tokenizer
from electra_jax.finetuning.encoder_shapes import abstract_encoder
from electra_jax.finetuning.model_files import load_model, save_model
from electra_jax.finetuning.predictions import write_predictions
from electra_jax.finetuning.span_decoding import Answer, IndependentOutputs
from electra_jax.finetuning.task_types import make_task_type
from electra_jax.models.config import make_pretraining_config
from support import tiny_export
from support.damage import flip_bit
from support.tiny import SPECIAL
from support.tiny_task import make_type


def one_hot(tags, length):
    return np.eye(3)[np.pad(np.array(tags), (0, length - len(tags)))]


@pytest.mark.parametrize("tags", [(2, 0, 1, 2), (UNKNOWN,) * 4])
def test_a_divided_sentence_has_one_prediction_with_or_without_its_tags(data, tags):
    task_type, tokenizer = make_type("tagging"), load_tokenizer(str(data / "tokenizer_corpus"))
    examples = [TaggedExample(("abcd", "ef", "ghij", "k"), tags), TaggedExample(("ab",), tags[:1])]
    rows, cut = encode_examples(tokenizer, examples, 8)
    assert cut == 1 and len(rows) > 2
    predicted = iter((1, 2, 0, 1, 2))
    # All tokens but the first of a word have other outputs, which must be ignored.
    outputs = [one_hot([next(predicted) if label != -1 else 0 for label in row.label], 16) for row in rows]
    collected = task_type.collect(examples, rows, outputs)
    assert [sentence.tolist() for sentence in collected] == [[1, 2, 0, 1], [2]]
    labels, is_scored = task_type.make_labels(rows, len(rows) + 1, 16, 0)
    assert (
        is_scored.sum() == (0 if UNKNOWN in tags else 5)
        and not is_scored[-1].any()
        and (labels[-1] == -1).all()
    )
    assert [task_type.is_labelled(example) for example in examples] == [UNKNOWN not in tags] * 2


def test_a_word_without_a_tag_is_predicted_but_not_scored(data):
    task_type = make_type("tagging", metrics=("tagging_accuracy",))
    tokenizer = load_tokenizer(str(data / "tokenizer_corpus"))
    examples = [TaggedExample(("ab", "cd", "ef"), (UNKNOWN, 1, 0)), TaggedExample(("ab",), (UNKNOWN,))]
    rows, _ = encode_examples(tokenizer, examples, 16)
    _, is_scored = task_type.make_labels(rows, 2, 16, 0)
    assert is_scored.sum() == 2
    collected = task_type.collect(examples, rows, [one_hot([1] * 16, 16)] * 2)
    assert [len(sentence) for sentence in collected] == [3, 1]
    assert task_type.score(examples, [np.array([0, 1, 1]), np.array([1])]) == {"tagging_accuracy": 0.5}
    assert [task_type.is_labelled(example) for example in (*examples, TaggedExample((), ()))] == [
        True,
        False,
        False,
    ]


def test_an_unlabelled_row_is_not_scored():
    for name, dtype in (("classification", np.int32), ("regression", np.float32)):
        labels, is_scored = make_type(name).make_labels(
            [EncodedExample(np.ones(3), 1, 0), EncodedExample(np.ones(3), None, 1)], 4, 8, 0
        )
        assert (
            labels.dtype == dtype
            and labels.tolist() == [1, 0, 0, 0]
            and is_scored.tolist() == [True, False, False, False]
        )


def task_of(**changes):
    return {"kind": "classification", "metrics": ("accuracy",), "source": "", "null_threshold": 0.0} | changes


def test_files_for_the_leaderboard_of_glue(tmp_path):
    task, labels = task_of(), ("entailment", "neutral", "contradiction")
    unlabelled, labelled = [TextExample("a", "b", None)] * 2, [TextExample("a", "b", 1)] * 2
    data = TaskData(
        labels,
        {"train": labelled, "test_matched": unlabelled, "test": unlabelled, "validation_matched": labelled},
        [],
        {
            "test_matched": Origin("glue/mnli", "test_matched", True),
            "test": Origin("glue/ax", "test", True),
            "validation_matched": Origin("glue/mnli", "validation_matched", True),
        },
    )
    task_type = make_task_type(task, labels)
    for split in ("test_matched", "test", "validation_matched"):
        write_predictions(tmp_path, task_type, task, data, split, [2, 0])
    assert {path.name for path in tmp_path.iterdir()} == {
        "test_matched.tsv",
        "MNLI-m.tsv",
        "test.tsv",
        "AX.tsv",
        "validation_matched.tsv",
    }
    assert (tmp_path / "AX.tsv").read_text() == "index\tprediction\n0\tcontradiction\n1\tentailment\n"
    # A file of one's own is none of GLUE's test sets, whatever the source of the other splits is.
    own, glue = data._replace(origins={}), task_of(source="glue/mnli")
    write_predictions(tmp_path / "own", make_task_type(glue, labels), glue, own, "test", [1, 1])
    assert [path.name for path in (tmp_path / "own").iterdir()] == ["test.tsv"]


def question(name, answers, impossible=False):
    return Question(name, "Who?", "Peter ran.", answers, None, "", impossible, True)


@pytest.mark.parametrize("impossible", [False, True])
def test_files_for_the_leaderboard_of_squad(tmp_path, impossible):
    task = task_of(kind="question_answering", metrics=("exact_match",))
    questions = [question("x", ("Peter",)), question("y", () if impossible else ("ran",), impossible)]
    data = TaskData((), {"train": questions, "test": questions}, [])
    answers = [Answer("Peter", 1.0, -3.0, []), Answer("Peter\nran.", 1.0, 2.0, [])]
    task_type = make_task_type(task, ())
    write_predictions(tmp_path, task_type, task, data, "test", answers)
    assert json.loads((tmp_path / "test.json").read_text()) == {
        "x": "Peter",
        "y": "" if impossible else "Peter\nran.",
    }
    assert (tmp_path / "test_null_odds.json").exists() == impossible
    second = "" if impossible else "Peter ran."
    assert (tmp_path / "test.tsv").read_text() == f"index\tprediction\n0\tPeter\n1\t{second}\n"
    scores = task_type.score(questions, answers)
    assert next(iter(scores)) == "exact_match" and scores["exact_match"] == (1.0 if impossible else 0.5)
    with pytest.raises(
        ValueError, match=r"config\.task\.metrics: got accuracy, expected some of exact_match, f1"
    ):
        make_task_type(task | {"metrics": ("accuracy",)}, ()).score(questions, answers)


@pytest.mark.parametrize(
    ("trained", "evaluated", "second"),
    [
        (False, True, ""),  # SQuAD 1.1, then 2.0
        (True, False, "ran"),
        (True, None, ""),  # without labels: as the training questions
        (False, None, "ran"),
    ],
)
def test_written_answers_are_those_that_are_scored(tmp_path, trained, evaluated, second):
    """Whether the training questions and those of the split have some without an answer."""
    task = task_of(kind="question_answering", metrics=("exact_match",))
    possible, impossible = question("x", ("Peter",)), question("y", (), True)
    split = [possible, impossible if evaluated else question("y", ("ran",))]
    if evaluated is None:
        split = [one._replace(answers=(), is_labelled=False) for one in split]
    train = [possible, impossible] if trained else [possible]
    answers = [Answer("Peter", 1.0, -3.0, []), Answer("ran", 1.0, 2.0, [])]
    task_type = make_task_type(task, ())
    write_predictions(tmp_path, task_type, task, TaskData((), {"train": train, "s": split}, []), "s", answers)
    written = json.loads((tmp_path / "s.json").read_text())
    assert written == {"x": "Peter", "y": second}
    assert (tmp_path / "s.tsv").read_text() == f"index\tprediction\n0\tPeter\n1\t{second}\n"
    if evaluated is not None:
        right = [written[one.id] in (one.answers or ("",)) for one in split]
        assert task_type.score(split, answers)["exact_match"] == sum(right) / 2


def test_answers_are_texts_of_the_context():
    task_type = make_task_type(task_of(kind="question_answering", max_query_length=8, doc_stride=4), ())

    class Characters:
        special = SPECIAL
        encode_batch = staticmethod(
            lambda texts: [[5 + ord(letter) % 100 for letter in text] for text in texts]
        )
        encode_with_offsets = staticmethod(
            lambda texts: [
                (
                    [5 + ord(letter) % 100 for letter in text],
                    np.array([[i, i + 1] for i in range(len(text))], np.int32),
                )
                for text in texts
            ]
        )

    asked = [question("x", ("ran",))._replace(start=6, answer="ran")]
    rows, phrases = task_type.encode(Characters(), asked, 16)
    assert phrases == []
    _, phrases = task_type.encode(Characters(), [asked[0]._replace(question="x" * 9), *asked], 16)
    assert phrases == ["1 of 2 questions cut to 8 tokens (max_query_length)"]
    _, phrases = task_type.encode(Characters(), [asked[0]._replace(start=0, answer="Peter ran.")], 12)
    assert phrases == [
        "the answers of 1 of 1 questions are not completely inside any window of 12 tokens, and count there "
        "as no answer"
    ]
    assert len(rows) == 2  # the context has ten tokens, a window room for nine
    labels, is_scored = task_type.make_labels(rows, 3, 32, 0)
    assert is_scored.tolist() == [True, True, False]
    outputs = []
    for label in labels[:2]:
        start, end = np.zeros(32), np.zeros(32)
        start[label[0]], end[label[1]] = 9.0, 9.0
        outputs.append(IndependentOutputs(start, end))
    assert [answer.text for answer in task_type.collect(asked, rows, outputs)] == ["ran"]


@pytest.mark.parametrize("model", [tiny_export.electra_model(), tiny_export.deberta_model()])
def test_a_saved_model_reads_back_and_replaces_an_older_one(data, tmp_path, model):
    encoder, tokenizer = (
        make_pretraining_config(model).discriminator,
        load_tokenizer(str(data / "tokenizer_corpus")),
    )
    params = jax.tree.map(
        lambda leaf: np.full(leaf.shape, 0.5, np.float32), abstract_encoder(encoder, tokenizer)
    )
    params["head"] = {"kernel": np.arange(6.0, dtype=np.float32).reshape(2, 3).T}
    config = {"model": {"pooling": "cls"}}
    described = {"task": {"kind": "classification"}, "config": config, "labels": ["a"]}
    for metric in (0.1, 0.2):
        description = described | {"metrics": {"f1": metric}}
        save_model(tmp_path / "models" / "x", encoder, description, tokenizer, params)
    saved = load_model(tmp_path / "models" / "x")
    assert saved.encoder == encoder and saved.description == described | {"metrics": {"f1": 0.2}}
    assert saved.tokenizer.fingerprint == tokenizer.fingerprint
    assert [path.name for path in (tmp_path / "models").iterdir()] == ["x"]
    for name, array in flatten_dict(params, sep="/").items():
        np.testing.assert_array_equal(flatten_dict(saved.params, sep="/")[name], array)
    with pytest.raises(FileNotFoundError, match=r"no model\.json in it, expected a directory under models/"):
        load_model(tmp_path)
    _check_damage(tmp_path / "models" / "x")


def _check_damage(model):
    """Damage to each file of a saved model is told before the model is used."""
    for path in filter(Path.is_file, model.rglob("*")):
        name = re.escape(path.relative_to(model).as_posix())
        flip_bit(path)
        with pytest.raises(OSError, match=rf"{model} is damaged: {name} "):
            load_model(model)
        flip_bit(path)
    (model / "checksums.json").unlink()
    with pytest.raises(OSError, match=r"is damaged: checksums\.json is missing\. Copy it from a backup, or"):
        load_model(model)
    description = json.loads((model / "model.json").read_text())
    del description["has_checksums"]
    (model / "model.json").write_text(json.dumps(description))
    assert load_model(model).description["labels"] == ["a"]  # as an older version wrote it
