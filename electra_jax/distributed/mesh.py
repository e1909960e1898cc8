"""The device mesh: axes data, fsdp and tensor, sized from config.mesh."""

import math

import jax
from jax.sharding import AxisType, Mesh

AXES = ("data", "fsdp", "tensor")


def make_mesh(sizes: dict[str, int], devices: list | None = None) -> Mesh:
    """Mesh over `devices` (default: all). One size may be −1: it takes the remaining devices.

    Raises:
      ValueError: unknown axes, more than one −1, or sizes whose product is not the number of devices.
    """
    devices = jax.devices() if devices is None else devices
    if set(sizes) != set(AXES):
        raise ValueError(f"config.mesh: got axes {sorted(sizes)}, expected {sorted(AXES)}.")
    wanted = [sizes[axis] for axis in AXES]
    known = math.prod(size for size in wanted if size != -1)
    if any(size == 0 or size < -1 for size in wanted) or wanted.count(-1) > 1:
        raise ValueError(f"config.mesh: got {dict(sizes)}, expected positive sizes and at most one -1.")
    if -1 in wanted and len(devices) % known == 0:
        wanted[wanted.index(-1)] = len(devices) // known
    if -1 in wanted or math.prod(wanted) != len(devices):
        raise ValueError(
            f"config.mesh: got {dict(sizes)} (product {known}) for {len(devices)} devices; the sizes must "
            f"multiply to {len(devices)}. Set one of config.mesh.data|fsdp|tensor to -1 to use all devices."
        )
    # Auto axes: flax.linen's lookups do not work on Explicit ones, jax's default since 0.9.
    return jax.make_mesh(wanted, AXES, axis_types=(AxisType.Auto,) * len(AXES), devices=devices)
