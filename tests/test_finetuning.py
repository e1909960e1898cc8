"""Fine-tuning: heads against `transformers`, the published layer-wise rates, batches that lose nothing, and the command."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_export
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import SPECIAL, key
from tiny_run import VOCAB

from configs import finetune as finetune_config
from data_pipelines.task_encoding import EncodedExample
from electra_jax import finetune
from electra_jax.command_line import load_config
from electra_jax.distributed.mesh import make_mesh
from electra_jax.export_run import export_run
from electra_jax.finetune import Plan
from electra_jax.finetuning.batches import evaluation_batches, num_training_steps, training_batches
from electra_jax.finetuning.initial import Initial, load_initial
from electra_jax.finetuning.kinds import make_kind
from electra_jax.finetuning.metrics import GLUE_METRICS
from electra_jax.finetuning.models import TaskModel
from electra_jax.finetuning.protocol import Outcome, Trainer, layer_groups
from electra_jax.finetuning.saved import load_model
from electra_jax.huggingface.names import DEBERTA_V2, ELECTRA, to_file
from electra_jax.models.config import make_pretraining_config
from electra_jax.training.optimizer import assign_groups
from electra_jax.training.state import unbox

ONE = {"data": 1, "fsdp": 1, "tensor": 1}


def encoder_config(family):
    model = tiny_export.electra_model() if family == "electra" else tiny_export.deberta_model()
    return make_pretraining_config(model).discriminator


def random_params(model, ids):
    """Off the trivial start of biases and LayerNorms."""
    params = unbox(model.init(key(), ids, False)["params"])
    leaves, tree = jax.tree.flatten(params)
    return jax.tree.unflatten(tree, [leaf + 0.1 * jax.random.normal(key(i), leaf.shape) for i, leaf in enumerate(leaves)])


def torch_model(name, config, params, num_labels):
    """The class of transformers with our weights; the encoder's through the table that the export is tested with."""
    family = ELECTRA if config.disentangled is None else DEBERTA_V2
    weights = to_file(family, "discriminator", {part: params[part] for part in ("embeddings", "encoder")})
    for ours, theirs in HEADS[name]:
        if ours in params["head"]:
            weights[f"{theirs}.weight"] = np.asarray(params["head"][ours]["kernel"]).T.copy()
            weights[f"{theirs}.bias"] = np.asarray(params["head"][ours]["bias"])
    from electra_jax.huggingface.configuration import to_config_json

    fields = to_config_json(config, "discriminator", pad_token_id=0, dtype="float32") | {"num_labels": num_labels}
    for field in ("architectures", "model_type"):
        del fields[field]
    model_config = (transformers.ElectraConfig if family is ELECTRA else transformers.DebertaV2Config)(**fields)
    model = getattr(transformers, name)(model_config).eval()
    missing, unexpected = model.load_state_dict({key: torch.from_numpy(np.array(value)) for key, value in weights.items()},
                                                strict=False)
    assert not unexpected and not [name for name in missing if "position_ids" not in name and "token_type_ids" not in name]
    return model


HEADS = {
    "DebertaV2ForSequenceClassification": (("pooler", "pooler.dense"), ("classifier", "classifier")),
    "DebertaV2ForTokenClassification": (("classifier", "classifier"),),
    "DebertaV2ForQuestionAnswering": (("classifier", "qa_outputs"),),
    "ElectraForSequenceClassification": (("pooler", "classifier.dense"), ("classifier", "classifier.out_proj")),
    "ElectraForTokenClassification": (("classifier", "classifier"),),
    "ElectraForQuestionAnswering": (("classifier", "qa_outputs"),),
}


@pytest.mark.parametrize(("family", "kind", "style", "name"), [
    ("deberta", "classification", "published", "DebertaV2ForSequenceClassification"),
    ("deberta", "tagging", "published", "DebertaV2ForTokenClassification"),
    ("deberta", "question_answering", "published", "DebertaV2ForQuestionAnswering"),
    ("electra", "classification", "transformers", "ElectraForSequenceClassification"),
    ("electra", "tagging", "published", "ElectraForTokenClassification"),
    ("electra", "question_answering", "transformers", "ElectraForQuestionAnswering")])
def test_heads_are_those_of_transformers(family, kind, style, name):
    config, num_labels = encoder_config(family), 2 if kind == "question_answering" else 4
    ids = jnp.asarray(np.random.default_rng(0).integers(5, VOCAB, size=(3, 20)).astype(np.int32)).at[:, 15:].set(0)
    model = TaskModel(config, SPECIAL, kind, num_labels, style, 0.1)
    params = random_params(model, ids)
    outputs = model.apply({"params": params}, ids, False)
    with torch.no_grad():
        expected = torch_model(name, config, params, num_labels)(
            torch.from_numpy(np.array(ids, np.int64)), attention_mask=torch.from_numpy(np.array(ids != 0, np.int64)))
    is_token = np.asarray(ids != 0)
    pairs = [(outputs, expected.logits)] if kind != "question_answering" else [
        (outputs.start_logits, expected.start_logits), (outputs.end_logits, expected.end_logits)]
    for ours, theirs in pairs:
        scored = np.ones(3, bool) if kind == "classification" else is_token
        np.testing.assert_allclose(np.asarray(ours)[scored], theirs.numpy()[scored], atol=1e-5, rtol=0)


def test_electras_head_has_no_layer_in_between():
    config = encoder_config("electra")
    ids = jnp.asarray(np.random.default_rng(0).integers(5, VOCAB, size=(3, 20)).astype(np.int32))
    model = TaskModel(config, SPECIAL, "classification", 2, "published", 0.1)
    params = random_params(model, ids)
    states = model.apply({"params": params}, ids, False, method="states")
    expected = states[:, 0] @ params["head"]["classifier"]["kernel"] + params["head"]["classifier"]["bias"][None]
    np.testing.assert_allclose(model.apply({"params": params}, ids, False), expected, atol=1e-6)
    assert set(params["head"]) == {"classifier"}


# google-research/electra, model/optimization.py, _get_layer_lrs, for three layers: embeddings at 5, the top layer at 2.
@pytest.mark.parametrize(("top", "exponents"), [
    (2, {"embeddings": 5, "encoder/embeddings_project": 5, "encoder/layer_0": 4, "encoder/layer_1": 3, "encoder/layer_2": 2,
         "head": 0}),
    (1, {"embeddings": 4, "encoder/embeddings_project": 4, "encoder/layer_0": 3, "encoder/layer_1": 2, "encoder/layer_2": 1,
         "head": 0})])
def test_rates_decay_from_layer_to_layer(top, exponents):
    tree = {}
    for path in exponents:
        node = tree
        for part in path.split("/"):
            node = node.setdefault(part, {})
        node |= {"kernel": np.zeros(1), "bias": np.zeros(1), "LayerNorm": {"scale": np.zeros(1)}}
    groups = assign_groups(tree, layer_groups(3, 0.8, top))
    for path, exponent in exponents.items():
        node = groups
        for part in path.split("/"):
            node = node[part]
        assert node["kernel"].learning_rate == pytest.approx(0.8**exponent) and node["kernel"].weight_decay == 1.0
        for leaf in (node["bias"], node["LayerNorm"]["scale"]):
            assert leaf.learning_rate == pytest.approx(0.8**exponent) and leaf.weight_decay == 0.0


def make_examples(lengths, label=lambda index: index % 2):
    return [EncodedExample(np.full(length, 5 + index % 50, np.int32), label(index), index)
            for index, length in enumerate(lengths)]


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(2, 600), min_size=1, max_size=40), st.integers(1, 7), st.integers(1, 3))
def test_no_example_is_lost_and_few_shapes_occur(lengths, batch_size, num_epochs):
    examples = make_examples(lengths)
    kind = kind_of("classification")
    batches = list(training_batches(kind, examples, batch_size, num_epochs, 0, 0))
    assert len(batches) == num_training_steps(len(examples), batch_size, num_epochs)
    seen = np.concatenate([batch.indices_B for batch in batches])
    np.testing.assert_array_equal(np.bincount(seen[seen >= 0], minlength=len(examples)), num_epochs)
    once = [batch.indices_B for batch in evaluation_batches(kind, examples, batch_size, 0)]
    assert sorted(index for row in once for index in row if index >= 0) == list(range(len(examples)))
    for batch in batches:
        assert batch.ids_BL.shape[0] == batch_size and batch.ids_BL.shape[1] in (32, 64, 128, 256, 512, 1024)
        for ids, label, is_scored, index in zip(batch.ids_BL, batch.labels, batch.is_scored, batch.indices_B, strict=True):
            assert is_scored == (index >= 0) and (index < 0 or label == examples[index].label)
            np.testing.assert_array_equal(ids[ids != 0], examples[index].ids if index >= 0 else [])


def test_orders_differ_by_epoch_and_seed():
    examples = make_examples([5] * 30)
    order = lambda seed: np.concatenate([batch.indices_B for batch in training_batches(  # noqa: E731
        kind_of("classification"), examples, 30, 2, seed, 0)]).reshape(2, 30)
    assert (order(0)[0] != order(0)[1]).any() and (order(0) != order(1)).any() and (order(0) == order(0)).all()


def test_losses_by_hand():
    outputs = jnp.asarray([[1.0, 2.0], [3.0, 0.0], [9.0, 9.0]])
    scored = jnp.asarray([True, True, False])
    expected = (np.log(np.exp(1) + np.exp(2)) - 2 + np.log(np.exp(3) + 1) - 3) / 2
    loss = lambda kind, *arguments: kind_of(kind).loss(*arguments, None)  # noqa: E731
    np.testing.assert_allclose(loss("classification", outputs, jnp.asarray([1, 0, -1]), scored), expected, rtol=1e-6)
    np.testing.assert_allclose(loss("regression", outputs[:, :1], jnp.asarray([0.0, 1.0, 5.0]), scored), (1 + 4) / 2)


def kind_of(name, **task):
    config = load_config("configs/finetune.py:task=local").to_dict()
    return make_kind(config["task"] | {"kind": name} | task, () if name == "regression" else ("low", "high"), SPECIAL)


def settings_of(kind, **train):
    config = load_config("configs/finetune.py:task=trec6").to_dict()
    config["task"]["kind"] = kind
    config["optimizer"]["learning_rate"] = 3e-3
    config["model"]["head_dropout"] = 0.0
    config["train"] |= {"num_epochs": 6, "batch_size": 16} | train
    return config


def task_examples(kind, number, seed):
    """Solvable: class and tag say whether a token is above the middle of the vocabulary, the number says how far."""
    source = np.random.default_rng(seed)
    examples = []
    for _ in range(number):
        body = source.integers(5, VOCAB, size=source.integers(3, 8)).astype(np.int32)
        ids = np.concatenate([[1], body, [2]]).astype(np.int32)
        high = (ids > VOCAB // 2).astype(np.int32)
        label = {"classification": int(high[1]), "regression": float(ids[1] / VOCAB),
                 "tagging": np.where((ids == 1) | (ids == 2), -1, high)}[kind]
        examples.append(EncodedExample(ids, label, len(examples)))
    return examples


@pytest.fixture(scope="module")
def start(data, tmp_path_factory):
    """(a random start, the directory of its run)."""
    run, _ = tiny_export.make_run(tmp_path_factory.mktemp("start") / "run", data, tiny_export.electra_model())
    return load_initial(f"random:{run}", tmp_path_factory.mktemp("cache") / "tokenizer"), run


def predict(initial, name, config, train, held_out, mesh=None, seed=0):
    kind = kind_of(name, label_scale=config["task"]["label_scale"])
    trainer = Trainer(initial.config, initial.special, kind, config, len(train), mesh or make_mesh(ONE, jax.devices()[:1]))
    outcome = trainer.run(initial.params, seed, train, {"validation": held_out}, progress=False)
    return kind.collect(held_out, held_out, outcome.outputs["validation"])


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "best"), [("classification", 0.95), ("tagging", 0.95), ("regression", 0.9)])
def test_every_kind_of_task_is_learnt(kind, best, start):
    train, held_out = task_examples(kind, 600, 0), task_examples(kind, 101, 1)
    predictions = predict(start[0], kind, settings_of(kind), train, held_out)
    assert len(predictions) == 101
    if kind == "regression":
        assert np.corrcoef(predictions, [example.label for example in held_out])[0, 1] > best
    elif kind == "tagging":
        assert np.mean(np.concatenate(predictions) == np.concatenate([e.label[e.label >= 0] for e in held_out])) > best
    else:
        assert np.mean([guess == example.label for guess, example in zip(predictions, held_out, strict=True)]) > best


@pytest.mark.slow
def test_numbers_are_scaled_for_training_and_back(start):
    train, held_out = (task_examples("regression", number, seed) for number, seed in ((64, 0), (5, 1)))
    tenfold = [example._replace(label=10 * example.label) for example in train]
    guesses = []
    for examples, scale in ((train, 1.0), (tenfold, 10.0)):
        config = settings_of("regression", num_epochs=1)
        config["task"]["label_scale"] = scale
        guesses.append(predict(start[0], "regression", config, examples, held_out))
    np.testing.assert_allclose(guesses[1], 10 * np.array(guesses[0]), rtol=1e-4)


@pytest.mark.slow
def test_pairs_are_seen_in_both_orders(start, tmp_path, monkeypatch):
    rows = "".join(f"one {i}\ttwo {i}\t{i % 2}\n" for i in range(8))
    (tmp_path / "train.tsv").write_text(f"a\tb\tlabel\n{rows}")
    config = load_config("configs/finetune.py:task=local").to_dict()
    path = str(tmp_path / "train.tsv")
    config["task"] |= {"train": path, "validation": path, "text": "a", "pair": "b", "label": "label", "swaps_pairs": True}
    config["mesh"] = ONE | {"data": 8}
    seen = {}
    monkeypatch.setattr(Trainer, "run", lambda self, initial, seed, train, held_out, progress: seen.update(
        train=train, held_out=held_out) or Outcome({"head": {"kernel": np.zeros(1)}}, {"validation": [np.zeros(2)] * 8}))
    finetune.run(config, tmp_path / "run", Plan([str(start[1])], [0]))
    assert len(seen["train"]) == 16 and len(seen["held_out"]["validation"]) == 8
    first, swapped = seen["train"][0].ids.tolist(), seen["train"][8].ids.tolist()
    middle = first.index(SPECIAL.sep)
    assert swapped == [SPECIAL.cls, *first[middle + 1 : -1], SPECIAL.sep, *first[1:middle], SPECIAL.sep] != first


@pytest.mark.slow
def test_any_mesh_gives_the_same_predictions(start):
    train, held_out = task_examples("regression", 70, 0), task_examples("regression", 21, 1)  # neither fills its last batch
    config = settings_of("regression", num_epochs=2)
    guesses = [predict(start[0], "regression", config, train, held_out, mesh, seed=3)
               for mesh in (make_mesh(ONE, jax.devices()[:1]), make_mesh(ONE | {"data": 8}))]
    np.testing.assert_allclose(*guesses, atol=1e-5)
    assert np.std(guesses[0]) > 0


def test_the_decoders_positions_are_left_behind(data, tmp_path):
    run, _ = tiny_export.make_run(tmp_path / "run", data, tiny_export.deberta_model(decoder=True), "mlm")
    initial = load_initial(str(run), tmp_path / "none")
    assert set(initial.params["embeddings"]) == {"word_embeddings", "LayerNorm"}


def test_a_run_and_its_export_are_the_same_start(start, tmp_path):
    run = load_initial(str(start[1]), tmp_path / "none")
    export_run(start[1], None, tmp_path / "out", tiny_export.PLAIN)
    exported = load_initial(str(tmp_path / "out" / "discriminator"), tmp_path / "tokenizer")
    jax.tree.map(np.testing.assert_array_equal, run.params, exported.params)
    assert exported.tokenizer.fingerprint == run.tokenizer.fingerprint
    for field in ("hidden_size", "num_layers", "num_heads", "layer_norm_epsilon", "type_vocab_size", "position"):
        assert getattr(exported.config, field) == getattr(run.config, field)
    assert isinstance(exported, Initial) and start[0].params is None
    with pytest.raises(FileNotFoundError, match="expected the directory of a run, of a model that was fine-tuned or"):
        load_initial(str(tmp_path), tmp_path / "tokenizer")


@pytest.fixture()
def task(data, tmp_path):
    """Settings of a small task in files: whether the first word is one of the first half of the words."""
    words = sorted({word for line in (data / "train.txt").read_text().splitlines() for word in line.split()})[:60]
    source = np.random.default_rng(0)
    for split, number in (("train", 64), ("validation", 20)):
        rows = [f"{' '.join(chosen)}\t{'low' if words.index(chosen[0]) < 30 else 'high'}\n"
                for chosen in (source.choice(words, size=4) for _ in range(number))]
        (tmp_path / f"{split}.tsv").write_text("sentence\tclass\n" + "".join(rows))
    config = load_config("configs/finetune.py:task=local,model=electra,size=small").to_dict()
    config["task"] |= {"train": str(tmp_path / "train.tsv"), "validation": str(tmp_path / "validation.tsv"), "text": "sentence",
                       "label": "class"}
    config["train"] |= {"num_epochs": 1}
    config["log"] = {"progress": False}
    config["mesh"] = ONE | {"data": 8}
    return config


@pytest.mark.slow
def test_the_command_compares_starts_and_goes_on_where_it_stopped(start, task, tmp_path):
    starts = [str(start[1]), f"random:{start[1]}"]
    first = finetune.run(task, tmp_path / "run", Plan(starts[:1], [0]))
    assert [(result.model, result.seed) for result in first] == [(starts[0], 0)] and 0 <= first[0].metrics["accuracy"] <= 1
    kept = json.loads((tmp_path / "run" / "results.json").read_text())
    assert kept == [{"model": starts[0], "seed": 0, "settings": {}, "metrics": first[0].metrics}]
    every = finetune.run(task, tmp_path / "run", Plan(starts, [0, 1]))
    assert [(result.model, result.seed) for result in every] == [(name, seed) for name in starts for seed in (0, 1)]
    assert every[0] == first[0]
    predictions = sorted(path.relative_to(tmp_path / "run").parts[1:] for path in (tmp_path / "run").rglob("validation.tsv"))
    assert len(predictions) == 4
    text = next((tmp_path / "run").rglob("validation.tsv")).read_text().splitlines()
    assert text[0] == "index\tprediction" and len(text) == 21
    assert {line.split("\t")[1] for line in text[1:]} <= {"low", "high"}
    again = finetune.run(task, tmp_path / "run", Plan(starts, [0, 1]))
    assert again == every
    with pytest.raises(ValueError, match=r"config\.train\.num_epochs: the run has 1, you gave 2"):
        finetune.run(task | {"train": task["train"] | {"num_epochs": 2}}, tmp_path / "run", Plan(starts, [0, 1]))


@pytest.mark.slow
def test_a_sweep_goes_on_with_more_values_and_keeps_the_best_model(start, task, tmp_path):
    name = f"random:{start[1]}"
    sweep = [{"optimizer.learning_rate": rate} for rate in (1e-3, 3e-3)]
    some = finetune.run(task, tmp_path / "run", Plan([name], [0], sweep[:1]))
    every = finetune.run(task, tmp_path / "run", Plan([name], [0, 1], sweep))
    assert every[0] == some[0]
    assert [(result.settings, result.seed) for result in every] == [(one, seed) for one in sweep for seed in (0, 1)]
    lines = list(finetune.report(every, ["accuracy"], tmp_path / "run"))
    assert any(line.startswith(f"| {name} learning_rate=0.003 | 2 |") for line in lines)
    assert {path.name for path in (tmp_path / "run" / "plots").iterdir()} == {"sweep.png", "results.png"}
    best = max(every, key=lambda result: result.metrics["accuracy"])
    [directory] = (tmp_path / "run" / "models").iterdir()
    saved = load_model(directory)
    assert saved.description["metrics"] == best.metrics and saved.description["labels"] == ["high", "low"]
    assert saved.description["config"]["optimizer"]["learning_rate"] == best.settings["optimizer.learning_rate"]
    further = load_initial(str(directory), tmp_path / "none")
    jax.tree.map(np.testing.assert_array_equal, further.params, {part: saved.params[part] for part in further.params})
    # What was kept predicts what was written.
    initial = further._replace(config=saved.encoder)
    model = TaskModel(initial.config, initial.special, "classification", 2, "published", 0.1)
    folder = f"learning_rate={best.settings['optimizer.learning_rate']}"
    written = (tmp_path / "run" / "predictions" / directory.name / folder / f"seed_{best.seed}" / "validation.tsv").read_text()
    texts = [line.split("\t")[0] for line in (tmp_path / "validation.tsv").read_text().splitlines()[1:]]
    for text, line in zip(texts, written.splitlines()[1:], strict=True):
        ids = [SPECIAL.cls, *initial.tokenizer.encode_batch([text])[0], SPECIAL.sep]
        outputs = model.apply({"params": saved.params}, jnp.asarray([ids]), False)
        assert line.split("\t")[1] == saved.description["labels"][int(outputs.argmax())]


@pytest.mark.slow
def test_each_seed_has_a_start_of_its_own(start, task, data, tmp_path):
    for seed in (0, 1):
        tiny_export.make_run(tmp_path / f"run_{seed}", data, tiny_export.electra_model())
    own = f"{tmp_path}/run_{finetune.SEED}"
    together = finetune.run(task, tmp_path / "a", Plan([own], [0, 1]), {own: "mine"})
    assert [(result.model, result.seed) for result in together] == [("mine", 0), ("mine", 1)]
    alone = finetune.run(task, tmp_path / "b", Plan([f"{tmp_path}/run_1"], [1]))
    assert alone[0].metrics == together[1].metrics


def test_settings_that_do_not_fit_are_errors(start, task, tmp_path):
    (tmp_path / "test.tsv").write_text("sentence\nno label\n")
    alone = task["task"] | {"validation": "", "test": str(tmp_path / "test.tsv")}
    with pytest.raises(ValueError, match=r"none of the splits \['train', 'test'\] but train has labels"):
        finetune.run(task | {"task": alone}, tmp_path / "run", Plan([str(start[1])], [0]))
    with pytest.raises(ValueError, match=r"config\.train\.batch_size: got 12, expected a multiple of the 8 devices"):
        finetune.run(task | {"train": task["train"] | {"batch_size": 12}}, tmp_path / "run", Plan([str(start[1])], [0]))
    assert not (tmp_path / "run").exists()  # or the corrected settings would be refused
    for argument, message in (("task=sst3", "config argument task: got 'sst3'"), ("model=bert", "config argument model"),
                              ("model=deberta,size=huge", "config argument size")):
        with pytest.raises(ValueError, match=message):
            load_config(f"configs/finetune.py:{argument}")


def test_every_recipe_of_the_papers_is_there():
    for task, metrics in GLUE_METRICS.items():
        for model, sizes in finetune_config.MODELS.items():
            for size in sizes:
                config = load_config(f"configs/finetune.py:task={task},model={model},size={size}")
                assert tuple(config.task.metrics) == metrics
    large = load_config("configs/finetune.py:task=cola,model=deberta,size=large")
    assert (large.optimizer.learning_rate, large.train.num_epochs, large.task.max_length) == (5.5e-6, 10, 64)
    base = load_config("configs/finetune.py:task=rte,model=electra,size=base")
    assert (base.optimizer.learning_rate, base.optimizer.layer_decay, base.train.num_epochs) == (1e-4, 0.8, 10)
