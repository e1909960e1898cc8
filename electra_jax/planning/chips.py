"""The devices that a run is planned for, their chip, and its price."""

import math
from typing import NamedTuple

from absl import flags

from data_pipelines.json_files import read_json
from electra_jax.distributed.chips import CHIPS, GIB, Chip
from electra_jax.planning.network import Range

LARGEST = 1e24  # of figures of a card


class ByHand(NamedTuple):
    """What the command's flags of the same names say of a card; None: not given."""

    compile_as: str | None = None  # the chip in CHIPS whose compiler makes the program
    peak_flops: float | None = None
    memory_gib: float | None = None
    network_gbps: float | None = None  # Gbit a second from one device to other hosts
    dollars_per_hour: float | None = None


NOTHING_BY_HAND = ByHand()


def define_card_flags() -> None:
    """Define the flags of `ByHand`."""
    flags.DEFINE_string("compile_as", None, "Chip whose compiler stands for another card's.")
    flags.DEFINE_float("peak_flops", None, "FLOPs a second of one device, of products in the plan's dtype.")
    flags.DEFINE_float("memory_gib", None, "Memory of one device that programs can use, in GiB.")
    flags.DEFINE_float("network_gbps", None, "Gbit a second from one device to other hosts.")
    flags.DEFINE_float("dollars_per_hour", None, "Price of one chip. Default: that in --prices.")


class PlannedDevices(NamedTuple):
    """The devices of --device."""

    text: str  # as in --device, for example "v5e:4x4"
    compiled_as: str  # as `absent_devices` takes it: the same, unless the card is not in CHIPS
    chip: Chip
    similar_to: str  # the name in CHIPS whose utilization is assumed
    dollars_per_hour: Range  # of one JAX device, the lowest and the highest price
    price_source: str


def plan_devices(device: str, prices: str, by_hand: ByHand = NOTHING_BY_HAND) -> PlannedDevices:
    """The devices written as in --device, for example "v5e:4x4".

    Args:
      prices: a JSON file, see `price_of`.
      by_hand: overrides the table of chips, and describes a card that is not in it.

    Raises:
      ValueError: an unknown card that is not described, a value that is not a positive number, or no price.
    """
    name, _, shape = device.casefold().partition(":")
    _check_numbers(by_hand)
    compiled_as = by_hand.compile_as.casefold() if by_hand.compile_as else name
    is_described = None not in (by_hand.compile_as, by_hand.peak_flops, by_hand.memory_gib)
    if name not in CHIPS and not is_described:
        near = " or ".join(known for known in CHIPS if known.partition("-")[0] == name)
        raise ValueError(
            f"--device: got {device!r}, expected one of {', '.join(CHIPS)} with a topology or a number: "
            "v5e:4x4, v5p:2x2x2, tpu7x:2x2x1, h100:8, cpu:8. For another card, give the most similar one of "
            "these, whose compiler then makes the program, and the card's own figures: --device=a10:8 "
            "--compile_as=l4 --peak_flops=125e12 --memory_gib=22 --network_gbps=12.5 --dollars_per_hour=1.2."
            + (f" Did you mean {near}?" if near else "")
        )
    if compiled_as not in CHIPS:
        raise ValueError(f"--compile_as: got {by_hand.compile_as!r}, expected one of {', '.join(CHIPS)}.")
    similar_to = name if name in CHIPS else compiled_as
    chip = CHIPS[similar_to]
    if by_hand.peak_flops is not None:
        chip = chip._replace(peak_flops=by_hand.peak_flops, peak_flops_float32=by_hand.peak_flops)
    if by_hand.memory_gib is not None:
        chip = chip._replace(memory=int(by_hand.memory_gib * GIB))
    if by_hand.network_gbps is not None:
        if chip.between_hosts is None:
            raise ValueError(
                f"--network_gbps: got {by_hand.network_gbps:g} for {device}, whose own links connect its "
                "hosts. Leave it out."
            )
        chip = chip._replace(between_hosts=by_hand.network_gbps * 1e9 / 8)
    dollars, source = _price(prices, name, by_hand.dollars_per_hour)
    dollars = Range(*(each / (chip.devices_per_chip if name in CHIPS else 1) for each in dollars))
    compiled_as += f":{shape}" if shape else ""
    return PlannedDevices(device, compiled_as, chip, similar_to, dollars, source)


def _price(path: str, name: str, by_hand: float | None) -> tuple[Range, str]:
    """US dollars an hour of what is sold, and where the price is from."""
    if by_hand is not None:
        return Range(by_hand, by_hand), "--dollars_per_hour"
    if name == "cpu":
        return Range(0.0, 0.0), "this machine"
    return price_of(path, name)


def _check_numbers(by_hand: ByHand) -> None:
    for name, value in by_hand._asdict().items():
        lowest = 0.0 if name == "dollars_per_hour" else math.ulp(0.0)
        if isinstance(value, float | int) and not lowest <= value <= LARGEST:
            raise ValueError(f"--{name}: got {value}, expected a positive number, at most {LARGEST:g}.")


def price_of(path: str, name: str) -> tuple[Range, str]:
    """US dollars an hour of one chip, the lowest and the highest, and the file with its note on its prices.

    Args:
      path: a JSON file, chip name → price or [lowest, highest], and "" → a note on them.
      name: the chip, as in CHIPS, or another card's.

    Raises:
      ValueError: the file cannot be read, is not JSON, or has no price for the chip.
    """
    try:
        prices = read_json(path, dict, advice="Give another file.")
    except OSError as error:
        raise ValueError(f"--prices: {path}: {error.strerror}. Give another file.") from error
    except ValueError as error:
        raise ValueError(f"--prices: {error}") from error
    price = prices.get(name)
    ends = price if isinstance(price, list) else [price, price]
    if len(ends) != 2 or not all(map(_is_price, ends)) or ends[0] > ends[1]:
        raise ValueError(
            f"--prices: {path} has no number for {name!r}, expected US dollars an hour and chip, or [lowest, "
            "highest]. Add it, or give --dollars_per_hour."
        )
    note = prices.get("")
    return Range(*map(float, ends)), f"{path}: {note}" if isinstance(note, str) else path


def _is_price(value: object) -> bool:
    return not isinstance(value, bool) and isinstance(value, int | float) and 0 <= value <= LARGEST
