"""Attention by blocks of queries: equal to whole attention, in memory proportional to the length."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from electra_jax.models import global_attention as module
from electra_jax.models.global_attention import block_size, global_attention
from support.attention_by_hand import HEADS, by_hand, make_arrays, make_inputs, value_and_gradients
from support.jaxprs import sizes_of
from support.tiny import key


@pytest.fixture
def small_blocks(monkeypatch):
    """Blocks of 16 queries in rows above 40 tokens."""
    monkeypatch.setattr(module, "LONGEST_WHOLE", 40)
    monkeypatch.setattr(module, "SMALLEST_BLOCK", 16)
    monkeypatch.setattr(module, "BLOCK_SCORES", 16)


# 100 is no multiple of a block. One of these documents is a token, one ends where a block ends.
@pytest.mark.parametrize(
    ("lengths", "direction"),
    [((100,), None), ((1, 15, 40, 20), None), ((30, 66), -1), ((30, 66), 1)],
    ids=["one document", "packed", "to the right", "to the left"],
)
def test_blocks_give_what_whole_attention_gives(small_blocks, lengths, direction):
    total = 100
    inputs = make_inputs(lengths, total, direction=direction)
    arrays = make_arrays(2, total)
    # What padding attends to has no meaning.
    target_BLHK = jax.random.normal(key(5), arrays[0].shape) * (inputs.segments_BL > 0)[:, :, None, None]
    ours = functools.partial(global_attention, 1.0, "float32", inputs=inputs, key=None)
    got = value_and_gradients(lambda arrays: ours(arrays), arrays, target_BLHK)
    expected = value_and_gradients(lambda arrays: by_hand(total, arrays, inputs), arrays, target_BLHK)
    for one, two in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(one, two, rtol=1e-5, atol=1e-5)


def test_dropout_differs_between_blocks_and_stays_with_its_row(small_blocks):
    inputs, (query, key_, value) = make_inputs((96,), 96), make_arrays(2, 96)
    constant = jnp.zeros_like(query), key_, jnp.ones_like(value)
    run = jax.jit(lambda arrays, inputs: global_attention(0.5, "float32", arrays, inputs, key(6)))
    both = np.asarray(run(constant, inputs))  # the shares of the keys that dropout keeps
    assert len(np.unique(both[:, :, 0, 0].reshape(-1, 16), axis=0)) == 2 * 6
    second = jax.tree.map(lambda x: x[1:], (constant, inputs))
    np.testing.assert_allclose(run(*second), both[1:], rtol=1e-6)


def test_gradients_have_the_dropout_of_the_forward_pass(small_blocks):
    inputs, (query, key_, value) = make_inputs((40, 50), 100), make_arrays(2, 100)
    target_BLHK = jax.random.normal(key(5), value.shape)

    def output(value):
        context = global_attention(0.5, "float32", (query, key_, value), inputs, key(6))
        return (context * target_BLHK).sum()

    total, gradient = jax.jit(jax.value_and_grad(output))(value)
    # The output is linear in the values.
    np.testing.assert_allclose((gradient * value).sum(), total, rtol=1e-4)


def test_a_bias_is_added_at_any_length(small_blocks):
    inputs, (query, key_, value) = make_inputs((60,), 60), make_arrays(2, 60)
    bias_HLM = jnp.zeros((HEADS, 60, 60)).at[:, :, 7].set(1e4)  # all attend to the token 7
    context = global_attention(1.0, "float32", (query, key_, value), inputs, None, bias_HLM)
    np.testing.assert_allclose(context, jnp.broadcast_to(value[:, 7:8], value.shape), rtol=1e-5)


def test_no_array_grows_with_the_square_of_the_length():
    def largest(length):
        inputs, arrays = make_inputs((length,), length, num_rows=1), make_arrays(1, length)
        loss = lambda arrays: global_attention(0.9, "float32", arrays, inputs, key()).sum()
        return max(sizes_of(jax.make_jaxpr(jax.value_and_grad(loss))(arrays).jaxpr))

    assert largest(16384) == HEADS * 16384 * block_size(16384) == 2 * largest(8192)
    assert largest(2048) == HEADS * module.BLOCK_SCORES


def test_blocks_are_of_the_size_that_the_length_allows():
    assert [block_size(length) for length in (1100, 2048, 4096, 8192, 65_536)] == [896, 512, 256, 128, 128]
