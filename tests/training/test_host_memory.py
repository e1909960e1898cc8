"""Threads of a command share few heaps, and its steps find the memory of the last one, unless the environment
says otherwise."""

import ctypes
import importlib.util
import os
import subprocess
import sys
from types import SimpleNamespace

import pytest

from electra_jax.training.host_memory import keep_freed_memory, most_arenas
from support.paths import ROOT

VARIABLES = ("MALLOC_ARENA_MAX", "MALLOC_MMAP_MAX_", "MALLOC_TRIM_THRESHOLD_", "GLIBC_TUNABLES", "XLA_FLAGS")
# Every thread allocates while the others live, so that glibc gives each its own arena if it may.
PROGRAM = """
import ctypes, sys, threading
from electra_jax.configuration.flags import run_command
NUMBER = int(sys.argv.pop())

def main():
    together = threading.Barrier(NUMBER + 1)
    def allocate():
        kept = [bytes(5000) for _ in range(10)]
        together.wait()
    threads = [threading.Thread(target=allocate) for _ in range(NUMBER)]
    for thread in threads:
        thread.start()
    together.wait()
    libc = ctypes.CDLL(None)
    libc.fdopen.restype = ctypes.c_void_p
    stream = ctypes.c_void_p(libc.fdopen(1, b"w"))
    libc.malloc_info(0, stream)
    libc.fflush(stream)

run_command(main, has_workdir=False, requires_config=False)
"""


@pytest.mark.parametrize("variable", ["", "MALLOC_ARENA_MAX={}", "GLIBC_TUNABLES=glibc.malloc.arena_max={}"])
def test_threads_of_a_command_share_few_arenas(variable):
    limit = most_arenas()
    output = run_in(variable.format(limit + 2), PROGRAM, str(limit + 6))
    assert output.count("<heap nr=") == limit + (2 if variable else 0), output


# A program that needs 144 MB while it runs, for the product whose elements are read twice.
REPEATED = """
import resource
import jax, jax.numpy as jnp
from electra_jax.configuration.flags import run_command

def main():
    def program(x):
        product = x @ x.T
        return (product / product.sum(axis=0)).sum()

    program, x = jax.jit(program), jnp.ones((6000, 4))
    pages = []
    for _ in range(12):
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        program(x).block_until_ready()
        pages.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
    print(min(pages[6:]))

run_command(main, has_workdir=False, requires_config=False)
"""
PAGES = 144_000_000 // 4096


@pytest.mark.parametrize(
    ("variable", "is_kept"),
    [
        ("JAX_PLATFORMS=cpu", True),
        ("JAX_PLATFORMS=cuda,cpu", False),  # there may be a GPU
        ("MALLOC_MMAP_MAX_=65536", False),
        ("GLIBC_TUNABLES=glibc.malloc.mmap_max=65536", False),
    ],
)
def test_a_program_finds_the_memory_of_its_last_call(variable, is_kept):
    """Counted in pages that the system gives to the process: none, or all of them again. In the first calls
    small blocks still settle in the middle of freed ones."""
    pages = int(run_in(variable, REPEATED))
    assert pages < PAGES // 100 if is_kept else pages > PAGES // 2


@pytest.mark.parametrize("plug_in", ["", "libtpu", "jax_plugins"])
def test_memory_is_kept_only_without_plug_ins_where_the_platform_is_open(plug_in, monkeypatch):
    given = []
    libc = SimpleNamespace(mallopt=lambda *setting: given.append(setting))
    monkeypatch.setattr(ctypes, "CDLL", lambda name: libc)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name if name == plug_in else None)
    for name in (*VARIABLES, "JAX_PLATFORMS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("JAX_CPU_ENABLE_ASYNC_DISPATCH", "true")  # or this process's setting would change
    keep_freed_memory()
    assert bool(given) == (not plug_in)


def run_in(variable, program, *arguments):
    """Output of a Python program with NAME=VALUE in its environment, on one device."""
    environment = {name: value for name, value in os.environ.items() if name not in VARIABLES}
    name, _, value = variable.partition("=")
    return subprocess.run(
        [sys.executable, "-c", program, *arguments],
        cwd=ROOT,
        env=environment | ({name: value} if variable else {}),
        capture_output=True,
        text=True,
        check=True,
    ).stdout
