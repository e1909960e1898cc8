"""Matrix products: values and gradients against plain einsum, and what rounding to bfloat16 leaves."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from electra_jax.models.layers import contract, gelu

SPECS = {"BLD,DF->BLF": ((3, 5, 8), (8, 6)), "BLD,DHK->BLHK": ((3, 5, 8), (8, 2, 4)),
         "BLHK,BMHK->BHLM": ((3, 5, 2, 4), (3, 7, 2, 4)), "BHLM,BMHK->BLHK": ((3, 2, 5, 7), (3, 7, 2, 4)),
         "BPE,VE->BPV": ((3, 5, 8), (9, 8))}


@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-6), ("bfloat16", 3e-2)])
def test_contract_agrees_with_einsum(spec, dtype, tolerance):
    keys = jax.random.split(jax.random.key(0), 3)
    x, y = (jax.random.normal(key, shape) for key, shape in zip(keys, SPECS[spec], strict=False))
    expected, pull_back = jax.vjp(lambda x, y: jnp.einsum(spec, x, y), x, y)
    direction = jax.random.normal(keys[2], expected.shape)
    got, pull_back_got = jax.vjp(lambda x, y: contract(spec, dtype, x, y), x, y)
    for a, b in zip((got, *pull_back_got(direction)), (expected, *pull_back(direction)), strict=True):
        assert a.dtype == jnp.float32
        np.testing.assert_allclose(a, b, atol=tolerance * float(jnp.abs(b).max()), rtol=0)


def test_sums_are_not_rounded_to_bfloat16():
    ones = jnp.ones((1, 1, 4096))
    assert float(contract("BLD,DF->BLF", "bfloat16", ones, jnp.ones((4096, 1)) * (1 + 1 / 64))[0, 0, 0]) == 4160.0
    # 4096 + 1 is not a bfloat16: a bfloat16 result would lose the one.
    assert float(contract("BLD,DF->BLF", "bfloat16", ones.at[0, 0, 0].set(2.0), jnp.ones((4096, 1)))[0, 0, 0]) == 4097.0


def test_gradients_have_the_dtypes_of_what_they_belong_to():
    x, kernel = jnp.ones((1, 2, 4), jnp.bfloat16), jnp.ones((4, 3), jnp.float32)
    gradients = jax.grad(lambda x, kernel: contract("BLD,DF->BLF", "bfloat16", x, kernel).sum(), argnums=(0, 1))(x, kernel)
    assert [g.dtype for g in gradients] == [jnp.bfloat16, jnp.float32]


def test_gelu_against_erf_in_double_precision():
    x = np.linspace(-6, 6, 1001, dtype=np.float32)
    expected = [0.5 * float(v) * (1 + math.erf(float(v) / math.sqrt(2))) for v in x]
    # Half of x times two units in the last place of erf near −1.
    np.testing.assert_allclose(gelu(jnp.asarray(x)), expected, rtol=4e-7, atol=8e-7)
