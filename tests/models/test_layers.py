"""Matrix products, GELU, LayerNorm and attention weights: values and gradients against plain code."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from electra_jax.models.attention_weights import attention_weights
from electra_jax.models.dropout import keep_mask
from electra_jax.models.inputs import EncoderInputs
from electra_jax.models.layers import einsum_f32, gelu, standardize

SPECS = {
    "BLD,DF->BLF": ((3, 5, 8), (8, 6)),
    "BLD,DHK->BLHK": ((3, 5, 8), (8, 2, 4)),
    "BLHK,BMHK->BHLM": ((3, 5, 2, 4), (3, 7, 2, 4)),
    "BMHK,BHLM->BLHK": ((3, 7, 2, 4), (3, 2, 5, 7)),
    "THK,BLHK->BHLT": ((9, 2, 4), (3, 5, 2, 4)),
    "BLHK,THK->BHLT": ((3, 5, 2, 4), (9, 2, 4)),
    "BPE,VE->BPV": ((3, 5, 8), (9, 8)),
}


@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-6), ("bfloat16", 3e-2)])
def test_einsum_f32_agrees_with_einsum(spec, dtype, tolerance):
    keys = jax.random.split(jax.random.key(0), 3)
    x, y = (jax.random.normal(key, shape) for key, shape in zip(keys, SPECS[spec], strict=False))
    expected, pull_back = jax.vjp(lambda x, y: jnp.einsum(spec, x, y), x, y)
    direction = jax.random.normal(keys[2], expected.shape)
    got, pull_back_got = jax.vjp(lambda x, y: einsum_f32(spec, dtype, x, y), x, y)
    for a, b in zip((got, *pull_back_got(direction)), (expected, *pull_back(direction)), strict=True):
        assert a.dtype == jnp.float32
        np.testing.assert_allclose(a, b, atol=tolerance * float(jnp.abs(b).max()), rtol=0)


def test_sums_are_not_rounded_to_bfloat16():
    ones = jnp.ones((1, 1, 4096))
    assert (
        float(einsum_f32("BLD,DF->BLF", "bfloat16", ones, jnp.ones((4096, 1)) * (1 + 1 / 64))[0, 0, 0])
        == 4160.0
    )
    # A bfloat16 cannot hold 4096 + 1.
    assert (
        float(einsum_f32("BLD,DF->BLF", "bfloat16", ones.at[0, 0, 0].set(2.0), jnp.ones((4096, 1)))[0, 0, 0])
        == 4097.0
    )


def test_gradients_have_the_dtypes_of_their_operands():
    x, kernel = jnp.ones((1, 2, 4), jnp.bfloat16), jnp.ones((4, 3), jnp.float32)
    gradients = jax.grad(
        lambda x, kernel: einsum_f32("BLD,DF->BLF", "bfloat16", x, kernel).sum(), argnums=(0, 1)
    )(x, kernel)
    assert [g.dtype for g in gradients] == [jnp.bfloat16, jnp.float32]


def test_gelu_against_erf_in_double_precision():
    x = np.linspace(-6, 6, 1001, dtype=np.float32)
    expected = [0.5 * float(v) * (1 + math.erf(float(v) / math.sqrt(2))) for v in x]
    # Half of x times two units in the last place of erf near −1.
    np.testing.assert_allclose(gelu(jnp.asarray(x)), expected, rtol=4e-7, atol=8e-7)


def test_standardize_and_its_gradient_against_plain_differentiation():
    def plain(x):
        centered = x - x.mean(-1, keepdims=True)
        return centered / jnp.sqrt(jnp.square(centered).mean(-1, keepdims=True) + 1e-5)

    x, direction = (3.0 * jax.random.normal(jax.random.key(seed), (2, 5, 16)) + 1.0 for seed in range(2))
    x = x.at[0, 0].set(0.5)  # a row without variance, where only epsilon counts
    (expected, pull_back), (got, pull_back_got) = (
        jax.vjp(f, x) for f in (plain, lambda x: standardize(1e-5, x))
    )
    np.testing.assert_allclose(got, expected, atol=1e-6, rtol=0)
    np.testing.assert_allclose(pull_back_got(direction)[0], pull_back(direction)[0], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("with_dropout", [False, True])
def test_attention_weights_and_their_gradient_against_plain_differentiation(with_dropout):
    key = jax.random.key(3) if with_dropout else None
    segments_BL = jnp.asarray([[1, 1, 1, 2, 2, 0], [1, 1, 1, 1, 1, 1]])
    inputs = EncoderInputs(segments_BL, segments_BL, segments_BL, jnp.asarray([5, 2], jnp.uint32))

    def plain(scores_BHLM):
        is_same = (segments_BL[:, :, None] == segments_BL[:, None, :])[:, None]
        weights_BHLM = jax.nn.softmax(jnp.where(is_same, scores_BHLM, -jnp.inf), axis=-1)
        # The rows 5 and 2 of the batch.
        mask_BHLM = keep_mask(jax.random.key(3), 0.75, (6, *weights_BHLM.shape[1:]))[np.array([5, 2])]
        return weights_BHLM * mask_BHLM / 0.75 if with_dropout else weights_BHLM

    scores, direction = (jax.random.normal(jax.random.key(seed), (2, 3, 6, 6)) for seed in range(2))
    functions = plain, lambda scores_BHLM: attention_weights(0.75, scores_BHLM, inputs, key)
    (expected, pull_back), (got, pull_back_got) = (jax.vjp(f, scores) for f in functions)
    np.testing.assert_allclose(got, expected, atol=1e-6, rtol=0)
    np.testing.assert_allclose(pull_back_got(direction)[0], pull_back(direction)[0], atol=1e-6, rtol=0)
    assert (got[0, :, 0, 3:] == 0).all()
