"""A function of many things at once, by processes of this machine, with the results in order."""

import collections
import multiprocessing
import signal
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import wait
from concurrent.futures.process import BrokenProcessPool, ProcessPoolExecutor
from typing import Any

from data_pipelines.process_ends import end_with_parent

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
    # An executor notices if the system kills one of its processes; multiprocessing.Pool would wait forever.
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(num_processes, context, initializer=_start_worker)
    waiting: collections.deque = collections.deque()

    def next_result() -> Any:
        result = waiting.popleft()
        while not result.done():
            wait([result], timeout=SECONDS_BETWEEN_SIGNS)
            show()
        return result.result()

    try:
        for thing in things:
            waiting.append(pool.submit(function, thing))
            if len(waiting) >= num_processes + AHEAD:
                yield next_result()
        while waiting:
            yield next_result()
    except BrokenProcessPool as error:
        raise OSError(
            f"one of {num_processes} processes was killed, probably because memory ran out. Start the same "
            "command again with a smaller --num_processes."
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


def _start_worker() -> None:
    """Let this process end when its parent does; Ctrl-C is left to the parent."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    end_with_parent()
