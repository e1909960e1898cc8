"""Timing several programs fairly on a noisy machine: in turns, one process, medians."""

import statistics
import time
from collections.abc import Callable
from typing import NamedTuple


class Contestant(NamedTuple):
    """Something timed: `step` returns once its work is done."""

    name: str
    step: Callable[[], object]


def time_in_turns(
    contestants: list[Contestant],
    *,
    rounds: int,
    steps: int,
    report: Callable[[str, int], None] = lambda name, round_number: None,
) -> dict[str, list[float]]:
    """Seconds of every timed step, name → [rounds · steps].

    Each contestant takes `steps` timed steps in each round, after one that is not timed: it compiles in the
    first round, and in later ones it takes the caches and the threads back from the contestant before.
    """
    seconds: dict[str, list[float]] = {contestant.name: [] for contestant in contestants}
    for round_number in range(rounds):
        for contestant in contestants:
            contestant.step()
            for _ in range(steps):
                start = time.perf_counter()
                contestant.step()
                seconds[contestant.name].append(time.perf_counter() - start)
            report(contestant.name, round_number)
    return seconds


def tokens_per_second(seconds: list[float], tokens: int) -> dict[str, float]:
    """Median throughput and its quartiles over steps of `tokens` tokens each."""
    low, middle, high = statistics.quantiles(seconds, n=4, method="inclusive")
    return {"median": tokens / middle, "lower_quartile": tokens / high, "upper_quartile": tokens / low}
