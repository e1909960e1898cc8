"""Loss and samples over the vocabulary: in chunks as at once, against NumPy, and without an array of all
logits."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from electra_jax.objectives.vocabulary import predict_vocabulary
from electra_jax.training.state import unbox
from support.jaxprs import sizes_of
from support.tiny import deberta, deberta_section, key, rows

B, P, E, V = 2, 5, 8, 300


# Jitted as wholes, or every operation would be compiled separately.
@functools.partial(jax.jit, static_argnames="vocab_size")
def arguments(seed=0, scale=1.0, vocab_size=V):
    x, table, bias, targets, uniforms, cotangent = jax.random.split(key(seed), 6)
    return (
        scale * jax.random.normal(x, (B, P, E)),
        jax.random.normal(table, (vocab_size, E)),
        jax.random.normal(bias, (vocab_size,)),
        jax.random.randint(targets, (B, P), 0, vocab_size),
        jax.random.uniform(uniforms, (B, P)),
        jax.random.normal(cotangent, (B, P)).at[0, 0].set(0.0),
    )


def predict(chunk_size, operands, targets, uniforms, dtype="float32"):
    return predict_vocabulary(
        *operands, targets, uniforms, temperature=1.0, chunk_size=chunk_size, dtype=dtype
    )


@functools.cache
def value_and_gradient(chunk_size, dtype="float32", **options):
    *operands, targets, uniforms, cotangent = arguments(**options)

    def loss(operands):
        predictions = predict(chunk_size, operands, targets, uniforms, dtype)
        return (predictions.nll_BP * cotangent).sum(), predictions

    (_, predictions), gradients = jax.jit(jax.value_and_grad(loss, has_aux=True))(operands)
    return predictions, gradients


@pytest.mark.parametrize("chunk_size", [1, 100, 128, 299, 300, 1000])
def test_chunks_equal_the_whole_in_value_and_gradient(chunk_size):
    whole, whole_gradients = value_and_gradient(0)
    chunked, gradients = value_and_gradient(chunk_size)
    np.testing.assert_allclose(chunked.nll_BP, whole.nll_BP, atol=1e-5)
    np.testing.assert_allclose(chunked.entropy_BP, whole.entropy_BP, atol=1e-5)
    np.testing.assert_array_equal(chunked.is_correct_BP, whole.is_correct_BP)
    for ours, expected in zip(gradients, whole_gradients, strict=True):
        assert float(jnp.abs(expected).max()) > 0.1
        np.testing.assert_allclose(ours, expected, atol=1e-5)


@pytest.mark.parametrize("chunk_size", [0, 128])
def test_against_numpy_in_float64(chunk_size):
    x, table, bias, targets, _, _ = (np.asarray(a, np.float64) for a in arguments())
    logits = x @ table.T + bias
    log_probabilities = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    predictions, _ = value_and_gradient(chunk_size)
    targets = targets.astype(int)
    np.testing.assert_allclose(
        predictions.nll_BP, -np.take_along_axis(log_probabilities, targets[..., None], -1)[..., 0], rtol=1e-5
    )
    np.testing.assert_allclose(
        predictions.entropy_BP, -(np.exp(log_probabilities) * log_probabilities).sum(-1), rtol=1e-5
    )
    np.testing.assert_array_equal(predictions.is_correct_BP, logits.argmax(-1) == targets)


def test_bfloat16_chunks_are_close_to_the_whole():
    (whole, expected), (chunked, gradients) = (
        value_and_gradient(0, "bfloat16"),
        value_and_gradient(64, "bfloat16"),
    )
    np.testing.assert_allclose(chunked.nll_BP, whole.nll_BP, atol=1e-4)
    for ours, reference in zip(gradients, expected, strict=True):
        np.testing.assert_allclose(ours, reference, atol=2e-2)


@pytest.mark.parametrize("scale", [1e4, 1e-6])
def test_extreme_logits_stay_finite(scale):
    predictions, gradients = value_and_gradient(64, scale=scale)
    for leaf in jax.tree.leaves((predictions, gradients)):
        assert np.isfinite(np.asarray(leaf, np.float64)).all()


@pytest.mark.parametrize("temperature", [1.0, 0.5])
@pytest.mark.parametrize(("chunk_size", "draws"), [(0, 50_000), (7, 10_000), (128, 50_000), (200, 50_000)])
def test_samples_follow_the_softmax(chunk_size, draws, temperature):
    vocab_size = 203
    logits = np.random.default_rng(0).normal(size=vocab_size).astype(np.float32) * 2
    logits[[0, 50, 128, 202]] = -1e9
    uniforms = jax.random.uniform(key(3), (1, draws))
    samples = predict_vocabulary(
        jnp.zeros((1, draws, 1)),
        jnp.zeros((vocab_size, 1)),
        jnp.asarray(logits),
        jnp.zeros((1, draws), int),
        uniforms,
        temperature=temperature,
        chunk_size=chunk_size,
        dtype="float32",
    ).samples_BP
    counts = np.bincount(np.asarray(samples).ravel(), minlength=vocab_size)
    weights = np.exp(logits.astype(np.float64) / temperature)
    expected = draws * weights / weights.sum()
    assert counts[[0, 50, 128, 202]].sum() == 0
    rare = expected < 5  # one class together: chi-square needs five per class
    observed, expected = (np.append(values[~rare], values[rare].sum()) for values in (counts, expected))
    excess = ((observed - expected) ** 2 / expected).sum() - (observed.size - 1)
    assert excess < 4.5 * np.sqrt(2 * (observed.size - 1))


@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 1000), chunk_size=st.integers(1, 40), vocab_size=st.integers(1, 40))
def test_any_chunk_of_any_vocabulary(seed, chunk_size, vocab_size):
    *operands, targets, uniforms, _ = arguments(seed, vocab_size=vocab_size)
    # Without gradients, which would take two thirds of the time to compile.
    whole, chunked = jax.jit(lambda *given: [predict(size, *given) for size in (0, chunk_size)])(
        operands, targets, uniforms
    )
    np.testing.assert_allclose(chunked.nll_BP, whole.nll_BP, atol=1e-5)
    assert (np.asarray(chunked.samples_BP) < vocab_size).all() and (np.asarray(chunked.samples_BP) >= 0).all()


def test_a_training_step_in_chunks_holds_no_array_of_all_logits():
    largest = {}
    for chunk_size in (0, 512):
        model = deberta_section(vocab_size=4096)
        objective = deberta(model, vocab_chunk_size=chunk_size)
        ids = jnp.asarray(rows(8))
        params = unbox(jax.eval_shape(functools.partial(objective.init, sequence_length=ids.shape[1]), key()))
        batch = jax.eval_shape(objective.prepare, key(), ids)
        phase = objective.phases[0]
        loss = lambda p, b: phase.loss(p, b, objective.normalizers(b), None, None)[0]
        sizes = sizes_of(jax.make_jaxpr(jax.grad(loss))(params, batch).jaxpr)
        num_positions = batch.positions_BP.size
        largest[chunk_size] = (
            num_positions * 4096 in sizes,
            ids.size * 4096 in sizes,
            num_positions * 512 in sizes,
        )
    assert largest == {0: (True, False, False), 512: (False, False, True)}
