"""Rotary positions: queries and keys are rotated by angles proportional to their positions, so that a product
of the two depends on the distance only (Su et al., RoFormer; pairing the two halves of a head, `rotate_half`
of transformers, as in ModernBERT).

Feature t of a head's first half and feature t of its second half are a pair, which position p rotates by
p · θ^(−2t/K).

Shapes: B batch, L length, D hidden, H heads, K head dim, T pairs of features (K/2).
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from electra_jax.models.attention import Projection
from electra_jax.models.config import EncoderConfig
from electra_jax.models.global_attention import global_attention
from electra_jax.models.initializers import (
    kernel_initializer,
    neighbour_rotary_projection,
    residual_kernel_initializer,
)
from electra_jax.models.inputs import EncoderInputs
from electra_jax.models.layers import Dense
from electra_jax.models.local_attention import local_attention


class Rotation(NamedTuple):
    """Cosines and sines of the angles of all positions, float32 [B, L, T]."""

    cos_BLT: jax.Array
    sin_BLT: jax.Array


class Rotations(NamedTuple):
    """The rotations of the two kinds of layers."""

    global_layers: Rotation
    local_layers: Rotation


def make_rotations(config: EncoderConfig, positions_BL: jax.Array) -> Rotations:
    """Made once for all layers of an encoder. Positions begin from 0 in every document: they are below L."""

    def rotation(theta: float) -> Rotation:
        exponent_T = np.arange(0, config.head_size, 2, dtype=np.float32) / np.float32(config.head_size)
        frequency_T = np.float32(1.0) / np.float32(theta) ** exponent_T

        def compute(positions_BL):
            angle_BLT = positions_BL.astype(jnp.float32)[:, :, None] * frequency_T[None, None]
            return Rotation(jnp.cos(angle_BLT), jnp.sin(angle_BLT))

        def look_up(positions_BL):
            angle_LT = np.arange(positions_BL.shape[1], dtype=np.float32)[:, None] * frequency_T[None]
            take = lambda table: jnp.asarray(table).at[positions_BL].get(mode="promise_in_bounds")
            return Rotation(take(np.cos(angle_LT)), take(np.sin(angle_LT)))

        # XLA's CPU back end fuses a cosine with what it multiplies, and so computes it again for each layer,
        # head and pass: a sixth of the time of a small model's step.
        return jax.lax.platform_dependent(positions_BL, cpu=look_up, default=compute)

    return Rotations(rotation(config.rotary.global_theta), rotation(config.rotary.local_theta))


@jax.custom_vjp
def rotate(x_BLHK: jax.Array, rotation: Rotation) -> jax.Array:
    """Rotated queries or keys, computed in float32, in the dtype of `x_BLHK`."""
    cos_BL1T, sin_BL1T = (each[:, :, None] for each in rotation)
    first, second = jnp.split(x_BLHK.astype(jnp.float32), 2, axis=-1)
    rotated = [first * cos_BL1T - second * sin_BL1T, second * cos_BL1T + first * sin_BL1T]
    return jnp.concatenate(rotated, axis=-1).astype(x_BLHK.dtype)


def _rotate_forward(x_BLHK, rotation):
    return rotate(x_BLHK, rotation), rotation


def _rotate_backward(rotation, gradient_BLHK):
    # The transpose of a rotation is the rotation back.
    return rotate(gradient_BLHK, rotation._replace(sin_BLT=-rotation.sin_BLT)), None


rotate.defvjp(_rotate_forward, _rotate_backward)


class RotarySelfAttention(nn.Module):
    """x_BLD → x_BLD: attention and its output projection, before dropout and residual.

    A global layer attends to the whole document, a local one within config.rotary.window.
    """

    config: EncoderConfig
    is_global: bool
    is_first_layer: bool  # initializer "local" starts it differently
    form: str = "plain"  # LayerExecution.attention

    @nn.compact
    def __call__(
        self, x_BLD: jax.Array, inputs: EncoderInputs, is_training: bool, rotations: Rotations
    ) -> jax.Array:
        config = self.config
        query_BLHK, key_BMHK, value_BMHK = (
            Projection(config, self._kernel_init(role), name=role)(x_BLD)
            for role in ("query", "key", "value")
        )
        rotation = rotations.global_layers if self.is_global else rotations.local_layers
        query_BLHK *= jnp.asarray(1.0 / np.sqrt(config.head_size), query_BLHK.dtype)
        arrays = rotate(query_BLHK, rotation), rotate(key_BMHK, rotation), value_BMHK
        rng = self.make_rng("dropout") if is_training and config.attention_dropout else None
        keep_prob = 1.0 - config.attention_dropout
        form = "plain" if self.is_initializing() else self.form
        if self.is_global:
            context_BLHK = global_attention(keep_prob, config.dtype, arrays, inputs, rng, form=form)
        else:
            reach = config.rotary.window // 2
            context_BLHK = local_attention(keep_prob, config.dtype, reach, arrays, inputs, rng, form)
        context_BLD = context_BLHK.reshape(*context_BLHK.shape[:2], config.hidden_size)
        kernel_init = residual_kernel_initializer(config)
        return Dense(
            config.hidden_size, ("heads", "embed"), kernel_init, config.dtype, has_bias=False, name="output"
        )(context_BLD)

    def _kernel_init(self, role: str) -> nn.initializers.Initializer:
        if self.config.initializer == "local" and self.is_first_layer and role != "value":
            return neighbour_rotary_projection(self.config, role)
        return kernel_initializer(self.config)
