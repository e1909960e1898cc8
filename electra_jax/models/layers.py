"""The pieces that all modules here are built from: matrix products, Dense, LayerNorm and GELU.

Shapes: B batch, L length, D input width, F output width.
"""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax.ad_checkpoint import checkpoint_name

from electra_jax.models.traced_device import fusion_barrier

# Marks for the policies in models/layer_stack.py: products with parameters; weights and context of attention.
CHECKPOINT_NAME = "dense"
WEIGHTS_NAME, CONTEXT_NAME = "weights", "context"
# Accelerators round the operands of float32 products unless they are told not to: TPUs to bfloat16, GPUs to
# TF32. Both values are explicit, so that jax_default_matmul_precision of the process changes nothing.
PRECISION = {"float32": jax.lax.Precision.HIGHEST, "bfloat16": jax.lax.Precision.DEFAULT}

ROOT_HALF = np.float32(np.sqrt(0.5))


def logical(initializer, *axes: str):
    """Attach logical axis names to a parameter; distributed/sharding.py maps them to a mesh."""
    return nn.with_logical_partitioning(initializer, axes)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def einsum_f32(spec: str, dtype: str, x: jax.Array, y: jax.Array) -> jax.Array:
    """einsum of two arrays: operands rounded to `dtype`, sums and result in float32.

    Every matrix product of this package is made here (tests/test_precision.py), but those of Muon
    (training/update_rules.py), which are optax's. With dtype "float32" it is computed at the highest
    precision on every device.

    The products in its gradients are computed in the same way. Plain differentiation would multiply the
    float32 gradient with a bfloat16 array, at the speed of float32.

    Args:
      spec: names every axis; summed axes must be in both operands.
      dtype: of the operands.
      x: first operand.
      y: second operand.
    """
    return jnp.einsum(
        spec,
        x.astype(dtype),
        y.astype(dtype),
        precision=PRECISION[dtype],
        preferred_element_type=jnp.float32,
    )


def _einsum_forward(spec, dtype, x, y):
    # The empty arrays carry the dtypes that the gradients must have.
    return einsum_f32(spec, dtype, x, y), (
        x.astype(dtype),
        y.astype(dtype),
        jnp.empty(0, x.dtype),
        jnp.empty(0, y.dtype),
    )


def _einsum_backward(spec, dtype, residuals, gradient):
    x, y, like_x, like_y = residuals
    gradient_x, gradient_y = einsum_gradients(spec, dtype, x, y, gradient)
    return gradient_x.astype(like_x.dtype), gradient_y.astype(like_y.dtype)


def einsum_gradients(
    spec: str, dtype: str, x: jax.Array, y: jax.Array, gradient: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """The float32 gradients of both operands of `einsum_f32`, which are rounded already."""
    # Without the barrier XLA's CPU back end recomputes x element by element while it transposes it.
    x, y = fusion_barrier((x, y))
    first, second, result = re.split(",|->", spec)
    if set(first) & set(second) & set(result):
        gradient_x = _batched((result, gradient), (second, y), first, dtype)
        gradient_y = _batched((result, gradient), (first, x), second, dtype)
        return gradient_x, gradient_y
    gradient_x = einsum_f32(f"{result},{second}->{first}", dtype, gradient, y)
    if len(second) == 2 and y.shape[0] > y.shape[1]:
        # The CPU back end transposes the first operand of this product, so it should be the narrower one.
        gradient_y = fusion_barrier(einsum_f32(f"{result},{first}->{second[::-1]}", dtype, gradient, x)).T
    else:
        gradient_y = einsum_f32(f"{first},{result}->{second}", dtype, x, gradient)
    return gradient_x, gradient_y


def _batched(one: tuple[str, jax.Array], other: tuple[str, jax.Array], result: str, dtype: str) -> jax.Array:
    """The product of two operands, each with its axes, in the better order for XLA's CPU back end.

    In that order it is up to three times faster and has bfloat16 kernels. The first operand should have its
    summed axis right before the last axis, or else as far before it as possible.
    """

    def distance(operand):
        axes = operand[0]
        return len(axes) - 1 - max(axes.index(axis) for axis in axes if axis not in result) or len(axes)

    (first, x), (second, y) = sorted((one, other), key=distance)
    return einsum_f32(f"{first},{second}->{result}", dtype, x, y)


einsum_f32.defvjp(_einsum_forward, _einsum_backward)


class Dense(nn.Module):
    """x_BLD → x·kernel + bias [B, L, F] in `dtype`; the parameters are float32."""

    features: int
    axes: tuple[str, str]  # logical axes of the kernel
    kernel_init: nn.initializers.Initializer
    dtype: str
    has_bias: bool = True

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        kernel_DF = self.param("kernel", logical(self.kernel_init, *self.axes), (x.shape[-1], self.features))
        y_BLF = einsum_f32("BLD,DF->BLF", self.dtype, x, kernel_DF)
        if self.has_bias:
            bias_F = self.param("bias", logical(nn.initializers.zeros, self.axes[1]), (self.features,))
            y_BLF += broadcast_to_rank(bias_F, y_BLF.ndim)
        return checkpoint_name(y_BLF.astype(self.dtype), CHECKPOINT_NAME)


class LayerNorm(nn.Module):
    """LayerNorm over the last axis; statistics in float32, output in `dtype`."""

    epsilon: float
    axis: str  # logical axis of the parameters
    dtype: str
    has_bias: bool = True

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        scale_D = self.param("scale", logical(nn.initializers.ones, self.axis), (x.shape[-1],))
        bias_D = (
            self.param("bias", logical(nn.initializers.zeros, self.axis), (x.shape[-1],))
            if self.has_bias
            else jnp.zeros(x.shape[-1])  # a constant, which costs nothing
        )
        return layer_norm(self.epsilon, self.dtype, x, scale_D, bias_D)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def layer_norm(epsilon: float, dtype: str, x: jax.Array, scale_D: jax.Array, bias_D: jax.Array) -> jax.Array:
    """(x − mean) / √(variance + epsilon) · scale + bias over the last axis, computed in float32, in `dtype`.

    Its derivative keeps x in its own dtype and two numbers of each row. It computes the product of gradient
    and result before it sums, because XLA's CPU back end turns the sum of a product along rows into thousands
    of small matrix products.
    """
    return _layer_norm_forward(epsilon, dtype, x, scale_D, bias_D)[0]


def _layer_norm_forward(epsilon, dtype, x, scale_D, bias_D):
    y, mean, inverse = standardize(epsilon, x)
    y = y * broadcast_to_rank(scale_D, y.ndim) + broadcast_to_rank(bias_D, y.ndim)
    return y.astype(dtype), (x, mean, inverse, scale_D)


def _layer_norm_backward(epsilon, dtype, residuals, gradient):
    del epsilon, dtype
    x, mean, inverse, scale_D = residuals
    gradient = gradient.astype(jnp.float32)
    y = (x.astype(jnp.float32) - mean) * inverse
    rows = tuple(range(y.ndim - 1))
    gradient_scale_D, gradient_bias_D = (gradient * y).sum(axis=rows), gradient.sum(axis=rows)
    gradient *= broadcast_to_rank(scale_D, y.ndim)
    gradient, product = fusion_barrier((gradient, gradient * y))
    row_mean = lambda x: x.mean(axis=-1, keepdims=True)
    gradient = inverse * (gradient - row_mean(gradient) - y * row_mean(product))
    return gradient.astype(x.dtype), gradient_scale_D, gradient_bias_D


layer_norm.defvjp(_layer_norm_forward, _layer_norm_backward)


def standardize(epsilon: float, x: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """(x − mean) / √(variance + epsilon) over the last axis, the mean, and 1 / the root, in float32."""
    x = x.astype(jnp.float32)
    mean = x.mean(axis=-1, keepdims=True)
    centered = x - mean
    inverse = jax.lax.rsqrt(jnp.square(centered).mean(axis=-1, keepdims=True) + epsilon)
    return centered * inverse, mean, inverse


def broadcast_to_rank(x: jax.Array, rank: int) -> jax.Array:
    """Prepend axes of size one; implicit rank promotion is an error in the tests."""
    return x.reshape((1,) * (rank - x.ndim) + x.shape)


@jax.custom_vjp
def gelu(x: jax.Array) -> jax.Array:
    """Exact (erf) GELU as in ELECTRA's code, computed in float32; the tanh form is off by up to 5e-4.

    jax.nn.gelu uses erfc, which needs another exponential for digits that are lost in 1 − erfc anyway.

    Its derivative keeps x alone; plain differentiation keeps three float32 arrays of its size.
    """
    wide = x.astype(jnp.float32)
    return (0.5 * wide * (1.0 + jax.lax.erf(wide * ROOT_HALF))).astype(x.dtype)


def _gelu_forward(x):
    return gelu(x), x


def _gelu_backward(x, gradient):
    """d(x·Φ(x))/dx = Φ(x) + x·φ(x), the distribution and the density of a standard normal variable."""
    wide = x.astype(jnp.float32)
    distribution = 0.5 * (1.0 + jax.lax.erf(wide * ROOT_HALF))
    density = np.float32(1.0 / np.sqrt(2.0 * np.pi)) * jnp.exp(-0.5 * wide * wide)
    return ((gradient.astype(jnp.float32) * (distribution + wide * density)).astype(x.dtype),)


gelu.defvjp(_gelu_forward, _gelu_backward)


@jax.custom_vjp
def gated_gelu(x: jax.Array, gate: jax.Array) -> jax.Array:
    """gelu(x) · gate, computed in float32. Its derivative keeps only the two arguments."""
    return (gelu(x.astype(jnp.float32)) * gate.astype(jnp.float32)).astype(x.dtype)


def _gated_gelu_forward(x, gate):
    return gated_gelu(x, gate), (x, gate)


def _gated_gelu_backward(residuals, gradient):
    x, gate = (each.astype(jnp.float32) for each in residuals)
    gradient = gradient.astype(jnp.float32)
    (gradient_x,) = _gelu_backward(x, gradient * gate)
    return gradient_x.astype(residuals[0].dtype), (gradient * gelu(x)).astype(residuals[1].dtype)


gated_gelu.defvjp(_gated_gelu_forward, _gated_gelu_backward)
