"""Types of argparse for numbers within bounds: `type=whole(1)`."""

import argparse
import math
from collections.abc import Callable

LARGEST = 2**31 - 1  # of numbers that become 32-bit integers, as steps and rows do
LARGEST_SEED = 2**32 - 1


def whole(least: int, most: int = LARGEST) -> Callable[[str], int]:
    """A whole number from `least` to `most`."""

    def convert(text: str) -> int:
        try:
            number = int(text)
        except ValueError:
            number = None
        if number is None or not least <= number <= most:
            raise argparse.ArgumentTypeError(
                f"got {text!r}, expected a whole number of {least:,} or more, at most {most:,}"
            )
        return number

    return convert


def share(text: str) -> float:
    """A number from 0 to 1."""
    try:
        number = float(text)
    except ValueError:
        number = -1.0
    if not 0 <= number <= 1:
        raise argparse.ArgumentTypeError(f"got {text!r}, expected a share, from 0 to 1")
    return number


def points(text: str) -> tuple[tuple[float, float], ...]:
    """Points of a curve, X:Y,X:Y."""
    try:
        return tuple((float(x), float(y)) for x, y in (point.split(":") for point in text.split(",")))
    except ValueError:
        raise argparse.ArgumentTypeError(f"got {text!r}, expected points X:Y,X:Y of numbers") from None


def named(text: str) -> tuple[str, float]:
    """A name and its number, NAME=X."""
    name, _, number = text.rpartition("=")
    if not name:
        raise argparse.ArgumentTypeError(f"got {text!r}, expected NAME=X, a name and its number")
    return name, finite(number)


def finite(text: str) -> float:
    """A number that is neither infinite nor NaN."""
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise argparse.ArgumentTypeError(f"got {text!r}, expected a number")
    return number
