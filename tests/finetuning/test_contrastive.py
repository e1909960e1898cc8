"""The contrastive loss against NumPy with loops, on a mesh, and what it keeps in memory."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from data_pipelines.tasks.embedding_examples import EmbeddingExample
from electra_jax.distributed.mesh import make_mesh
from electra_jax.distributed.sharding import axis_context, batch_sharding, put_whole
from electra_jax.finetuning.batches import make_batch
from electra_jax.finetuning.contrastive import (
    Vectors,
    all_texts,
    check_widths,
    contrastive_losses,
    encode_groups,
    encode_texts,
    number_texts,
)
from electra_jax.finetuning.models import TaskModel
from electra_jax.finetuning.packed_rows import pack_rows
from electra_jax.training.state import unbox
from support.tiny import SPECIAL, key
from support.tiny_pairs import EXAMPLES, Characters
from support.tiny_task import ONE, encoder_config, make_type


def reference(vectors, examples, temperature, widths):
    """InfoNCE by its definition, one query and one text at a time."""
    queries, others = vectors
    belongs = {(one.text, one.pair) for one in examples} | {(one.pair, one.text) for one in examples}
    losses = []
    for at, one in enumerate(examples):
        total = 0.0
        for width in widths:
            cosine = lambda x, y: x @ y / np.linalg.norm(x) / np.linalg.norm(y)
            scores, own = [], None
            for row, other in enumerate(examples):
                for column, text in enumerate((other.pair, *other.negatives)):
                    is_own = row == at and column == 0
                    is_false_negative = (one.text, text) in belongs or text in ("", one.text)
                    if is_own or not is_false_negative:
                        score = cosine(queries[at, :width], others[row, column, :width]) / temperature
                        scores.append(score)
                        own = score if is_own else own
            total += np.log(np.sum(np.exp(scores))) - own
        losses.append(total)
    return np.array(losses)


def make_vectors(num_rows, num_others, hidden=8):
    source = np.random.default_rng(0)
    return Vectors(
        source.normal(size=(num_rows, hidden)).astype("f4"),
        source.normal(size=(num_rows, num_others, hidden)).astype("f4"),
    )


def numbers_of(examples, batch_size):
    rows, _ = encode_groups(Characters(), examples, 16)
    batch = make_batch(make_type("embedding"), rows, range(len(rows)), batch_size, SPECIAL.pad)
    return batch.labels.numbers_BS


@pytest.mark.parametrize("widths", [(), (3, 8), (2, 4)])
def test_the_loss_is_its_definition(widths):
    vectors = make_vectors(8, 3)  # three rows fill the batch, and are nobody's negatives
    got = contrastive_losses(vectors, numbers_of(EXAMPLES, 8), 0.5, widths)[:5]
    wanted = reference(vectors, EXAMPLES, 0.5, sorted({*widths, 8}))
    np.testing.assert_allclose(got, wanted, rtol=2e-5)


def test_only_scored_rows_count():
    task_type = make_type("embedding", temperature=0.5)
    rows, _ = encode_groups(Characters(), EXAMPLES, 16)
    batch = make_batch(task_type, rows, range(5), 8, SPECIAL.pad)
    vectors = make_vectors(8, 3)
    value = task_type.loss(vectors, batch.labels, batch.is_scored, batch.ids_BL, SPECIAL)
    np.testing.assert_allclose(value, reference(vectors, EXAMPLES, 0.5, [8]).mean(), rtol=2e-5)


def test_rows_and_texts_have_the_same_ids():
    numbers = number_texts(EXAMPLES)
    assert list(numbers) == ["a", "b", "q", "d", "p", "r", "s", *"nmxyoz"]
    alone, _ = encode_texts(Characters(), EXAMPLES, 16)
    rows, phrases = encode_groups(Characters(), EXAMPLES, 16)
    batch = make_batch(make_type("embedding"), rows, range(5), 6, SPECIAL.pad)
    assert not phrases and batch.labels.ids_BTL.shape == (6, 3, 32)
    for row, example in enumerate(EXAMPLES):
        for column, text in enumerate((example.pair, *example.negatives)):
            ids = batch.labels.ids_BTL[row, column]
            wanted = alone[numbers[text]].ids if text else []
            assert ids[ids != SPECIAL.pad].tolist() == list(wanted)
    assert batch.is_scored.tolist() == [True] * 5 + [False]
    assert (batch.labels.numbers_BS[4, 3], *batch.labels.numbers_BS[5]) == (-1,) * 5
    _, phrases = encode_groups(Characters(), [EmbeddingExample("a" * 20, "b", (), None)], 16)
    assert phrases == ["1 of 2 different texts cut to 16 tokens"]


@pytest.fixture(scope="module")
def model():
    return TaskModel(encoder_config("electra"), SPECIAL, "embedding", 0, "published", 0.1, "mean")


def init_params(model):
    return jax.jit(lambda: unbox(model.init(key(), jnp.ones((1, 2), jnp.int32), False)["params"]))()


def loss_of(model, task_type, params, batch):
    outputs = model.apply({"params": params}, batch.ids_BL, True, batch.labels, rngs={"dropout": key(1)})
    return task_type.loss(outputs, batch.labels, batch.is_scored, batch.ids_BL, SPECIAL)


def test_a_mesh_compares_the_whole_batch(model):
    """Loss and gradients on eight devices are those on one, and not those of separate halves."""
    examples = [
        EmbeddingExample(one * 3, two * 4, ("x" + one,), None)
        for one, two in zip("abcdefgh", "aijklmno", strict=True)
    ]
    task_type = make_type("embedding", temperature=0.5, matryoshka=(4,))
    rows, _ = encode_groups(Characters(), examples, 16)
    params = init_params(model)
    assert set(params) == {"embeddings", "encoder"}
    batch = make_batch(task_type, rows, range(8), 8, SPECIAL.pad)._replace(indices_B=None)
    function = functools.partial(loss_of, model, task_type)
    outcomes = []
    for mesh in (make_mesh(ONE, jax.devices()[:1]), make_mesh(ONE | {"data": 4, "fsdp": 2})):
        with axis_context(mesh):
            placed = put_whole(batch, batch_sharding(mesh))
            outcomes.append(jax.device_get(jax.jit(jax.value_and_grad(function))(params, placed)))
    (loss, grads), (other_loss, other_grads) = outcomes
    np.testing.assert_allclose(other_loss, loss, rtol=1e-5)
    largest = max(np.abs(leaf).max() for leaf in jax.tree.leaves(grads))
    assert largest > 1e-3
    for one, other in zip(jax.tree.leaves(grads), jax.tree.leaves(other_grads), strict=True):
        np.testing.assert_allclose(other, one, rtol=0, atol=1e-5 * largest)
    halves = [make_batch(task_type, rows, range(at, at + 4), 4, SPECIAL.pad) for at in (0, 4)]
    compiled = jax.jit(function)
    apart = np.mean([compiled(params, half._replace(indices_B=None)) for half in halves])
    assert loss - apart > 0.1  # fewer negatives


def test_a_text_without_a_pair_is_its_own_under_other_dropout(model):
    rows, _ = encode_groups(Characters(), [EmbeddingExample(text, None, (), None) for text in "ab"], 16)
    assert all(row.others[0].tolist() == row.ids.tolist() for row in rows)
    batch = make_batch(make_type("embedding"), rows, range(2), 2, SPECIAL.pad)
    packed = pack_rows(all_texts(batch.ids_BL, batch.labels, SPECIAL.pad), SPECIAL)
    params = init_params(model)
    config = model.config.with_dropout(0.1, 0.1)
    apply = lambda is_training: jax.jit(
        lambda params: model.clone(config=config).apply(
            {"params": params},
            batch.ids_BL,
            is_training,
            batch.labels,
            packed=packed,
            rngs={"dropout": key(1)},
        )
    )(params)
    (queries, others), (plain, plain_others) = apply(True), apply(False)
    np.testing.assert_allclose(plain, plain_others[:, 0], rtol=1e-6)
    assert np.abs(queries - others[:, 0]).max() > 1e-3


def test_the_similarities_of_the_widths_are_not_kept():
    vectors, numbers = make_vectors(8, 2), numbers_of([one._replace(negatives=("n",)) for one in EXAMPLES], 8)
    _, derivative = jax.vjp(lambda vectors: contrastive_losses(vectors, numbers, 0.05, (2, 4)), vectors)
    kept = [leaf.shape for leaf in jax.tree.leaves(derivative) if leaf.dtype == jnp.float32]
    assert kept and (8, 16) not in kept


def test_widths_that_the_vectors_lack():
    check_widths(("64", 128), 128)
    with pytest.raises(ValueError, match=r"^config\.task\.matryoshka: got 256, expected at most 128"):
        check_widths((64, "256"), 128)
