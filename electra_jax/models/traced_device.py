"""The device that a program is traced for, and barriers for programs of CPUs alone."""

from typing import Any

import jax


def traced_device() -> jax.Device | jax.sharding.AbstractDevice:
    """The kind of device that the program is traced for; it has a `platform` and a `device_kind`.

    It is that of the mesh in context, which may be absent; without a mesh, JAX's first.
    """
    device = jax.sharding.get_abstract_mesh().abstract_device
    return jax.devices()[0] if device is None else device


def cpu_barrier(x: Any) -> Any:
    """`x`, any tree of arrays, which XLA's CPU back end computes as written before it is read.

    That back end would otherwise compute it again in each reader. Compilers for accelerators choose better
    by themselves, and a barrier would make them write to memory what they can fuse.
    """
    return jax.lax.optimization_barrier(x) if traced_device().platform == "cpu" else x
