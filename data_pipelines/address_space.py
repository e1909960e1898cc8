"""A limit of a process's memory that is too low to read rows: `ulimit -v`, or a batch system's.

The library underneath starts threads to read. Where it gets no memory for them it waits for ever.
"""

import resource
from pathlib import Path

NEEDED = 5 * 2**28  # bytes for the threads of ArrayRecord, measured: 1.1 GiB


def check_address_space() -> None:
    """Raises OSError if the limit leaves less than reading needs."""
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    if limit == resource.RLIM_INFINITY:
        return
    used = _used()
    if limit - used < NEEDED:
        raise OSError(
            f"the limit of this process's memory is {limit / 2**30:.1f} GiB (`ulimit -v`, or the batch "
            f"system's), of which {used / 2**30:.1f} GiB are in use; reading rows needs {NEEDED / 2**30:g} "
            "GiB more. Raise it, or remove it with `ulimit -v unlimited`."
        )


def _used() -> int:
    """Bytes of the address space that are in use; 0 where the system does not tell."""
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
    except (OSError, ValueError, IndexError):
        return 0
    return pages * resource.getpagesize()
