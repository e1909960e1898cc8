"""Attention by blocks: equal to full attention with a mask, in memory proportional to the length."""

import functools

import jax
import numpy as np
import pytest

from electra_jax.models import local_attention
from electra_jax.models.local_attention import block_size
from support.attention_by_hand import HEADS, WIDTH, by_hand, make_arrays, make_inputs, value_and_gradients
from support.jaxprs import sizes_of
from support.tiny import key


# Rows of 300 are no multiple of a block; of these documents one is a token, one ends where a block ends and
# one lies across several.
@pytest.mark.parametrize(
    ("reach", "lengths", "direction"),
    [(64, (300,), None), (8, (1, 127, 140, 20), None), (8, (64, 200), -1), (130, (350, 61), None)],
    ids=["one document", "packed", "to the right", "reach above a block"],
)
def test_blocks_give_what_a_mask_gives(reach, lengths, direction):
    total = 420 if reach > 64 else 300
    inputs = make_inputs(lengths, total, direction=direction)
    assert total > block_size(reach) + 2 * reach
    arrays, target_BLHK = make_arrays(2, total), jax.random.normal(key(5), (2, total, HEADS, WIDTH))
    # What padding attends to has no meaning.
    target_BLHK *= (inputs.segments_BL > 0)[:, :, None, None]
    ours = functools.partial(local_attention.local_attention, 1.0, "float32", reach, inputs=inputs, key=None)
    got = value_and_gradients(lambda arrays: ours(arrays=arrays), arrays, target_BLHK)
    expected = value_and_gradients(lambda arrays: by_hand(reach, arrays, inputs), arrays, target_BLHK)
    for one, two in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(one, two, rtol=1e-5, atol=1e-5)


def test_short_rows_are_computed_whole_and_give_the_same():
    inputs, reach = make_inputs((20, 30), 60), 8
    arrays = make_arrays(2, 60)
    ours = lambda arrays: local_attention.local_attention(1.0, "float32", reach, arrays, inputs, None)
    got, expected = jax.jit(lambda arrays: (ours(arrays), by_hand(reach, arrays, inputs)))(arrays)
    is_token = np.asarray(inputs.segments_BL) > 0
    np.testing.assert_allclose(
        np.asarray(got)[is_token], np.asarray(expected)[is_token], rtol=1e-5, atol=1e-5
    )


def test_dropout_differs_between_blocks_and_stays_with_its_row():
    inputs, reach, length = make_inputs((512,), 512), 8, 512
    arrays = make_arrays(2, length)
    constant = np.zeros(arrays[0].shape, np.float32), arrays[1], np.ones(arrays[2].shape, np.float32)
    run = jax.jit(
        lambda arrays, inputs: local_attention.local_attention(0.5, "float32", reach, arrays, inputs, key(6))
    )
    both = np.asarray(run(constant, inputs))  # the shares of the keys that dropout keeps
    inner = both[:, :, 0, 0].reshape(2, -1, block_size(reach))[:, 1:-1]
    assert len(np.unique(inner.reshape(-1, block_size(reach)), axis=0)) == 4
    second = jax.tree.map(lambda x: np.asarray(x)[1:], (constant, inputs))
    np.testing.assert_allclose(run(*second), both[1:], rtol=1e-6)


def test_no_array_grows_with_the_square_of_the_length():
    def sizes(length):
        inputs, arrays = make_inputs((length,), length, num_rows=1), make_arrays(1, length)
        loss = lambda arrays: local_attention.local_attention(0.9, "float32", 64, arrays, inputs, key()).sum()
        return max(sizes_of(jax.make_jaxpr(jax.value_and_grad(loss))(arrays).jaxpr))

    assert sizes(8192) == HEADS * 8192 * (block_size(64) + 128) == 2 * sizes(4096)


def test_gradients_have_the_dropout_of_the_forward_pass():
    inputs, (query, key_, value), reach = make_inputs((100, 180), 300), make_arrays(2, 300), 8
    target_BLHK = jax.random.normal(key(5), value.shape)
    assert block_size(reach) + 2 * reach < 300  # else there are no blocks

    def output(value):
        arrays = query, key_, value
        context = local_attention.local_attention(0.5, "float32", reach, arrays, inputs, key(6))
        return (context * target_BLHK).sum()

    total, gradient = jax.jit(jax.value_and_grad(output))(value)
    # The output is linear in the values.
    np.testing.assert_allclose((gradient * value).sum(), total, rtol=1e-4)
