"""Numbers of tokens at which a comparison is made: `compare --tokens=1e6:5,10e6:3`."""

import re
from collections.abc import Sequence
from typing import NamedTuple

from ml_collections import config_dict

from data_pipelines.number_arguments import LARGEST
from electra_jax.configuration.number_flags import MOST_SEEDS

EXAMPLE = "--tokens=1e6:5,10e6:3, which are one million tokens from five seeds and ten million from three"
SCALED = ("optimizer.warmup_steps", "optimizer.decay_steps")


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
    number = r"(\d+\.?\d*(?:[eE]\+?\d{1,2})?)"
    found = re.fullmatch(rf"{number}(?::(\d{{1,5}}))?", word)
    budget = Budget(round(float(found[1])), int(found[2] or num_seeds)) if found else Budget(0, 0)
    if not (0 < budget.tokens <= LARGEST and 0 < budget.seeds <= MOST_SEEDS):
        raise ValueError(f"--tokens: got {word!r}, expected TOKENS or TOKENS:SEEDS, as in {EXAMPLE}.")
    return budget


def with_budget(config: config_dict.ConfigDict, tokens: int) -> config_dict.ConfigDict:
    """The recipe with as many steps as have `tokens`, rounded up. Warm-up and decay, if they are given in
    steps, keep their share of the run, and have one step or more."""
    sized = config.copy_and_resolve_references()
    per_step = config.train.batch_size * config.data.sequence_length
    num_steps = -(-tokens // per_step)
    section = sized.optimizer
    for key in (name.partition(".")[2] for name in SCALED):
        if section[key]:
            section[key] = max(1, round(section[key] * num_steps / config.train.num_steps))
    sized.train.num_steps = num_steps
    return sized
