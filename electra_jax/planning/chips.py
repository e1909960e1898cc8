"""The chip that a run is planned for, and its price."""

import json
from pathlib import Path

from electra_jax.distributed.chips import CHIPS, Chip


def planned_chip(device: str) -> tuple[str, Chip]:
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
