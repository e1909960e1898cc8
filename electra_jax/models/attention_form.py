"""Which form of disentangled attention runs: XLA's products and shifts ("plain"), or a TPU's kernels.

It follows from config.train.attention, the device that the program is for, and the shape. The device is that
of the mesh in context, which may be absent; without a mesh it is JAX's default.
"""

import math

import jax
from flax import linen as nn

from electra_jax.models.config import EncoderConfig

# Longest rows whose keys, values and tables fit in a TPU's fast memory.
LONGEST = {"bfloat16": 4096, "float32": 2048}
BLOCK = 128  # features that a kernel reads together


def uses_kernels(
    wanted: str, config: EncoderConfig, shape_BLHK: tuple[int, ...], *, is_directed: bool
) -> bool:
    """Whether attention over queries of this shape runs as TPU kernels.

    Args:
      wanted: "auto", "plain" or "pallas" (`LayerExecution`).
      is_directed: a query attends in one direction only.

    Raises:
      ValueError: `wanted` is "pallas", and the kernels cannot compute this shape.
    """
    if wanted == "plain" or (wanted == "auto" and platform() != "tpu"):
        return False
    problem = _problem(config, shape_BLHK, is_directed)
    if problem and wanted == "pallas":
        raise ValueError(
            f"config.train.attention: got 'pallas', whose kernels {problem}. Give 'auto', which then does "
            "without them, or 'plain'."
        )
    return not problem


def platform() -> str:
    """Of the devices that the program is traced for: "tpu", "gpu" or "cpu"."""
    device = jax.sharding.get_abstract_mesh().abstract_device
    return jax.default_backend() if device is None else device.platform


def _problem(config: EncoderConfig, shape_BLHK: tuple[int, ...], is_directed: bool) -> str:
    """What the kernels cannot compute of this; "" if there is nothing."""
    batch, length, heads, _ = shape_BLHK
    if is_directed:
        return "attend in both directions"
    if BLOCK % config.head_size:
        return f"need heads of 8, 16, 32, 64 or 128 features (these have {config.head_size})"
    longest = LONGEST[config.dtype]
    if length > longest:
        return f"need rows of at most {longest} tokens in {config.dtype} (these have {length})"
    mesh = jax.sharding.get_abstract_mesh()
    for size, name in ((batch, "batch"), (heads, "heads")):
        (axes,) = nn.logical_to_mesh_axes((name,))
        axes = () if axes is None else (axes,) if isinstance(axes, str) else axes
        parts = math.prod(mesh.shape[axis] for axis in axes) if not mesh.empty else 1
        if size % parts:
            return f"need {name} that the mesh's {'·'.join(axes)}={parts} divides (here {size})"
    return ""
