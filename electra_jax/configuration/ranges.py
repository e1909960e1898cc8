"""Ranges that a value of a configuration may lie in, and their words for errors: "expected …"."""

import re
import sys
from collections.abc import Callable, Collection
from typing import Any, NamedTuple

from data_pipelines.number_arguments import LARGEST, LARGEST_SEED
from electra_jax.objectives.denoisers import UNITS

# Numbers become 32-bit floats on the device.
SMALLEST_NUMBER = 2.0**-126  # of float32 with full precision; anything smaller may become 0 there
LARGEST_FLOAT = sys.float_info.max
BELOW_ONE = 1 - 2.0**-24  # the largest float32 below 1


class Allowed(NamedTuple):
    """The values that a key may have."""

    accepts: Callable[[Any], bool]
    expected: str  # for the error: "expected …"


def is_number(value: Any) -> bool:
    """Whether `value` is a finite number, and no truth value."""
    # Not math.isfinite, an error with integers that no float can hold.
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= LARGEST_FLOAT


def is_whole(value: Any) -> bool:
    """Whether `value` is an integer, and no truth value."""
    return isinstance(value, int) and not isinstance(value, bool)


def one_of(names: Collection[str]) -> Allowed:
    """One of some names."""
    return Allowed(
        lambda value: isinstance(value, str) and value in names, f"one of {', '.join(sorted(names))}"
    )


def whole(least: int, most: int = LARGEST, words: str = "") -> Allowed:
    """A whole number from `least` to `most`; `words` in place of "LEAST or more"."""
    return Allowed(
        lambda value: is_whole(value) and least <= value <= most,
        f"{words or f'{least} or more'}, at most {most:,}",
    )


def above_zero(most: float) -> Allowed:
    """A number above 0, at most `most`."""
    return Allowed(
        lambda value: is_number(value) and SMALLEST_NUMBER <= value <= most,
        f"a number above 0, at most {most:,g}",
    )


def from_zero(most: float, words: str = "0 or a number above it") -> Allowed:
    """0, or a number of at most `most`."""
    return Allowed(
        lambda value: is_number(value) and (value == 0 or SMALLEST_NUMBER <= value <= most),
        f"{words}, at most {most:,g}",
    )


def below_one(words: str) -> Allowed:
    """0, or a number below 1."""
    return Allowed(lambda value: is_number(value) and 0 <= value <= BELOW_ONE, words)


def _is_denoiser(entry: Any) -> bool:
    """Whether `entry` is one of config.objective.denoisers."""
    if not isinstance(entry, list | tuple) or len(entry) != 4:
        return False
    weight, mask_prob, mean_span, units = entry
    return (
        above_zero(1e6).accepts(weight)
        and PROBABILITY.accepts(mask_prob)
        and is_number(mean_span)
        and 1 <= mean_span <= 1e6
        and (isinstance(units, bool) or units in UNITS)
    )


def _is_rule(rule: Any) -> bool:
    """Whether `rule` is one of config.optimizer.groups."""
    if not isinstance(rule, list | tuple) or len(rule) != 3 or not isinstance(rule[0], str):
        return False
    try:
        re.compile(rule[0])
    except (re.error, OverflowError, RecursionError):
        return False
    return all(MULTIPLIER.accepts(multiplier) for multiplier in rule[1:])


COUNT = whole(1)
COUNT_OR_NONE = whole(0)
SEED = whole(0, LARGEST_SEED)
SHARE = Allowed(lambda value: is_number(value) and 0 <= value <= 1, "a share, from 0 to 1")
PROBABILITY = Allowed(
    lambda value: is_number(value) and SMALLEST_NUMBER <= value <= BELOW_ONE, "a probability between 0 and 1"
)
MOMENTUM = below_one("0 or a number below 1")
DROPOUT = below_one("0 or a probability below 1")
MULTIPLIER = from_zero(1e6)
SWITCH = Allowed(lambda value: isinstance(value, bool), "True or False")
TEXT = Allowed(lambda value: isinstance(value, str), "text")
PLACE = Allowed(
    lambda value: isinstance(value, str) and bool(value.strip()), '"parent", "off" or the path of a directory'
)
AXIS = Allowed(
    lambda value: (value == -1 and is_whole(value)) or COUNT.accepts(value),
    "a number of devices, or -1 for all that remain",
)
GROUPS = Allowed(
    lambda value: isinstance(value, list | tuple) and bool(value) and all(map(_is_rule, value)),
    "one or more rules (regular expression, multiplier of the learning rate, multiplier of the weight "
    "decay), multipliers of 0 or more",
)
DENOISERS = Allowed(
    lambda value: isinstance(value, list | tuple) and all(map(_is_denoiser, value)),
    "() or one or more denoisers (weight above 0, mask_prob between 0 and 1, mean_span of 1 or more, "
    f"units one of {', '.join(map(repr, UNITS))}), each in brackets with a comma behind it, numbers of at "
    "most 1,000,000",
)
