"""What one task is fine-tuned with: its rows by the encoder, and settings that its examples do not allow."""

import jax
import pytest

from data_pipelines.tasks.examples import TaggedExample, TextExample
from data_pipelines.tasks.load import TaskData
from data_pipelines.tasks.questions import Question
from electra_jax.configuration.flags import load_config
from electra_jax.distributed.mesh import make_mesh
from electra_jax.finetuning.encoders import PretrainedEncoder
from electra_jax.finetuning.task_finetuner import TaskFinetuner
from electra_jax.finetuning.trainer import Trainer
from support.tiny import SPECIAL
from support.tiny_task import ONE, encoder_config


class WordTokenizer:
    """A token for each word, or for each of its letters."""

    special, num_pieces = SPECIAL, 20

    def __init__(self, fingerprint):
        self.fingerprint = fingerprint

    def encode_batch(self, texts):
        return [[7] * (1 if self.fingerprint == "words" else len(text)) for text in texts]

    def decode(self, ids):
        return "a"


@pytest.fixture
def open_task():
    """A recipe's name, changes of its task, labels, training and held-out examples → TaskFinetuner."""

    def open_it(name, changes, labels, train, held_out):
        config = load_config(f"configs/finetune.py:task={name}").to_dict()
        config["task"] |= changes
        config["train"] |= {"num_epochs": 1, "batch_size": 4}
        data = TaskData(labels, {"train": train, "validation": held_out}, [])
        return TaskFinetuner(config, data, make_mesh(ONE, jax.devices()[:1]))

    return open_it


@pytest.mark.parametrize("order", [("words", "letters"), ("letters", "words")], ids="-".join)
def test_the_schedule_of_a_run_has_the_steps_of_its_own_rows(order, open_task, monkeypatch):
    """Encoders of one shape, whose tokenizers divide the sentences into one row or into four: of 30 letters,
    a row holds three words of eight."""
    sentence = TaggedExample(("lettered",) * 10, (0, 1) * 5)
    finetuner = open_task("local_tagging", {"max_length": 32}, ("O", "B-X"), [sentence] * 8, [sentence])
    num_steps = {}

    def run(trainer, params, seed, train, held_out, watch):
        num_steps[name] = trainer.num_steps
        raise InterruptedError

    monkeypatch.setattr(Trainer, "run", run)
    for name in order:
        encoder = PretrainedEncoder(name, encoder_config("electra"), WordTokenizer(name), None)
        with pytest.raises(InterruptedError):
            finetuner.finetune(encoder, {}, 0)
    assert num_steps == {"words": 8 / 4, "letters": 8 * 4 / 4}


ASKED = Question("1", "Who?", "A boat.", ("boat",), 2, "", False, True)


@pytest.mark.parametrize(
    ("name", "labels", "train"),
    [
        ("local", ("low", "high"), [TextExample("a", None, 0), TextExample("b", None, 1)]),
        ("local_regression", (), [TextExample("a", None, 0.5), TextExample("b", None, 1.5)]),
        ("local_tagging", ("O", "B-X"), [TaggedExample(("a", "b"), (0, 1))]),
        ("local_squad", (), [ASKED]),
    ],
    ids=["classes", "numbers", "tags", "answers"],
)
def test_only_pairs_are_swapped(name, labels, train, open_task):
    open_task(name, {}, labels, train, train)
    with pytest.raises(ValueError, match=r"^config\.task\.swaps_pairs: got True with .*, expected False"):
        open_task(name, {"swaps_pairs": True}, labels, train, train)


def test_pairs_are_swapped(open_task):
    train = [TextExample("a", "b", 0), TextExample("c", "d", 1)]
    open_task("local", {"swaps_pairs": True}, ("low", "high"), train, train)


UNANSWERED = ASKED._replace(answers=(), start=None, answer="", is_impossible=True)
# Of four examples, a subset of one is always the third, and one of two the first and the third.
NUMBERS = [TextExample("a", None, number) for number in (1.0, 1.0, 1.0, 2.0)]


@pytest.mark.parametrize(
    ("name", "changes", "examples", "message"),
    [
        (
            "local_squad",
            {"metrics": ("best_f1",), "max_eval_examples": 1},
            [ASKED, ASKED, ASKED, UNANSWERED],
            r"config\.task\.metrics cannot be computed for this task: .*got best_f1, expected some of",
        ),
        (
            "local_squad",
            {"max_train_examples": 1},
            [ASKED, ASKED, UNANSWERED, ASKED],
            r"config\.task: got 1 questions in train that have no answer",
        ),
        (
            "local_regression",
            {"max_train_examples": 2},
            NUMBERS,
            r"config\.task: got the number 1 for each of 2 examples of train",
        ),
        (
            "local",
            {"max_train_examples": 2},
            [TextExample("a", None, label) for label in (0, 1, 0, 1)],
            r"config\.task: got one class in train, 'low', expected two or more",
        ),
    ],
    ids=["metrics", "answers", "numbers", "classes"],
)
def test_what_a_subset_does_not_allow_is_found_before_training(name, changes, examples, message, open_task):
    labels = ("low", "high") if name == "local" else ()
    unlimited = changes | dict.fromkeys(("max_train_examples", "max_eval_examples"), 0)
    open_task(name, unlimited, labels, examples, examples)
    with pytest.raises(
        ValueError, match=rf"^{message}.*: raise config\.task\.max_train_examples and max_eval"
    ):
        open_task(name, changes, labels, examples, examples)


def test_a_class_without_training_examples_is_noted(open_task):
    """One that config.task.max_train_examples has left without any, too."""
    examples = [TextExample("a", None, label) for label in (0, 2, 1, 2)]
    changes = {"max_train_examples": 2}
    notes = open_task("local", changes, ("low", "high", "medium"), examples, examples).notes
    assert "train: no example has the class 'medium'" in notes
