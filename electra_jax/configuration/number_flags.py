"""Flags that are finite numbers within bounds; absl's own bounds let NaN pass."""

import math

from absl import flags

MOST_SEEDS = 10_000  # every seed is a run

flags.disclaim_key_flags()  # they are the command's own, so that its --help shows them


class FiniteParser(flags.FloatParser):
    """A finite number."""

    def convert(self, argument: float | int | str) -> float:
        number = super().convert(argument)
        if not math.isfinite(number):
            raise ValueError(f"got {argument!r}, expected a finite number")
        return number


def define_number(name: str, default: float, text: str, *, lowest: float, highest: float) -> None:
    """Define a flag that is a number from `lowest` to `highest`."""
    parser = FiniteParser(lower_bound=lowest, upper_bound=highest)
    flags.DEFINE(parser, name, default, text, serializer=flags.ArgumentSerializer())


def define_seeds(default: int, text: str, name: str = "seeds") -> None:
    """Define a flag that is a number of seeds."""
    flags.DEFINE_integer(name, default, text, lower_bound=1, upper_bound=MOST_SEEDS)
