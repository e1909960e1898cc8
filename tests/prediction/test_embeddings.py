"""From pairs of texts in files to vectors in JSON lines."""

import json

import jax
import numpy as np
import pytest

from electra_jax.configuration.flags import load_config
from electra_jax.finetuning.experiment import Plan, finetune
from electra_jax.finetuning.experiment_directory import MODELS
from electra_jax.finetuning.model_files import load_model
from electra_jax.finetuning.models import TaskModel
from electra_jax.models.inputs import SpecialTokens
from electra_jax.predict import main
from support import devices
from support.jitted import apply_jitted
from support.tiny_task import make_encoder


@pytest.fixture(scope="module")
def model(data, tmp_path_factory):
    """A model of embeddings, fine-tuned for a few steps."""
    root = tmp_path_factory.mktemp("embedding")
    words = sorted(set((data / "train.txt").read_text(encoding="utf-8").split()))[:40]
    rows = [f"{word} {other}\t{other} {word}\n" for word, other in zip(words, words[::-1], strict=True)]
    (root / "pairs.tsv").write_text("q\tp\n" + "".join(rows))
    config = load_config("configs/finetune.py:task=local_embedding").to_dict()
    files = {split: str(root / "pairs.tsv") for split in ("train", "validation")}
    config["task"] |= files | {"text": "q", "pair": "p", "matryoshka": ("8",), "max_length": 12}
    config["train"] |= {"num_epochs": 1, "batch_size": 16}
    config["log"] = {"progress": False}
    plan = Plan([f"random:{make_encoder(data, tmp_path_factory)[1]}"], [0], [{"task.temperature": 0.1}])
    with devices.one_device():
        [result] = finetune(config, root / "run", plan)
    assert list(result.metrics) == ["ndcg@10", "recall@1", "recall@10", "mrr"]
    [directory] = (root / "run" / MODELS).iterdir()
    return directory, words


@pytest.mark.slow
def test_a_model_says_what_an_export_needs(model):
    saved = load_model(model[0])
    task = saved.description["task"]
    assert (task["kind"], task["temperature"], task["matryoshka"]) == ("embedding", 0.1, [8])
    assert saved.description["config"]["model"]["pooling"] == "mean" and task["max_length"] == 12
    assert set(saved.params) == {"embeddings", "encoder"} and saved.description["labels"] == []


@pytest.mark.slow
def test_each_text_has_a_vector(model, tmp_path, capsys):
    directory, words = model
    texts = [words[0], f"{words[1]} {words[2]}", "", words[0]]
    (tmp_path / "a.txt").write_text("".join(text + "\n" for text in texts))
    vectors = {}
    for flags in ((), ("--width=8",), ("--width=8", "--normalize"), ("--format=tsv",)):
        main([f"--model={directory}", f"--input={tmp_path / 'a.txt'}", *flags])
        vectors[flags] = capsys.readouterr().out.splitlines()
    header, *lines = vectors.pop(("--format=tsv",))
    assert header == "text\tembedding" and lines[0].split("\t")[0] == texts[0]
    records = {flags: list(map(json.loads, lines)) for flags, lines in vectors.items()}
    whole, cut, normal = ([record["embedding"] for record in found] for found in records.values())
    assert json.loads(lines[1].split("\t")[1]) == whole[1] and whole[0] == whole[3] != whole[1]
    assert cut == [vector[:8] for vector in whole]
    np.testing.assert_allclose(normal, cut / np.linalg.norm(cut, axis=1, keepdims=True), rtol=1e-6)

    saved = load_model(directory)
    special = SpecialTokens.from_ids(saved.tokenizer.special)
    network = TaskModel(saved.encoder, special, "embedding", 0, "published", 0.1, "mean")
    ids = [[special.cls, *saved.tokenizer.encode_batch([text])[0][:10], special.sep] for text in texts]
    for row, vector in zip(ids, whole, strict=True):
        states = apply_jitted(network, saved.params, np.array([row]), False, method="states")
        wanted = np.asarray(jax.device_get(states), np.float64)[0].mean(axis=0)
        np.testing.assert_allclose(vector, wanted, rtol=0, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--width=33", "--width: got 33, expected at most 32, the model's dimensions"),
        ("--pair_column=p", "--pair_column: got 'p' for a model of embeddings, expected one column"),
    ],
)
def test_flags_that_vectors_do_not_have(model, tmp_path, flag, message):
    (tmp_path / "a.tsv").write_text("q\tp\na\tb\n")
    with pytest.raises(SystemExit, match=message):
        main([f"--model={model[0]}", f"--input={tmp_path / 'a.tsv'}", flag])
