"""Packed rows: where the texts lie, and that steps and losses are those of one text per row."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipelines.tasks.encoding import EncodedExample
from data_pipelines.tasks.windows import Window
from electra_jax.distributed.mesh import make_mesh
from electra_jax.distributed.sharding import axis_context, replicated
from electra_jax.finetuning.batches import make_batch, training_batches
from electra_jax.finetuning.contrastive import TextRow, all_texts
from electra_jax.finetuning.models import TaskModel
from electra_jax.finetuning.packed_rows import FEWEST_POSITIONS, MOST_SHAPES, pack_rows, unpack_states
from electra_jax.finetuning.padding import pad_rows
from electra_jax.finetuning.sift import Sift, sift_penalty
from electra_jax.finetuning.trainer import Trainer
from electra_jax.models.config import make_pretraining_config
from electra_jax.training.state import unbox
from support import tiny_export
from support.tiny import SPECIAL, key
from support.tiny_run import VOCAB
from support.tiny_task import ONE, make_settings, make_type

BATCH = 16
# Family: (config.model, layers). The first layer of DeBERTa has its convolution, the second of ModernBERT a
# window that is shorter than most texts.
ENCODERS = {
    "electra": (tiny_export.electra_model(type_vocab_size=2), 1),
    "relative": (tiny_export.relative_model(), 1),
    "deberta": (tiny_export.deberta_model(disentangled={"conv_kernel_size": 3}), 1),
    "modern": (tiny_export.modern_model(), 2),
}


def encoder_config(family, dropout=0.0):
    section, num_layers = ENCODERS[family]
    config = dataclasses.replace(make_pretraining_config(section).discriminator, num_layers=num_layers)
    return config.with_dropout(dropout, dropout)


def make_rows(task_type, number):
    """Pairs of texts, of which some are one text and the longest fill half a row."""
    source = np.random.default_rng(0)
    draw = lambda: source.integers(5, VOCAB, size=source.integers(1, 7))
    if task_type == "embedding":
        text = lambda: np.array([1, *draw(), 2], np.int32)
        nothing = np.zeros(0, np.int32)  # an example without a hard negative
        return [
            TextRow(
                text(),
                (text(), text() if at % 3 else nothing),
                (at, 100 + at, 200 + at if at % 3 else -1),
                at,
            )
            for at in range(number)
        ]
    rows = []
    for at in range(number):
        first, second = draw(), draw()
        has_pair = at % 3 or task_type == "question_answering"
        ids = np.array([1, *first, 2, *([*second, 2] if has_pair else [])], np.int32)
        start = len(first) + 2
        if task_type == "question_answering":
            label = np.array([start, start, 0] if at % 4 else [0, 0, 1], np.int32)
            spans = np.zeros((len(second), 2), np.int32)
            rows.append(Window(ids, label, at, start, spans, np.ones(len(second), bool)))
            continue
        label = {
            "classification": at % 2,
            "regression": float(at),
            "tagging": np.where(ids > 4, ids % 2, -1).astype(np.int32),
        }[task_type]
        rows.append(EncodedExample(ids, label, at))
    return rows


def packed_batch(task_type, functions):
    """13 examples in a batch of 16; (the batch, the same with packed rows)."""
    batch = make_batch(functions, make_rows(task_type, 13), range(13), BATCH, SPECIAL.pad)
    batch, texts_BL = batch._replace(indices_B=None), batch.ids_BL
    if task_type == "embedding":
        texts_BL = all_texts(batch.ids_BL, batch.labels, SPECIAL.pad)
    packed = pack_rows(texts_BL, SPECIAL)
    assert len(packed.ids_RL) <= len(texts_BL) // 2
    return batch, batch._replace(packed=packed)


def make_params(model):
    """Random parameters, for which nothing is compiled."""
    shapes = jax.eval_shape(lambda: model.init(key(), jnp.ones((1, 2), jnp.int32), False))["params"]
    source = np.random.default_rng(0)
    value = lambda path, leaf: (source.normal(size=leaf.shape) * 0.1 + (path[-1].key == "scale")).astype("f4")
    return jax.tree_util.tree_map_with_path(value, unbox(shapes))


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 70), min_size=1, max_size=40), st.sampled_from([1, 2, 8]))
def test_every_text_is_in_the_rows_once(lengths, multiple):
    texts = [np.array([1, *range(5, 3 + size), 2][:size], np.int32) for size in lengths]
    batch_size = -(-len(texts) // multiple) * multiple
    ids_BL = pad_rows(texts, batch_size, SPECIAL.pad)
    packed = pack_rows(ids_BL, SPECIAL, multiple)
    num_rows, length = packed.ids_RL.shape
    assert length == ids_BL.shape[1] and num_rows <= batch_size and num_rows % multiple == 0
    for text, first in zip(texts, packed.first_B, strict=False):
        row, start = divmod(int(first), length)
        if len(text):
            np.testing.assert_array_equal(packed.ids_RL[row, start : start + len(text)], text)
    # So none lies upon another: each begins with [CLS].
    assert (packed.ids_RL != SPECIAL.pad).sum() == sum(lengths)
    again = pack_rows(ids_BL, SPECIAL, multiple)
    assert all(map(np.array_equal, packed, again))


def test_states_return_to_the_rows_of_their_texts_and_are_zero_elsewhere():
    texts = [np.array([1, *range(5, 3 + size), 2], np.int32) for size in (20, 9, 11, 2)]
    ids_BL = pad_rows(texts, 5, SPECIAL.pad)
    packed, is_token_BL = pack_rows(ids_BL, SPECIAL), ids_BL != SPECIAL.pad
    places_RL = np.arange(packed.ids_RL.size).reshape(packed.ids_RL.shape)
    x_RLD = np.stack([packed.ids_RL, 1 + places_RL], axis=-1).astype("f4")
    x_BLD = unpack_states(jnp.asarray(x_RLD), packed.first_B, is_token_BL)
    np.testing.assert_array_equal(x_BLD[..., 0], ids_BL)
    places_BL = 1 + packed.first_B[:, None] + np.arange(ids_BL.shape[1])
    np.testing.assert_array_equal(x_BLD[..., 1], np.where(is_token_BL, places_BL, 0))


@pytest.mark.parametrize(("batch_size", "multiple"), [(7, 1), (30, 1), (32, 1), (32, 8), (24, 8), (256, 4)])
def test_batches_of_one_length_have_few_shapes(batch_size, multiple):
    source, shapes = np.random.default_rng(0), set()
    for share in np.linspace(0, 1, 200):
        sizes = np.minimum(source.geometric(1 - 0.98 * share, size=batch_size) + 1, 32)
        ids_BL = np.where(np.arange(32) < sizes[:, None], 9, SPECIAL.pad)
        ids_BL[:, 0] = SPECIAL.cls
        shapes.add(pack_rows(ids_BL, SPECIAL, multiple).ids_RL.shape)
    assert 1 < len(shapes) <= MOST_SHAPES and max(shapes) <= (batch_size, 32)
    *counts, last = sorted(num_rows for num_rows, _ in shapes)
    assert all(32 * num_rows % FEWEST_POSITIONS == 0 for num_rows in counts) and last <= batch_size


def test_a_text_without_cls_is_an_error():
    with pytest.raises(ValueError, match=r"begins with the id 9, expected 1, that of \[CLS\]"):
        pack_rows(np.array([[1, 7, 2], [9, 2, 0]]), SPECIAL)


@pytest.mark.parametrize(
    ("family", "task_type", "style", "pooling"),
    [
        ("electra", "classification", "transformers", "cls"),
        ("electra", "question_answering", "published", "cls"),
        ("electra", "embedding", "published", "mean"),
        ("relative", "tagging", "published", "cls"),
        ("deberta", "question_answering", "published", "cls"),
        ("modern", "regression", "published", "mean"),
    ],
)
def test_loss_and_gradients_are_those_of_one_text_per_row(family, task_type, style, pooling):
    functions = make_type(task_type)
    arguments = encoder_config(family), SPECIAL, task_type, functions.num_outputs
    model = TaskModel(*arguments, style, 0.0, pooling)
    batches, params = packed_batch(task_type, functions), make_params(model)

    def loss(params, batch):
        outputs = model.apply(
            {"params": params}, batch.ids_BL, True, batch.labels, packed=batch.packed, rngs={"dropout": key()}
        )
        return functions.loss(outputs, batch.labels, batch.is_scored, batch.ids_BL, SPECIAL)

    steps = [jax.jit(jax.value_and_grad(loss)).lower(params, batch).compile() for batch in batches]
    (expected, expected_grads), (value, grads) = (
        step(params, batch) for step, batch in zip(steps, batches, strict=True)
    )
    whole, less = (step.cost_analysis()["flops"] for step in steps)
    assert less < 0.8 * whole
    np.testing.assert_allclose(value, expected, rtol=1e-6)
    largest = max(np.abs(leaf).max() for leaf in jax.tree.leaves(expected_grads))
    jax.tree.map(
        lambda one, other: np.testing.assert_allclose(one, other, rtol=0, atol=1e-6 * largest),
        grads,
        expected_grads,
    )


def test_the_penalty_of_sift_is_that_of_one_text_per_row():
    functions = make_type("tagging")
    model = TaskModel(encoder_config("electra"), SPECIAL, "tagging", functions.num_outputs, "published", 0.0)
    batches, params = packed_batch("tagging", functions), make_params(model)
    ordinary = np.random.default_rng(0).normal(size=(*batches[0].ids_BL.shape, 2)).astype(np.float32)

    @jax.jit
    def penalty(batch, learning_rate):
        # Without noise to start from, which each form draws for its own rows.
        return sift_penalty(model, params, batch, ordinary, Sift(1.0, learning_rate, 0.0), key())

    values = [penalty(batch, 0.5) for batch in batches]
    np.testing.assert_allclose(*values, rtol=1e-6)
    assert abs(values[0] - penalty(batches[0], 0.0)) > 1e-3  # of embeddings that are not moved


def test_a_step_is_the_same_on_any_mesh_and_again():
    """With dropout everywhere: no mask depends on the mesh, and a step is repeated to the last bit."""
    config, functions = make_settings("embedding", batch_size=BATCH), make_type("embedding")
    config["model"]["pooling"] = "mean"
    (batch,) = training_batches(functions, make_rows("embedding", 13), BATCH, 1, 0, SPECIAL.pad)
    found, num_rows = [], []
    for mesh in (make_mesh(ONE, jax.devices()[:1]), make_mesh({"data": 2, "fsdp": 2, "tensor": 2})):
        trainer = Trainer(encoder_config("electra", 0.1), SPECIAL, functions, config, 13, mesh)
        with axis_context(mesh):
            for _ in range(2 if mesh.size == 1 else 1):
                params = jax.device_put(make_params(trainer.model), replicated(mesh))
                state = jax.device_put(jax.jit(trainer.optimizer.init)(params), replicated(mesh))
                placed = trainer.place(batch)
                params, _, value = trainer.train_step(params, state, placed, key(7))
                found.append(jax.device_get((value, params)))
        num_rows.append(len(placed.packed.ids_RL))
    assert num_rows == [6, 8]
    jax.tree.map(np.testing.assert_array_equal, found[0], found[1])
    np.testing.assert_allclose(found[2][0], found[0][0], rtol=1e-6)
    jax.tree.map(
        lambda one, other: np.testing.assert_allclose(one, other, atol=2e-4), found[0][1], found[2][1]
    )
