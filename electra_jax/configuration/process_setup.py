"""What every command sets in its process before it works: quiet libraries, random numbers, memory, and
Python's search for cycles."""

import gc
import logging as standard_logging
import os
import sys

import jax
from absl import logging

from electra_jax.distributed.chips import GPU_MEMORY_FRACTION
from electra_jax.distributed.platforms import check_platforms
from electra_jax.training.host_memory import keep_freed_memory, limit_arenas

THRESHOLDS = 200_000, 50, 100  # of the three generations: gc.set_threshold
MEMORY_FRACTION = "XLA_CLIENT_MEM_FRACTION"
FORMER_NAME = "XLA_PYTHON_CLIENT_MEM_FRACTION"  # JAX still reads it, and refuses both together
# They decide which numbers a seed gives: those of JAX's defaults, with which runs are recorded, tested and
# resumed.
RANDOM_NUMBERS = {
    "jax_default_prng_impl": "threefry2x32",
    "jax_enable_x64": False,
    "jax_threefry_partitionable": True,
    "jax_random_seed_offset": 0,
}


def prepare_process() -> None:
    """Call it before JAX starts its back ends."""
    silence_libraries()
    draw_as_recorded()
    use_gpu_memory_as_planned()
    limit_arenas()
    keep_freed_memory()
    collect_cycles_rarely()


def prepare_devices() -> None:
    """`prepare_process` of a command of one process that needs devices. Raises ValueError if this machine
    lacks those of JAX_PLATFORMS."""
    prepare_process()
    check_platforms()


def silence_libraries() -> None:
    """Keep quiet what is also raised: Orbax reports every rename, and each array that a full disk rejects."""
    logging.set_verbosity(logging.FATAL)
    standard_logging.getLogger("asyncio").setLevel(standard_logging.CRITICAL)


def draw_as_recorded() -> None:
    """Let the environment change no random number, and say so in a line where it would have."""
    # A later JAX may have dropped one of them.
    differs = lambda name, value: getattr(jax.config, name, value) != value
    changed = {name: value for name, value in RANDOM_NUMBERS.items() if differs(name, value)}
    for name, value in changed.items():
        jax.config.update(name, value)
    if changed:
        names = ", ".join(name.upper() for name in changed)
        print(f"Ignored: {names}. Initial weights, masks and samples would change.", file=sys.stderr)


def use_gpu_memory_as_planned() -> None:
    """Let JAX use the part of a GPU's memory that plans count, not 75 %, unless the environment sets one.
    Only JAX's CUDA plug-in reads it, when it starts."""
    if not (os.environ.get(MEMORY_FRACTION) or os.environ.get(FORMER_NAME)):
        os.environ[MEMORY_FRACTION] = str(GPU_MEMORY_FRACTION)


def collect_cycles_rarely() -> None:
    """Look for cycles after 200,000 new objects instead of Python's 700 to 2,000.

    Tracing a program makes millions of objects, few of them in cycles, and looking for these took a tenth of
    the CPU time of a start: 9.1 s with Python's thresholds, 8.1 s with these (a tiny run, Python 3.11).
    """
    gc.set_threshold(*THRESHOLDS)
