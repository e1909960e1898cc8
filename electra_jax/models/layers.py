"""Matrix products, Dense, LayerNorm and GELU with logical axes: the pieces every module here is built from.

Shapes: B batch, L length, D input width, F output width.
"""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn


def logical(initializer, *axes: str):
    """Attach logical axis names to a parameter; distributed/sharding.py maps them to a mesh."""
    return nn.with_logical_partitioning(initializer, axes)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def contract(spec: str, dtype: str, x: jax.Array, y: jax.Array) -> jax.Array:
    """einsum of two arrays with operands rounded to `dtype` and sums in float32; the result is float32.

    So are its gradients' products: the incoming gradient is rounded to `dtype` too, where plain differentiation would multiply
    a float32 by a bfloat16 array at the speed of float32. `spec` names every axis; one that is summed is in both operands.
    """
    x, y = x.astype(dtype), y.astype(dtype)

    def product(x, y):
        return jnp.einsum(spec, x, y, preferred_element_type=jnp.float32)

    first, second, result = re.split(",|->", spec)
    if not set(first) & set(second) & set(result):
        return product(x, y)
    # XLA's CPU back end lacks batched bfloat16 products of some layouts. Those of the rounded operands in float32 are the same.
    return jax.lax.platform_dependent(x, y, default=product,
                                      cpu=lambda x, y: product(x.astype(jnp.float32), y.astype(jnp.float32)))


def _contract_forward(spec, dtype, x, y):
    # Empty arrays remember the dtypes that the gradients must have.
    return contract(spec, dtype, x, y), (x.astype(dtype), y.astype(dtype), jnp.empty(0, x.dtype), jnp.empty(0, y.dtype))


def _contract_backward(spec, dtype, residuals, gradient):
    x, y, like_x, like_y = residuals
    # Without the barrier XLA's CPU back end computes x again, element by element, while it transposes it for the product.
    x, y = jax.lax.optimization_barrier((x, y))
    first, second, result = re.split(",|->", spec)
    gradient_x = contract(f"{result},{second}->{first}", dtype, gradient, y)
    if len(second) == 2 and y.shape[0] > y.shape[1]:
        # The CPU back end transposes the first operand of this product: let it be the narrower one.
        gradient_y = jax.lax.optimization_barrier(contract(f"{result},{first}->{second[::-1]}", dtype, gradient, x)).T
    else:
        gradient_y = contract(f"{first},{result}->{second}", dtype, x, gradient)
    return gradient_x.astype(like_x.dtype), gradient_y.astype(like_y.dtype)


contract.defvjp(_contract_forward, _contract_backward)


class Dense(nn.Module):
    """x_BLD → x_BLF = x·kernel + bias, computed in `dtype`, parameters in float32."""

    features: int
    axes: tuple[str, str]  # logical axes of the kernel
    kernel_init: nn.initializers.Initializer
    dtype: str

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        kernel_DF = self.param("kernel", logical(self.kernel_init, *self.axes), (x.shape[-1], self.features))
        bias_F = self.param("bias", logical(nn.initializers.zeros, self.axes[1]), (self.features,))
        y_BLF = contract("BLD,DF->BLF", self.dtype, x, kernel_DF)
        return (y_BLF + broadcast_to_rank(bias_F, y_BLF.ndim)).astype(self.dtype)


class LayerNorm(nn.Module):
    """Normalise the last axis; statistics in float32, output in `dtype`."""

    epsilon: float
    axis: str
    dtype: str

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        scale_D = self.param("scale", logical(nn.initializers.ones, self.axis), (x.shape[-1],))
        bias_D = self.param("bias", logical(nn.initializers.zeros, self.axis), (x.shape[-1],))
        x = x.astype(jnp.float32)
        centered = x - x.mean(axis=-1, keepdims=True)
        inverse = jax.lax.rsqrt(jnp.square(centered).mean(axis=-1, keepdims=True) + self.epsilon)
        x = centered * inverse * broadcast_to_rank(scale_D, x.ndim) + broadcast_to_rank(bias_D, x.ndim)
        return x.astype(self.dtype)


def broadcast_to_rank(x: jax.Array, rank: int) -> jax.Array:
    """Prepend axes of size one, explicitly: implicit rank promotion is an error in this project's tests."""
    return x.reshape((1,) * (rank - x.ndim) + x.shape)


def gelu(x: jax.Array) -> jax.Array:
    """Exact (erf) GELU, as ELECTRA's code; the tanh approximation differs by up to 5e-4. In float32.

    jax.nn.gelu goes through erfc, which costs another exponential for digits that are lost in 1 − erfc anyway.
    """
    wide = x.astype(jnp.float32)
    return (0.5 * wide * (1.0 + jax.lax.erf(wide * np.float32(np.sqrt(0.5))))).astype(x.dtype)
