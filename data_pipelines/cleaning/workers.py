"""A function of many things at once, by processes of this machine, with the results in order."""

import collections
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import wait
from typing import Any

from data_pipelines.process_ends import end_with_parent
from data_pipelines.worker_processes import worker_processes

AHEAD = 2  # things that wait while every process is busy
SECONDS_BETWEEN_SIGNS = 1.0


def map_in_order(
    function: Callable[[Any], Any],
    things: Iterable[Any],
    num_processes: int,
    show: Callable[[], None] = lambda: None,
) -> Iterator[Any]:
    """The results of a function of each thing; at most `num_processes` + AHEAD things are in memory.

    Args:
      show: called about every second while results are waited for.

    Raises:
      OSError: a process was killed. What `function` raises.
    """
    if num_processes == 1:
        for thing in things:
            yield function(thing)
            show()
        return
    waiting: collections.deque = collections.deque()

    def next_result() -> Any:
        result = waiting.popleft()
        while not result.done():
            wait([result], timeout=SECONDS_BETWEEN_SIGNS)
            show()
        return result.result()

    with worker_processes(num_processes, end_with_parent) as submit:
        for thing in things:
            waiting.append(submit(function, thing))
            if len(waiting) >= num_processes + AHEAD:
                yield next_result()
        while waiting:
            yield next_result()
