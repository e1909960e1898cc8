"""Time that a step's collectives take, from their bytes and the chip's links."""

from collections.abc import Sequence
from typing import NamedTuple

from electra_jax.distributed.chips import Chip
from electra_jax.planning.collectives import Collective

LINK_SHARES = (0.9, 0.5)  # of a link's speed that a collective reaches, at best and at worst: assumptions
# Seconds until a collective's first byte arrives, within a host and between hosts: assumptions.
LATENCY, LATENCY_BETWEEN = 10e-6, 30e-6


class Range(NamedTuple):
    """The best and the worst value, or the lowest and the highest."""

    low: float
    high: float


def network_seconds(collectives: Sequence[Collective], hosts: Sequence[int], chip: Chip) -> Range:
    """Seconds of a step's collectives, one after the other.

    Args:
      collectives: of one step.
      hosts: the host of each device, in the order of the mesh.
    """
    low, high = (sum(_seconds(each, hosts, chip, share) for each in collectives) for share in LINK_SHARES)
    return Range(low, high)


def hosts_of(each: Collective, hosts: Sequence[int], chip: Chip) -> tuple[int, int]:
    """(number of devices, number of hosts) that take part; a TPU slice is one host, as its links span it."""
    group = range(len(hosts)) if each.group is None else each.group
    number = 1 if chip.between_hosts is None else len({hosts[index] for index in group})
    return len(group), number


def _seconds(each: Collective, hosts: Sequence[int], chip: Chip, share: float) -> float:
    """A collective among several hosts first works within each, then between devices of the same place."""
    devices, num_hosts = hosts_of(each, hosts, chip)
    on_host = max(1, devices // num_hosts)
    within, between = _bytes_sent(each, devices, on_host, num_hosts)
    seconds = within / (share * chip.link) + each.number * LATENCY
    if num_hosts > 1:
        seconds += between / (share * chip.between_hosts) + each.number * LATENCY_BETWEEN
    return seconds


def _bytes_sent(each: Collective, devices: int, on_host: int, num_hosts: int) -> tuple[float, float]:
    """Bytes that a device sends within its host, and to other hosts."""
    inside, outside = (on_host - 1) / on_host, (num_hosts - 1) / num_hosts
    if each.kind == "all-to-all":
        return each.num_bytes * (on_host - 1) / devices, each.num_bytes * (devices - on_host) / devices
    if each.kind == "collective-permute":
        return each.num_bytes, each.num_bytes if num_hosts > 1 else 0
    whole = each.num_bytes * (devices if each.kind == "reduce-scatter" else 1)
    times = 2 if each.kind == "all-reduce" else 1  # scattered, then gathered
    return times * whole * inside, times * whole / on_host * outside
