"""Numbers of tokens at which a comparison is made: `compare --tokens=1e6:5,10e6:3`."""

import argparse
from collections.abc import Sequence
from typing import NamedTuple

from ml_collections import config_dict

from data_pipelines.number_arguments import finite, whole
from electra_jax.configuration.length import with_num_steps, with_scaled_schedule
from electra_jax.configuration.number_flags import MOST_SEEDS

EXAMPLE = "--tokens=1e6:5,10e6:3, which are one million tokens from five seeds and ten million from three"
MOST_TOKENS = 10**15  # what a run of any size reads; names of folders stay short


class Budget(NamedTuple):
    """One number of tokens, padding included, and from how many seeds."""

    tokens: int
    seeds: int

    @property
    def folder(self) -> str:
        """The folder of its runs."""
        return f"tokens_{self.tokens}"

    @property
    def title(self) -> str:
        """For people: "2.5 M"."""
        return f"{self.tokens / 1e6:,.10g} M"


def parse_budgets(words: Sequence[str], num_seeds: int) -> list[Budget]:
    """Budgets, the smallest first, from "TOKENS" or "TOKENS:SEEDS".

    Args:
      num_seeds: of those that name none.

    Raises:
      ValueError: a word has another form, or two have the same number of tokens.
    """
    budgets = sorted(_budget(word.strip(), num_seeds) for word in words)
    tokens = [budget.tokens for budget in budgets]
    for one in tokens:
        if tokens.count(one) > 1:
            raise ValueError(f"--tokens: got {one} twice, expected different numbers of tokens.")
    return budgets


def _budget(word: str, num_seeds: int) -> Budget:
    number, _, seeds = word.partition(":")
    try:
        budget = Budget(round(finite(number)), whole(1, MOST_SEEDS)(seeds) if ":" in word else num_seeds)
    except argparse.ArgumentTypeError:
        budget = Budget(0, 0)
    if not 0 < budget.tokens <= MOST_TOKENS:
        raise ValueError(f"--tokens: got {word!r}, expected TOKENS or TOKENS:SEEDS, as in {EXAMPLE}.")
    return budget


def with_budget(config: config_dict.ConfigDict, tokens: int) -> config_dict.ConfigDict:
    """The recipe with as many steps as have `tokens`, rounded up, and the schedule of
    `with_scaled_schedule`.

    Raises:
      ValueError: see `with_num_steps`.
    """
    values = config.to_dict()
    with_tokens = values | {"train": values["train"] | {"num_tokens": float(tokens)}}
    num_steps = with_num_steps(with_tokens, None)["train"]["num_steps"]
    return config_dict.ConfigDict(with_scaled_schedule(values, num_steps))
