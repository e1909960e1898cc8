"""Few heaps for many threads, so that the memory of a long run does not grow with its checkpoints.

glibc gives threads up to eight heaps ("arenas") for each core. TensorStore, with which Orbax saves, frees in
one thread what another one has allocated, and each arena keeps the holes: 5.8 GB in 500 writes on 144 cores
(google/tensorstore, GitHub issue 223). The fewer arenas, the less is kept. But threads wait for each other
where there are fewer than two for each core: tiny steps of 7 ms took 13 % longer with one or two on two
cores, and not measurably longer with four (runs/README.md has what was measured).
"""

import contextlib
import ctypes
import os
import sys

M_ARENA_MAX = -8  # mallopt(3)
ARENAS_PER_CORE, MOST = 2, 16


def most_arenas() -> int:
    """The number of arenas that `limit_arenas` allows."""
    return min(ARENAS_PER_CORE * len(os.sched_getaffinity(0)), MOST)


def limit_arenas() -> None:
    """Let all threads that start from now on share a few arenas. Nothing happens without glibc, or where the
    environment sets a number: MALLOC_ARENA_MAX=8, GLIBC_TUNABLES=glibc.malloc.arena_max=8."""
    is_set = "MALLOC_ARENA_MAX" in os.environ or "malloc.arena_" in os.environ.get("GLIBC_TUNABLES", "")
    if is_set or not sys.platform.startswith("linux"):
        return
    with contextlib.suppress(OSError, AttributeError):  # another C library
        ctypes.CDLL(None).mallopt(M_ARENA_MAX, most_arenas())
