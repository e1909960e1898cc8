"""Fine-tuning: heads against `transformers`, the published layer-wise rates, batches without loss, every task
type."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipelines.tasks.encoding import EncodedExample
from electra_jax.distributed.mesh import make_mesh
from electra_jax.finetuning.batches import evaluation_batches, num_training_steps, training_batches
from electra_jax.finetuning.encoders import PretrainedEncoder, load_encoder
from electra_jax.finetuning.models import TaskModel
from electra_jax.finetuning.trainer import layer_groups
from electra_jax.training.optimizer import assign_groups
from support import tiny_export
from support.jitted import apply_jitted
from support.tiny import SPECIAL
from support.tiny_run import VOCAB
from support.tiny_task import (
    ONE,
    encoder_config,
    make_encoder,
    make_settings,
    make_type,
    predict,
    random_params,
    task_examples,
    torch_model,
)


@pytest.mark.parametrize(
    ("family", "task_type", "style", "name"),
    [
        ("deberta", "classification", "published", "DebertaV2ForSequenceClassification"),
        ("deberta", "tagging", "published", "DebertaV2ForTokenClassification"),
        ("deberta", "question_answering", "published", "DebertaV2ForQuestionAnswering"),
        ("electra", "classification", "transformers", "ElectraForSequenceClassification"),
        ("electra", "tagging", "published", "ElectraForTokenClassification"),
        ("electra", "question_answering", "transformers", "ElectraForQuestionAnswering"),
    ],
)
def test_heads_match_transformers(family, task_type, style, name):
    config, num_labels = encoder_config(family), 2 if task_type == "question_answering" else 4
    ids = (
        jnp.asarray(np.random.default_rng(0).integers(5, VOCAB, size=(3, 20)).astype(np.int32))
        .at[:, 15:]
        .set(0)
    )
    model = TaskModel(config, SPECIAL, task_type, num_labels, style, 0.1)
    params = random_params(model, ids)
    outputs = apply_jitted(model, params, ids, False)
    with torch.no_grad():
        expected = torch_model(name, config, params, num_labels)(
            torch.from_numpy(np.array(ids, np.int64)),
            attention_mask=torch.from_numpy(np.array(ids != 0, np.int64)),
        )
    is_token = np.asarray(ids != 0)
    pairs = (
        [(outputs, expected.logits)]
        if task_type != "question_answering"
        else [(outputs.start_logits, expected.start_logits), (outputs.end_logits, expected.end_logits)]
    )
    for ours, theirs in pairs:
        scored = np.ones(3, bool) if task_type == "classification" else is_token
        np.testing.assert_allclose(np.asarray(ours)[scored], theirs.numpy()[scored], atol=1e-5, rtol=0)


def test_electras_head_has_no_layer_in_between():
    config = encoder_config("electra")
    ids = jnp.asarray(np.random.default_rng(0).integers(5, VOCAB, size=(3, 20)).astype(np.int32))
    model = TaskModel(config, SPECIAL, "classification", 2, "published", 0.1)
    params = random_params(model, ids)
    states = apply_jitted(model, params, ids, False, method="states")
    expected = (
        states[:, 0] @ params["head"]["classifier"]["kernel"] + params["head"]["classifier"]["bias"][None]
    )
    np.testing.assert_allclose(apply_jitted(model, params, ids, False), expected, atol=1e-6)
    assert set(params["head"]) == {"classifier"}


# google-research/electra, model/optimization.py, _get_layer_lrs, for three layers: embeddings at 5, the top
# layer at 2.
@pytest.mark.parametrize(
    ("top", "exponents"),
    [
        (
            2,
            {
                "embeddings": 5,
                "encoder/embeddings_project": 5,
                "encoder/layer_0": 4,
                "encoder/layer_1": 3,
                "encoder/layer_2": 2,
                "head": 0,
            },
        ),
        (
            1,
            {
                "embeddings": 4,
                "encoder/embeddings_project": 4,
                "encoder/layer_0": 3,
                "encoder/layer_1": 2,
                "encoder/layer_2": 1,
                "head": 0,
            },
        ),
    ],
)
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
        assert (
            node["kernel"].learning_rate == pytest.approx(0.8**exponent)
            and node["kernel"].weight_decay == 1.0
        )
        for leaf in (node["bias"], node["LayerNorm"]["scale"]):
            assert leaf.learning_rate == pytest.approx(0.8**exponent) and leaf.weight_decay == 0.0


def test_modernberts_final_norm_has_the_heads_rate_and_no_weight_decay():
    leaves = {"kernel": np.zeros(1), "bias": np.zeros(1)}
    norm = {"scale": np.zeros(1)}
    tree = {"embeddings": leaves, "encoder": {"layer_0": leaves, "final_LayerNorm": norm}, "head": leaves}
    group = assign_groups(tree, layer_groups(1, 0.5, 1))["encoder"]["final_LayerNorm"]["scale"]
    assert (group.learning_rate, group.weight_decay) == (1.0, 0.0)


def make_examples(lengths, label=lambda index: index % 2):
    return [
        EncodedExample(np.full(length, 5 + index % 50, np.int32), label(index), index)
        for index, length in enumerate(lengths)
    ]


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(2, 600), min_size=1, max_size=40), st.integers(1, 7), st.integers(1, 3))
def test_no_example_is_lost_and_few_shapes_occur(lengths, batch_size, num_epochs):
    examples = make_examples(lengths)
    task_type = make_type("classification")
    batches = list(training_batches(task_type, examples, batch_size, num_epochs, 0, 0))
    assert len(batches) == num_training_steps(len(examples), batch_size, num_epochs)
    seen = np.concatenate([batch.indices_B for batch in batches])
    np.testing.assert_array_equal(np.bincount(seen[seen >= 0], minlength=len(examples)), num_epochs)
    once = [batch.indices_B for batch in evaluation_batches(task_type, examples, batch_size, 0)]
    assert sorted(index for row in once for index in row if index >= 0) == list(range(len(examples)))
    for batch in batches:
        assert batch.ids_BL.shape[0] == batch_size and batch.ids_BL.shape[1] in (32, 64, 128, 256, 512, 1024)
        for ids, label, is_scored, index in zip(
            batch.ids_BL, batch.labels, batch.is_scored, batch.indices_B, strict=True
        ):
            assert is_scored == (index >= 0) and (index < 0 or label == examples[index].label)
            np.testing.assert_array_equal(ids[ids != 0], examples[index].ids if index >= 0 else [])


def test_orders_differ_by_epoch_and_seed():
    examples = make_examples([5] * 30)
    task_type = make_type("classification")

    def order(seed):
        batches = training_batches(task_type, examples, 30, 2, seed, 0)
        return np.concatenate([batch.indices_B for batch in batches]).reshape(2, 30)

    assert (
        (order(0)[0] != order(0)[1]).any() and (order(0) != order(1)).any() and (order(0) == order(0)).all()
    )


def test_losses_by_hand():
    outputs = jnp.asarray([[1.0, 2.0], [3.0, 0.0], [9.0, 9.0]])
    scored = jnp.asarray([True, True, False])
    expected = (np.log(np.exp(1) + np.exp(2)) - 2 + np.log(np.exp(3) + 1) - 3) / 2
    loss = lambda name, *arguments: make_type(name).loss(*arguments, None, SPECIAL)
    np.testing.assert_allclose(
        loss("classification", outputs, jnp.asarray([1, 0, -1]), scored), expected, rtol=1e-6
    )
    np.testing.assert_allclose(
        loss("regression", outputs[:, :1], jnp.asarray([0.0, 1.0, 5.0]), scored), (1 + 4) / 2
    )


@pytest.fixture(scope="module")
def random_init(data, tmp_path_factory):
    return make_encoder(data, tmp_path_factory)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("task_type", "best"), [("classification", 0.95), ("tagging", 0.95), ("regression", 0.9)]
)
def test_every_task_type_is_learnt(task_type, best, random_init):
    train, held_out = task_examples(task_type, 600, 0), task_examples(task_type, 101, 1)
    predictions = predict(random_init[0], task_type, make_settings(task_type), train, held_out)
    assert len(predictions) == 101
    if task_type == "regression":
        assert np.corrcoef(predictions, [example.label for example in held_out])[0, 1] > best
    elif task_type == "tagging":
        assert (
            np.mean(np.concatenate(predictions) == np.concatenate([e.label[e.label >= 0] for e in held_out]))
            > best
        )
    else:
        assert (
            np.mean([guess == example.label for guess, example in zip(predictions, held_out, strict=True)])
            > best
        )


@pytest.mark.slow
def test_numbers_are_scaled_for_training_and_back(random_init):
    train, held_out = (task_examples("regression", number, seed) for number, seed in ((64, 0), (5, 1)))
    tenfold = [example._replace(label=10 * example.label) for example in train]
    guesses = []
    for examples, scale in ((train, 1.0), (tenfold, 10.0)):
        config = make_settings("regression", num_epochs=1)
        config["task"]["label_scale"] = scale
        guesses.append(predict(random_init[0], "regression", config, examples, held_out))
    np.testing.assert_allclose(guesses[1], 10 * np.array(guesses[0]), rtol=1e-4)


@pytest.mark.slow
def test_any_mesh_gives_the_same_predictions(random_init):
    train, held_out = (
        task_examples("regression", 70, 0),
        task_examples("regression", 21, 1),
    )  # neither fills its last batch
    config = make_settings("regression", num_epochs=2)
    guesses = [
        predict(random_init[0], "regression", config, train, held_out, mesh, seed=3)
        for mesh in (make_mesh(ONE, jax.devices()[:1]), make_mesh(ONE | {"data": 8}))
    ]
    np.testing.assert_allclose(*guesses, atol=1e-5)
    assert np.std(guesses[0]) > 0


def test_position_embeddings_of_the_mask_decoder_are_left_out(data, tmp_path):
    run, _ = tiny_export.make_run(tmp_path / "run", data, tiny_export.deberta_model(decoder=True), "mlm")
    encoder = load_encoder(str(run), tmp_path / "none")
    assert set(encoder.params["embeddings"]) == {"word_embeddings", "LayerNorm"}


def test_a_run_and_its_export_are_the_same_encoder(random_init, tmp_path):
    run = load_encoder(str(random_init[1]), tmp_path / "none")
    tiny_export.export_unverified(random_init[1], tmp_path / "out")
    exported = load_encoder(str(tmp_path / "out" / "discriminator"), tmp_path / "tokenizer")
    jax.tree.map(np.testing.assert_array_equal, run.params, exported.params)
    assert exported.tokenizer.fingerprint == run.tokenizer.fingerprint
    for field in (
        "hidden_size",
        "num_layers",
        "num_heads",
        "layer_norm_epsilon",
        "type_vocab_size",
        "position",
    ):
        assert getattr(exported.config, field) == getattr(run.config, field)
    assert isinstance(exported, PretrainedEncoder) and random_init[0].params is None
    with pytest.raises(
        FileNotFoundError, match="expected the directory of a run, of a fine-tuned model or of a"
    ):
        load_encoder(str(tmp_path), tmp_path / "tokenizer")
