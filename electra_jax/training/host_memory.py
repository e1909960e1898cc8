"""How glibc's malloc serves a command: few heaps for many threads, and where steps run on the CPU, freed
memory stays for the next one.

Few heaps: glibc gives threads up to eight heaps ("arenas") for each core. TensorStore, with which Orbax
saves, frees in one thread what another one has allocated, and each arena keeps the holes: 5.8 GB in 500
writes on 144 cores (google/tensorstore, GitHub issue 223). The fewer arenas, the less is kept. But threads
wait for each other where there are fewer than two for each core: tiny steps of 7 ms took 13 % longer with
one or two on two cores, and not measurably longer with four (runs/README.md has what was measured).

Freed memory: XLA allocates what a program needs when it starts, and frees it at the end. glibc returns large
blocks to the system at once, which then clears every page again for the next step: 1.1 GB in each step of
ELECTRA-small with 32 rows of 128 (benchmarks/README.md has what this saves).
"""

import contextlib
import ctypes
import importlib.util
import os
import sys

import jax

M_TRIM_THRESHOLD, M_MMAP_MAX, M_ARENA_MAX = -1, -4, -8  # mallopt(3)
ARENAS_PER_CORE, MOST = 2, 16


def most_arenas() -> int:
    """The number of arenas that `limit_arenas` allows."""
    return min(ARENAS_PER_CORE * len(os.sched_getaffinity(0)), MOST)


def limit_arenas() -> None:
    """Let all threads that start from now on share a few arenas. Nothing happens without glibc, or where the
    environment sets a number: MALLOC_ARENA_MAX=8, GLIBC_TUNABLES=glibc.malloc.arena_max=8."""
    if _is_ours("arena_"):
        _mallopt(M_ARENA_MAX, most_arenas())


def keep_freed_memory() -> None:
    """Keep freed memory for the next step, if steps run on the CPU. Call it before JAX starts its back ends.

    Only the main thread's heap can hold blocks of any size, so JAX must run programs in it. It does if they
    are for one device. Nothing happens without glibc, where JAX may find an accelerator, whose host would
    keep what a restored checkpoint needed, or where the environment sets MALLOC_MMAP_MAX_,
    MALLOC_TRIM_THRESHOLD_ or their GLIBC_TUNABLES.
    """
    if not (_is_ours("mmap_") and _is_ours("trim_")) or _may_have_accelerator():
        return
    if "JAX_CPU_ENABLE_ASYNC_DISPATCH" not in os.environ:
        jax.config.update("jax_cpu_enable_async_dispatch", False)
    _mallopt(M_MMAP_MAX, 0)
    _mallopt(M_TRIM_THRESHOLD, -1)  # never


def _may_have_accelerator() -> bool:
    """Whether JAX would look for one: its plug-ins are `libtpu` and the packages in `jax_plugins`."""
    platforms = os.environ.get("JAX_PLATFORMS")
    if platforms:
        return platforms != "cpu"
    return any(importlib.util.find_spec(name) for name in ("libtpu", "jax_plugins"))


def _is_ours(setting: str) -> bool:
    """Whether malloc has this setting, such as MALLOC_ARENA_MAX, and the environment leaves it to us."""
    if not sys.platform.startswith("linux"):
        return False
    in_variable = any(name.startswith(f"MALLOC_{setting.upper()}") for name in os.environ)
    return not in_variable and f"malloc.{setting}" not in os.environ.get("GLIBC_TUNABLES", "")


def _mallopt(parameter: int, value: int) -> None:
    with contextlib.suppress(OSError, AttributeError):  # another C library
        ctypes.CDLL(None).mallopt(parameter, value)
