"""A disk that is full at different moments, and the same command when there is space again."""

import contextlib
import subprocess

from support.fault_runs import flags
from support.faults import EXACT, REFUSED, Fault, clear

SAMPLE = 1
KIBIBYTES = (8, 32, 60, 120, 200, 300, 500, 700, 900, 1100)
FILE_SIZES = (512, 4_096, 20_000, 60_000, 100_000, 200_000)
FAULTS = [Fault(f"a disk of {size} KiB", allowed=(REFUSED, EXACT)) for size in KIBIBYTES]
FAULTS += [Fault(f"files of at most {size} bytes", allowed=(REFUSED, EXACT)) for size in FILE_SIZES]


@contextlib.contextmanager
def small_disk(place, size):
    """A file system of `size` KiB; yields what makes it large, None where this user may not mount one."""
    place.mkdir()
    mount = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size}k", "faults", place], capture_output=True
    )
    if mount.returncode:
        yield None
        return
    try:
        yield lambda: subprocess.run(["mount", "-o", "remount,size=40m", place], check=True)
    finally:
        subprocess.run(["umount", place], check=True)


def test_a_full_disk_loses_nothing(fault, data, forks, settle, record, tmp_path):
    number = next(int(word) for word in fault.name.split() if word.isdigit())
    run, place, limits = "electra_jax.pretrain", tmp_path / "disk", {}
    workdir = place / "run"
    is_disk = "KiB" in fault.name
    with small_disk(place, number) if is_disk else contextlib.nullcontext() as enlarge:
        if enlarge is None:  # also where this user may not mount a file system: no file may be so large
            limits = {"RLIMIT_FSIZE": number * 1024 if is_disk else number}
        started = forks.run(run, *flags(workdir, data), limits=limits)
        _refused(fault, started, record, workdir)
        if enlarge is not None:
            enlarge()
        settle(Fault(fault.name + ", then more"), workdir, forks.run(run, *flags(workdir, data)))


def _refused(fault, started, record, workdir):
    outcome = EXACT if started.code == 0 else clear(started.code, started.text, str(workdir))
    record(fault.name, outcome)
    assert outcome in fault.allowed, (started.code, started.text)
