"""What every command sets in its process before it works: quiet libraries, memory, and Python's search for
cycles."""

import gc
import logging as standard_logging
import os

from absl import logging

from electra_jax.distributed.chips import GPU_MEMORY_FRACTION
from electra_jax.training.host_memory import keep_freed_memory, limit_arenas

THRESHOLDS = 200_000, 50, 100  # of the three generations: gc.set_threshold
MEMORY_FRACTION = "XLA_CLIENT_MEM_FRACTION"
FORMER_NAME = "XLA_PYTHON_CLIENT_MEM_FRACTION"  # JAX still reads it, and refuses both together


def prepare_process() -> None:
    """Call it before JAX starts its back ends."""
    silence_libraries()
    use_gpu_memory_as_planned()
    limit_arenas()
    keep_freed_memory()
    collect_cycles_rarely()


def silence_libraries() -> None:
    """Keep quiet what is also raised: Orbax reports every rename, and each array that a full disk rejects."""
    logging.set_verbosity(logging.FATAL)
    standard_logging.getLogger("asyncio").setLevel(standard_logging.CRITICAL)


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
