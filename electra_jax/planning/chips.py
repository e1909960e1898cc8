"""The devices that a run is planned for, their chip, and its price."""

import json
import math
from pathlib import Path
from typing import NamedTuple

from electra_jax.distributed.chips import CHIPS, GIB, Chip


class ByHand(NamedTuple):
    """What the command's flags of the same names say of a card; None: not given."""

    compile_as: str | None = None  # the chip in CHIPS whose compiler makes the program
    peak_flops: float | None = None
    memory_gib: float | None = None
    dollars_per_hour: float | None = None


NOTHING_BY_HAND = ByHand()


class PlannedDevices(NamedTuple):
    """The devices of --device."""

    text: str  # as in --device, for example "v5e:4x4"
    compiled_as: str  # as `absent_devices` takes it: the same, unless the card is not in CHIPS
    chip: Chip
    dollars_per_hour: float  # of one JAX device


def plan_devices(device: str, prices: str, by_hand: ByHand = NOTHING_BY_HAND) -> PlannedDevices:
    """The devices written as in --device, for example "v5e:4x4".

    Args:
      prices: a JSON file, chip name → US dollars an hour and chip.
      by_hand: overrides the table of chips, and describes a card that is not in it.

    Raises:
      ValueError: an unknown card that is not described, a value that is not a positive number, or no price.
      OSError: the price file cannot be read.
    """
    name, _, shape = device.casefold().partition(":")
    _check_numbers(by_hand)
    compiled_as = by_hand.compile_as.casefold() if by_hand.compile_as else name
    is_described = None not in (by_hand.compile_as, by_hand.peak_flops, by_hand.memory_gib)
    if name not in CHIPS and not is_described:
        raise ValueError(
            f"--device: got {device!r}, expected one of {', '.join(CHIPS)} with a topology or a number: "
            "v5e:4x4, v5p:2x2x2, tpu7x:2x2x1, h100:8, cpu:8. For another card, give the most similar one of "
            "these, whose compiler then makes the program, and the card's own figures: --device=a10:8 "
            "--compile_as=l4 --peak_flops=125e12 --memory_gib=22 --dollars_per_hour=1.2."
        )
    if compiled_as not in CHIPS:
        raise ValueError(f"--compile_as: got {by_hand.compile_as!r}, expected one of {', '.join(CHIPS)}.")
    chip = CHIPS[name if name in CHIPS else compiled_as]
    if by_hand.peak_flops is not None:
        chip = chip._replace(peak_flops=by_hand.peak_flops)
    if by_hand.memory_gib is not None:
        chip = chip._replace(memory=int(by_hand.memory_gib * GIB))
    dollars = by_hand.dollars_per_hour
    if dollars is None:
        dollars = price_of(prices, name) / (chip.devices_per_chip if name in CHIPS else 1)
    return PlannedDevices(device, compiled_as + (f":{shape}" if shape else ""), chip, dollars)


def _check_numbers(by_hand: ByHand) -> None:
    for name, value in by_hand._asdict().items():
        lowest = 0.0 if name == "dollars_per_hour" else math.ulp(0.0)
        if isinstance(value, float | int) and not lowest <= value < math.inf:
            raise ValueError(f"--{name}: got {value}, expected a positive number.")


def price_of(path: str, name: str) -> float:
    """US dollars an hour of one chip.

    Args:
      path: a JSON file, chip name → price.
      name: the chip, as in CHIPS, or another card's.

    Raises:
      OSError: the file cannot be read.
      ValueError: it is not JSON, or has no price for the chip.
    """
    if name == "cpu":
        return 0.0
    try:
        prices = json.loads(Path(path).read_bytes())
    except ValueError as error:
        raise ValueError(f"--prices: {path} is not a JSON file: {error}. Give another one.") from error
    price = prices.get(name) if isinstance(prices, dict) else None
    if isinstance(price, bool) or not isinstance(price, int | float) or not 0 <= price < math.inf:
        raise ValueError(
            f"--prices: {path} has no number for {name!r}, expected US dollars an hour and chip. Add it, or "
            "give --dollars_per_hour."
        )
    return float(price)
