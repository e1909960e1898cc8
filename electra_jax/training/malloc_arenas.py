"""One heap for all threads, so that the memory of a long run does not grow with its checkpoints.

glibc gives threads up to eight heaps ("arenas") for each core. TensorStore, with which Orbax saves, frees in
one thread what another one has allocated, and each arena keeps the holes. With one arena the growth is gone
(google/tensorstore, GitHub issue 223: 5.8 GB in 500 writes on 144 cores, none with one arena; runs/README.md
has what was measured here). Small allocations do not wait for it: every thread has a cache of them.
"""

import contextlib
import ctypes
import os
import sys

M_ARENA_MAX = -8  # mallopt(3)
MOST = 1


def limit_arenas() -> None:
    """Let all threads that start from now on allocate from one arena. Nothing happens without glibc, or where
    the environment sets a number: MALLOC_ARENA_MAX=8, GLIBC_TUNABLES=glibc.malloc.arena_max=8."""
    is_set = "MALLOC_ARENA_MAX" in os.environ or "malloc.arena_" in os.environ.get("GLIBC_TUNABLES", "")
    if is_set or not sys.platform.startswith("linux"):
        return
    with contextlib.suppress(OSError, AttributeError):  # another C library
        ctypes.CDLL(None).mallopt(M_ARENA_MAX, MOST)
