"""Data that nothing can be learned from, and metrics that do not fit it, are refused before training."""

import pytest

from data_pipelines.tasks.labels import UNKNOWN
from data_pipelines.tasks.load import TaggedExample, TaskData, TextExample
from data_pipelines.tasks.questions import Question
from electra_jax.configuration.flags import load_config
from electra_jax.finetuning.data_checks import (
    absent_class_notes,
    check_can_be_learned,
    check_metrics,
    commonest_class_notes,
)
from electra_jax.finetuning.task_types import make_task_type


def task_type_of(kind, labels=(), metrics=()):
    task = load_config("configs/finetune.py:task=local").to_dict()["task"]
    return make_task_type(task | {"kind": kind, "metrics": metrics}, labels)


def data_of(labels, *examples):
    return TaskData(labels, {"train": list(examples)}, [])


def asked(*answers, is_impossible=False):
    return Question("1", "Who?", "A boat.", answers, 2 if answers else None, "", is_impossible, True)


GOOD, BAD = TextExample("a", None, 1), TextExample("b", None, 0)
TAGGED = TaggedExample(("a", "b"), (0, UNKNOWN))
TAGGED_B = TaggedExample(("c",), (1,))


@pytest.mark.parametrize(
    ("kind", "data", "message"),
    [
        (
            "classification",
            data_of(("pos",), BAD, BAD),
            "got one class in train, 'pos', expected two or more",
        ),
        (
            "classification",
            data_of(("neg", "pos"), GOOD, GOOD),
            r"got one class in train, 'pos', expected two or more\..*task\.validation_fraction",
        ),
        ("tagging", data_of(("O",), TAGGED), "got one class in train, 'O', expected two or more"),
        ("tagging", data_of(("O", "B"), TAGGED), "got one class in train, 'O', expected two or more"),
        ("regression", data_of((), GOOD, GOOD), "got the number 1 for each of 2 examples of train"),
        (
            "question_answering",
            data_of((), asked(is_impossible=True)),
            "1 questions in train that have no an",
        ),
    ],
)
def test_one_class_alone(kind, data, message):
    with pytest.raises(ValueError, match=rf"^config\.task: got .*{message.removeprefix('got ')}"):
        check_can_be_learned(task_type_of(kind), data)


def test_two_classes_are_enough():
    check_can_be_learned(task_type_of("classification"), data_of(("neg", "pos", "other"), GOOD, BAD))
    check_can_be_learned(task_type_of("tagging"), data_of(("O", "B", "I"), TAGGED, TAGGED_B))
    check_can_be_learned(task_type_of("regression"), data_of((), GOOD, BAD))
    check_can_be_learned(task_type_of("question_answering"), data_of((), asked("boat")))


@pytest.mark.parametrize(
    ("kind", "labels", "metric", "example", "message"),
    [
        ("classification", ("a", "b"), "f2", GOOD, r"got f2, expected some of accuracy"),
        ("classification", ("a", "b"), "span_f1", GOOD, r"got span_f1, expected some of accuracy"),
        ("regression", (), "accuracy", TextExample("a", None, 0.5), "got accuracy, expected some of pearson"),
        ("tagging", ("O", "B-X"), "accuracy", TAGGED, r"got accuracy, expected some of tagging_accuracy, sp"),
        ("tagging", ("O", "B-X"), "seqeval_f1", TAGGED, r"got seqeval_f1, expected some of tagging_acc"),
        ("tagging", ("NOUN", "VERB"), "span_f1", TAGGED, "expected tags O, B-"),
        ("question_answering", (), "best_f1", asked("boat"), "got best_f1, expected some of"),
    ],
)
def test_metrics_that_do_not_fit(kind, labels, metric, example, message):
    with pytest.raises(ValueError, match=rf"config\.task\.metrics.*{message}"):
        check_metrics(task_type_of(kind, labels, (metric,)), [example])


@pytest.mark.parametrize(
    ("kind", "labels", "metric", "found"),
    [
        ("classification", ("a", "b", "c"), "f1", (0, 1, 2)),
        ("classification", ("a", "b", "c"), "f1", (0, 1)),
    ],
)
def test_metrics_must_fit_whatever_is_predicted(kind, labels, metric, found):
    """The model may predict a class that the split lacks."""
    examples = [TextExample("a", None, label) for label in found]
    with pytest.raises(ValueError, match=r"config\.task\.metrics cannot be computed"):
        check_metrics(task_type_of(kind, labels, (metric,)), examples)


def test_metrics_that_fit():
    check_metrics(task_type_of("tagging", ("NOUN", "VERB"), ("tagging_accuracy",)), [TAGGED])
    check_metrics(task_type_of("tagging", ("O", "B-X"), ("span_f1",)), [TAGGED])
    check_metrics(task_type_of("regression", (), ("pearson", "spearman")), [GOOD, BAD])
    check_metrics(task_type_of("question_answering", (), ("f1",)), [asked("boat")])


@pytest.mark.parametrize(
    ("kind", "data", "notes"),
    [
        ("classification", data_of(("neg", "pos"), GOOD, BAD), []),
        ("tagging", data_of(("O", "B"), TAGGED, TAGGED_B), []),
        ("tagging", data_of(("O", "B", "I"), TAGGED, TAGGED_B), ["train: no example has the class 'I'"]),
        (
            "classification",
            data_of(("neg", "pos", *map(str, range(20))), GOOD, BAD),
            [
                "train: no example has the classes '0', '1', '2', '3', '4', '5', '6', '7', '8', '9', '10', "
                "'11', … and 8 more"
            ],
        ),
        ("regression", data_of((), GOOD, BAD), []),
    ],
)
def test_classes_that_no_training_example_has(kind, data, notes):
    assert absent_class_notes(task_type_of(kind, data.labels), data) == notes


def test_the_accuracy_of_the_commonest_class_of_every_split_with_labels():
    splits = {
        "train": [GOOD, BAD, BAD],
        "validation": [GOOD, BAD, GOOD, GOOD],
        "test": [GOOD._replace(label=None)],
    }
    data = TaskData(("neg", "pos"), splits, [])
    assert commonest_class_notes(task_type_of("classification", ("neg", "pos"), ("accuracy",)), data) == [
        "validation: a model that always answers 'pos', the commonest class, has an accuracy of 0.750"
    ]
    assert commonest_class_notes(task_type_of("regression", (), ("pearson",)), data) == []
