"""Threads of a command share one heap, unless the environment says otherwise."""

import os
import subprocess
import sys

import pytest

from support.paths import ROOT

# Every thread allocates while the others live, so that glibc gives each an arena of its own if it may.
PROGRAM = """
import ctypes, sys, threading
from electra_jax.configuration.flags import run_command

def main():
    together = threading.Barrier(9)
    def allocate():
        kept = [bytes(5000) for _ in range(10)]
        together.wait()
    threads = [threading.Thread(target=allocate) for _ in range(8)]
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


@pytest.mark.skipif(
    not hasattr(os, "confstr") or "glibc" not in (os.confstr("CS_GNU_LIBC_VERSION") or ""),
    reason="arenas are glibc's",
)
@pytest.mark.parametrize(
    ("variables", "is_one"),
    [
        ({}, True),
        ({"MALLOC_ARENA_MAX": "4"}, False),
        ({"GLIBC_TUNABLES": "glibc.malloc.arena_max=4"}, False),
    ],
)
def test_threads_of_a_command_share_one_arena(variables, is_one):
    environment = {
        name: value
        for name, value in os.environ.items()
        if name not in ("MALLOC_ARENA_MAX", "GLIBC_TUNABLES")
    }
    outcome = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        cwd=ROOT,
        env=environment | variables,
        capture_output=True,
        text=True,
        check=True,
    )
    arenas = outcome.stdout.count("<heap nr=")
    assert arenas == 1 if is_one else arenas > 1, outcome.stdout
