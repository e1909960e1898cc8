"""Matrix products, GELU, LayerNorm, dropout and attention: values and gradients against plain code."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from electra_jax.models.attention_weights import attend
from electra_jax.models.dropout import drop, keep_mask
from electra_jax.models.inputs import EncoderInputs
from electra_jax.models.layers import einsum_f32, gelu, layer_norm

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


def plain_gelu(x):
    return 0.5 * x * (1.0 + jax.lax.erf(x / np.sqrt(2.0)))


def plain_layer_norm(x, scale, bias):
    centered = x - x.mean(-1, keepdims=True)
    return centered / jnp.sqrt(jnp.square(centered).mean(-1, keepdims=True) + 1e-5) * scale + bias


ours_layer_norm = functools.partial(layer_norm, 1e-5, "float32")


def test_the_gradient_of_gelu_against_double_precision():
    x = np.linspace(-6, 6, 1001, dtype=np.float32)
    gradient = jax.vmap(jax.grad(gelu))(jnp.asarray(x))
    expected = [
        0.5 * (1 + math.erf(v / math.sqrt(2))) + v * math.exp(-0.5 * v * v) / math.sqrt(2 * math.pi)
        for v in x.astype(np.float64)
    ]
    np.testing.assert_allclose(gradient, expected, rtol=4e-7, atol=2e-7)


@pytest.mark.parametrize("shape", [(7,), (3, 5, 16), (2, 1, 3, 4)])
def test_derivatives_of_gelu_against_plain_differentiation(shape):
    x, direction = (2.0 * jax.random.normal(jax.random.key(seed), shape) for seed in range(2))

    def up_to_second(function):
        first = jax.grad(lambda x: (function(x) * direction).sum())
        return first(x), jax.grad(lambda x: jnp.square(first(x)).sum())(x)

    for got, expected in zip(up_to_second(gelu), up_to_second(plain_gelu), strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-5, atol=2e-6)


@pytest.mark.parametrize("shape", [(16,), (2, 5, 16), (3, 2, 4, 8)])
def test_layer_norm_and_its_gradients_against_plain_differentiation(shape):
    x, direction = (3.0 * jax.random.normal(jax.random.key(seed), shape) + 1.0 for seed in range(2))
    if len(shape) > 1:
        x = x.at[0, 0].set(0.5)  # a row without variance, where only epsilon counts
    scale, bias = jax.random.normal(jax.random.key(2), (2, shape[-1]))
    widen = lambda parameter: parameter.reshape((1,) * (len(shape) - 1) + parameter.shape)
    (expected, pull_back), (got, pull_back_got) = (
        jax.vjp(f, x, scale, bias)
        for f in (lambda x, *both: plain_layer_norm(x, *map(widen, both)), ours_layer_norm)
    )
    np.testing.assert_allclose(got, expected, atol=2e-6, rtol=0)
    for one, other in zip(pull_back_got(direction), pull_back(direction), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5)


def test_second_derivatives_of_layer_norm_against_plain_differentiation():
    x, direction = jax.random.normal(jax.random.key(0), (2, 3, 8))
    one, zero = jnp.ones(8), jnp.zeros(8)

    def second(function):
        first = jax.grad(lambda x: (function(x) * direction).sum())
        return jax.grad(lambda x: (first(x) * direction[::-1]).sum())(x)

    got = second(lambda x: ours_layer_norm(x, one, zero))
    expected = second(lambda x: plain_layer_norm(x, one[None], zero[None]))
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["gelu", "layer_norm"])
def test_in_bfloat16_results_and_gradients_are_rounded_once(name):
    """As float32 gives them for the same inputs, then rounded."""
    x = jax.random.normal(jax.random.key(0), (4, 3, 32)).astype(jnp.bfloat16)
    direction = jax.random.normal(jax.random.key(1), x.shape).astype(jnp.bfloat16)
    if name == "gelu":
        rounded = exact = gelu
    else:
        rounded, exact = (
            lambda x, dtype=dtype: layer_norm(1e-5, dtype, x, jnp.ones(32), jnp.zeros(32))
            for dtype in ("bfloat16", "float32")
        )
    (got, pull_back_got), (expected, pull_back) = (
        jax.vjp(rounded, x),
        jax.vjp(exact, x.astype(jnp.float32)),
    )
    assert got.dtype == jnp.bfloat16 and pull_back_got(direction)[0].dtype == jnp.bfloat16
    np.testing.assert_array_equal(got, expected.astype(jnp.bfloat16))
    np.testing.assert_array_equal(
        pull_back_got(direction)[0], pull_back(direction.astype(jnp.float32))[0].astype(jnp.bfloat16)
    )


@pytest.mark.parametrize("rows", [None, [5, 2]])
def test_dropout_and_its_gradient_are_one_mask(rows):
    rows_B = None if rows is None else jnp.asarray(rows, jnp.uint32)
    x, direction = jax.random.normal(jax.random.key(0), (2, 2, 3, 16))
    mask = keep_mask(jax.random.key(3), 0.75, x.shape, rows_B)
    got, pull_back = jax.vjp(lambda x: drop(0.75, x, rows_B, jax.random.key(3)), x)
    assert 0 < int(mask.sum()) < mask.size
    np.testing.assert_array_equal(got, jnp.where(mask, x / 0.75, 0.0))
    np.testing.assert_array_equal(pull_back(direction)[0], jnp.where(mask, direction / 0.75, 0.0))


@pytest.mark.parametrize("with_dropout", [False, True])
def test_attention_and_its_gradients_against_plain_differentiation(with_dropout):
    key = jax.random.key(3) if with_dropout else None
    segments_BL = jnp.asarray([[1, 1, 1, 2, 2, 0], [1, 1, 1, 1, 1, 1]])
    inputs = EncoderInputs(segments_BL, segments_BL, segments_BL, jnp.asarray([5, 2], jnp.uint32))

    def plain(scores_BHLM, value_BMHK):
        is_same = (segments_BL[:, :, None] == segments_BL[:, None, :])[:, None]
        weights_BHLM = jax.nn.softmax(jnp.where(is_same, scores_BHLM, -jnp.inf), axis=-1)
        # The rows 5 and 2 of the batch.
        mask_BHLM = keep_mask(jax.random.key(3), 0.75, (6, *weights_BHLM.shape[1:]))[np.array([5, 2])]
        weights_BHLM = weights_BHLM * mask_BHLM / 0.75 if with_dropout else weights_BHLM
        return jnp.einsum("BHLM,BMHK->BLHK", weights_BHLM, value_BMHK)

    scores, value, direction = (
        jax.random.normal(jax.random.key(seed), shape)
        for seed, shape in enumerate(((2, 3, 6, 6), (2, 6, 3, 4), (2, 6, 3, 4)))
    )
    functions = plain, lambda scores, value: attend(0.75, "float32", scores, value, inputs, key)
    (expected, pull_back), (got, pull_back_got) = (jax.vjp(f, scores, value) for f in functions)
    np.testing.assert_allclose(got, expected, atol=1e-6, rtol=0)
    for one, other in zip(pull_back_got(direction), pull_back(direction), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6, rtol=0)
    # Of unit vectors as values, the context is the weights: none leaves its segment.
    units = jnp.broadcast_to(jnp.eye(6)[None, :, None], (2, 6, 3, 6))
    assert (attend(0.75, "float32", scores, units, inputs, key)[0, 0, :, 3:] == 0).all()
