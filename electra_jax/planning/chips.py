"""What the devices can do that a run is planned for.

Sources: docs.cloud.google.com (TPU), NVIDIA's data sheet (H100 SXM).
"""

import json
from pathlib import Path
from typing import NamedTuple

GIB = 2**30


class Chip(NamedTuple):
    """Peak and memory of one chip."""

    peak_flops: float  # of dense bfloat16 matrix products, FLOPs a second
    # Bytes that a program can use; None: not checked. TPU: as its compiler states when it refuses a program.
    # GPU: nine tenths of the memory, since the CUDA context and fragmentation take the rest.
    memory: int | None


CHIPS = {
    "v5e": Chip(197e12, int(15.75 * GIB)),
    "v5p": Chip(459e12, int(95.73 * GIB)),
    "v6e": Chip(918e12, int(31.24 * GIB)),
    "h100": Chip(989e12, int(0.9 * 84978434048)),
    "cpu": Chip(1e11, None),  # an assumption, for trying things out
}


def chip_of(device: str) -> tuple[str, Chip]:
    """Name and chip of a device written as in --device, for example "v5e:4x4".

    Raises:
      ValueError: an unknown chip.
    """
    name = device.partition(":")[0]
    if name not in CHIPS:
        raise ValueError(
            f"--device: got {device!r}, expected one of {', '.join(CHIPS)} with a topology or a number: "
            "v5e:4x4, v5p:2x2x2, v6e:2x4, h100:8, cpu:8."
        )
    return name, CHIPS[name]


def price_of(path: str, name: str) -> float:
    """US dollars an hour of one chip.

    Args:
      path: a JSON file, chip name → price.
      name: the chip, as in CHIPS.

    Raises:
      OSError: the file cannot be read.
      ValueError: it is not JSON, or has no price for the chip.
    """
    prices = json.loads(Path(path).read_text(encoding="utf-8"))
    if name == "cpu":
        return 0.0
    if not isinstance(prices.get(name), int | float):
        raise ValueError(
            f"--prices: {path} has no number for {name!r}, expected US dollars an hour and chip. Add it."
        )
    return float(prices[name])


def find_chip(kind):
    return None
