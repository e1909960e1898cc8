"""The device that a program is traced for, and barriers that a TPU's programs do without."""

from typing import Any

import jax


def traced_device() -> jax.Device | jax.sharding.AbstractDevice:
    """The kind of device that the program is traced for; it has a `platform` and a `device_kind`.

    It is that of the mesh in context, which may be absent; without a mesh, JAX's first.
    """
    device = jax.sharding.get_abstract_mesh().abstract_device
    return jax.devices()[0] if device is None else device


def fusion_barrier(x: Any) -> Any:
    """`x`, any tree of arrays, computed as written before it is read, in programs for CPUs and GPUs.

    XLA's CPU back end would otherwise compute it again in each reader, and its GPU back end needs more memory
    without. A TPU's compiler chooses better by itself: a barrier would make it write to memory what it can
    fuse (benchmarks/README.md).
    """
    return x if traced_device().platform == "tpu" else jax.lax.optimization_barrier(x)
