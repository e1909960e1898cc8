"""Threads of a command share few heaps, unless the environment says otherwise."""

import os
import subprocess
import sys

import pytest

from electra_jax.training.malloc_arenas import most_arenas
from support.paths import ROOT

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
    environment = {
        name: value
        for name, value in os.environ.items()
        if name not in ("MALLOC_ARENA_MAX", "GLIBC_TUNABLES")
    }
    name, _, value = variable.format(limit + 2).partition("=")
    outcome = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(limit + 6)],
        cwd=ROOT,
        env=environment | ({name: value} if variable else {}),
        capture_output=True,
        text=True,
        check=True,
    )
    assert outcome.stdout.count("<heap nr=") == limit + (2 if variable else 0), outcome.stdout
