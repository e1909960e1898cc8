"""Timing several programs fairly on a noisy machine: in turns, in one process, with medians."""

import time
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from data_pipelines.progress import make_progress


class Contestant(NamedTuple):
    """A program to time."""

    name: str
    step: Callable[[], object]  # returns once its work is done


def time_in_turns(
    contestants: list[Contestant], *, rounds: int, steps: int, description: str
) -> dict[str, list[float]]:
    """Seconds of every timed step, name → [rounds · steps].

    In each round, each contestant takes `steps` timed steps after one that is not timed. The untimed step
    compiles in the first round; later it brings the contestant's data and threads back into the caches.

    Args:
      description: of the progress.
    """
    seconds: dict[str, list[float]] = {contestant.name: [] for contestant in contestants}
    with make_progress(rounds * len(contestants), description, unit="turn") as shown:
        for turn in range(rounds):
            for place, contestant in enumerate(contestants, start=1):
                contestant.step()
                for _ in range(steps):
                    start = time.perf_counter()
                    contestant.step()
                    seconds[contestant.name].append(time.perf_counter() - start)
                shown.update(turn * len(contestants) + place)
    return seconds


def tokens_per_second(seconds: list[float], tokens: int) -> dict[str, float]:
    """Median throughput and its quartiles, of steps of `tokens` tokens each."""
    low, middle, high = map(float, np.quantile(seconds, (0.25, 0.5, 0.75)))
    return {"median": tokens / middle, "lower_quartile": tokens / high, "upper_quartile": tokens / low}
