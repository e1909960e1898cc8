"""The task of embeddings: its metrics, what is refused before training, and that it learns."""

import re

import jax
import numpy as np
import pytest

from data_pipelines.tasks.embedding_examples import EmbeddingExample
from data_pipelines.tasks.load import TaskData
from electra_jax.configuration.checks import check_values
from electra_jax.configuration.flags import load_config
from electra_jax.distributed.mesh import make_mesh
from electra_jax.distributed.sharding import axis_context
from electra_jax.finetuning.bm25 import bm25_notes
from electra_jax.finetuning.data_checks import (
    check_can_be_learned,
    check_contrastive,
    check_metrics,
    check_swaps,
)
from electra_jax.finetuning.metrics import check_metric_names
from electra_jax.finetuning.retrieval import Found
from electra_jax.finetuning.sweep import apply_settings, parse_sweep
from electra_jax.finetuning.task_finetuner import TaskFinetuner
from electra_jax.finetuning.trainer import Trainer
from support.tiny import SPECIAL
from support.tiny_pairs import EXAMPLES, Characters
from support.tiny_task import ONE, encoder_config, make_type

GRADED = [EmbeddingExample("a", pair, (), label) for pair, label in zip("bcd", (0.5, 3.0, 1.0), strict=True)]
ALONE = [EmbeddingExample(text, None, (), None) for text in "ab"]


def embedding_config():
    return load_config("configs/finetune.py:task=local_embedding").to_dict()


def test_default_metrics_depend_on_the_numbers():
    assert make_type("embedding").metrics == ("ndcg@10", "recall@1", "recall@10", "mrr")
    graded = make_type("embedding", label="score")
    assert graded.metrics == ("spearman",)
    found = [Found(similarity, ()) for similarity in (0.1, 0.9, 0.3)]
    assert graded.score(GRADED, found) == {"spearman": 1.0}
    assert graded.is_labelled(GRADED[0]) and not graded.is_labelled(EXAMPLES[0])
    assert make_type("embedding").is_labelled(EXAMPLES[0]) and not make_type("embedding").is_labelled(
        ALONE[0]
    )


def test_graded_pairs_are_compared_and_others_searched():
    vectors = [np.array([1.0, 0.0]), np.array([0.0, 2.0]), np.array([3.0, 0.0]), np.array([1.0, 1.0])]
    found = make_type("embedding", label="s").collect(GRADED, [], vectors)
    np.testing.assert_allclose([one.similarity for one in found], [0, 1, 0.5**0.5], atol=1e-6)
    assert [one.ranks for one in found] == [()] * 3
    task_type = make_type("embedding")
    found = task_type.collect(GRADED, [], vectors)
    assert [one.ranks for one in found] == [(1, 2, 3)] * 3
    assert task_type.format_prediction(found[2]) == "0.707107 1 2 3"


@pytest.mark.parametrize(
    ("task", "message"),
    [
        ({"metrics": ("spearman",)}, r"got spearman without config\.task\.label, .* Set config\.task\.label"),
        ({"metrics": ("mrr",), "label": "s"}, r"got mrr with config\.task\.label, .* Leave out config\.task"),
    ],
)
def test_metrics_that_the_data_does_not_have(task, message):
    with pytest.raises(ValueError, match=rf"^config\.task\.metrics: {message}"):
        make_type("embedding", **task)


def test_unknown_metrics_are_named():
    with pytest.raises(ValueError, match=r"got accuracy, expected some of ndcg@10, .* for embedding"):
        check_metric_names("embedding", ("accuracy",))
    check_metrics(make_type("embedding"), EXAMPLES)
    check_metrics(make_type("embedding", label="s"), GRADED)


def test_settings_that_do_not_fit():
    config = embedding_config()
    check_values(config)
    config["sift"]["vat_lambda"] = 1.0
    with pytest.raises(
        ValueError, match=r"^config\.sift\.vat_lambda: got 1.0 with .*'embedding', expected 0"
    ):
        check_values(config)
    model = config["model"]
    model["hidden_dropout"], model["attention_dropout"] = 0.0, 0.0
    check_contrastive(config, EXAMPLES)
    with pytest.raises(ValueError, match=r"^config\.model\.hidden_dropout: got 0.0, and no dropout of the"):
        check_contrastive(config, ALONE)
    model["hidden_dropout"], config["task"]["swaps_pairs"] = 0.1, True
    check_contrastive(config, ALONE)
    with pytest.raises(ValueError, match=r"^config\.task\.swaps_pairs: got True with training texts without"):
        check_swaps(config["task"], ALONE)
    check_contrastive(config | {"train": {"batch_size": 1}}, [EXAMPLES[0]])
    with pytest.raises(
        ValueError, match=r"^config\.train\.batch_size: got 1, expected 2 or more: the other texts"
    ):
        check_contrastive(
            config | {"train": {"batch_size": 1}}, [one._replace(negatives=("",)) for one in EXAMPLES]
        )
    same = [example._replace(pair="p") for example in EXAMPLES]
    with pytest.raises(ValueError, match=r"^config\.task: got the same text for each of 5 examples of train"):
        check_can_be_learned(make_type("embedding"), TaskData((), {"train": same}, []))


@pytest.mark.parametrize(
    ("key", "value"), [("negatives", "n"), ("temperature", 0.1), ("matryoshka", (8,))], ids=str
)
def test_settings_that_other_tasks_do_not_have(key, value):
    config = load_config("configs/finetune.py:task=local").to_dict()
    check_values(config | {"task": config["task"] | {"matryoshka": []}})  # as JSON has it
    config["task"][key] = value
    with pytest.raises(ValueError, match=rf"^config\.task\.{key}: got .* only embeddings have it"):
        check_values(config)


def test_texts_without_pairs_are_nothing_to_evaluate_on():
    data = TaskData((), {"train": ALONE * 9, "validation": ALONE}, [])
    with pytest.raises(ValueError, match=r"got no pairs to evaluate on in the splits train, validation, exp"):
        TaskFinetuner(embedding_config(), data, make_mesh(ONE, jax.devices()[:1]))


def test_the_temperature_can_be_swept():
    config = embedding_config()
    settings = parse_sweep(["task.temperature=0.02,0.1"], config)
    assert [apply_settings(config, one)["task"]["temperature"] for one in settings] == [0.02, 0.1]
    with pytest.raises(ValueError, match=r"got the key 'task\.train', expected one of"):
        parse_sweep(["task.train=a,b"], config)


def test_a_whole_task_is_opened_without_an_encoder():
    data = TaskData((), {"train": ALONE * 40, "validation": EXAMPLES}, [])
    finetuner = TaskFinetuner(embedding_config(), data, make_mesh(ONE, jax.devices()[:1]))
    finetuner.check_sweep([{"task.temperature": 0.1}])
    assert finetuner.config["task"]["metrics"] == ("ndcg@10", "recall@1", "recall@10", "mrr")
    [note] = bm25_notes(finetuner.task_type, finetuner.data)
    found = re.match(
        r"validation \((\d+) queries, (\d+) texts\): BM25, a search by words alone, has ndcg", note
    )
    assert int(found[1]) == len({example.text for example in EXAMPLES if example.pair})
    texts = {text for example in EXAMPLES for text in (example.pair, *example.negatives) if text}
    assert int(found[2]) == len(texts)
    assert bm25_notes(make_type("embedding", label="s"), data) == []


def translated(count, seed):
    """Queries of the first letters, and pairs of the last ones: "bad" belongs to "oqn"."""
    source = np.random.default_rng(seed)
    words = ["".join(source.choice(list("abcdefghijklm"), 4)) for _ in range(count)]
    shift = lambda word: "".join(chr(ord(letter) + 13) for letter in word)
    return [EmbeddingExample(word, shift(word), (), None) for word in dict.fromkeys(words)]


def test_pairs_are_learnt():
    """The letters of a query and of its pair have nothing in common before training."""
    config = embedding_config()
    config["optimizer"] |= {"learning_rate": 1e-2, "layer_decay": 1.0}
    config["train"] |= {"num_epochs": 4, "batch_size": 32}
    train, held_out = translated(200, 0), translated(60, 1)
    task_type, mesh = make_type("embedding"), make_mesh(ONE, jax.devices()[:1])
    rows, _ = task_type.encode(Characters(), train, 16)
    searched, _ = task_type.encode_held_out(Characters(), held_out, 16)
    trainer = Trainer(encoder_config("electra"), SPECIAL, task_type, config, len(rows), mesh)
    with axis_context(mesh):
        start = trainer.predict_all(trainer.init_params(jax.random.key(0)), searched)
    outcome = trainer.run(None, 0, rows, {"validation": searched})
    before, after = (
        task_type.score(held_out, task_type.collect(held_out, searched, outputs))["recall@10"]
        for outputs in (start, outcome.outputs["validation"])
    )
    assert before < 0.5 < 0.8 < after
