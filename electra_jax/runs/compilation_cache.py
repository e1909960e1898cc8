"""Compiled programs that outlive the process: the next start of a run loads them.

They are kept beside the run's directory, where other runs with the same programs find them, too. JAX's own
cache writes in place: a full disk or a killed process would leave half a program, which is never replaced. So
JAX works in a temporary directory of this process. Whole programs that are kept are linked into it, and new
ones are copied out of it, which makes each appear complete or not at all.

A program is code. Only those are loaded that are unchanged, by the digest in their name, from a directory to
which nobody but this user can write. Trouble with the directory is no error: the run compiles.
"""

import contextlib
import functools
import hashlib
import os
import platform
import stat
import sys
import time
import warnings
import zlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import jax
import jax.monitoring
from jax.experimental.compilation_cache.compilation_cache import reset_cache

from data_pipelines.buckets import is_bucket
from data_pipelines.cache_directory import cache_directory
from data_pipelines.whole_files import TEMPORARY_SUFFIX, write_bytes
from electra_jax.distributed.processes import exchange, is_main_process
from electra_jax.runs.temporary_directories import temporary_directory

PARENT, OFF = "parent", "off"  # values of config.train.compilation_cache; any other is a directory
DIRECTORY = ".compiled"
MAX_BYTES = 1 << 30  # of all programs in a directory
MAX_EXCHANGED = 3_000  # programs that several processes compare
ENTRY = "-cache"  # how JAX ends the names of its files
ZSTANDARD = b"\x28\xb5\x2f\xfd"  # how they may begin
REQUESTS, HITS = "/jax/compilation_cache/compile_requests_use_cache", "/jax/compilation_cache/cache_hits"
STARTED = time.monotonic()


class CompilationCache:
    """The kept programs of a command, from `compilation_cache`.

    Attributes:
      place: the directory that keeps them; None: nothing is kept.
    """

    def __init__(self, place: Path | None, working: Path | None, counts: Counter[str]):
        self.place, self._working, self._counts = place, working, counts
        self._published: set[str] = set()
        self._is_reported = False

    @property
    def compiled(self) -> int:
        """How many programs this process has compiled."""
        return self._counts[REQUESTS] - self._counts[HITS]

    @property
    def loaded(self) -> int:
        """How many programs it has loaded."""
        return self._counts[HITS]

    def publish(self) -> None:
        """Keep the programs that were compiled since the last call; what cannot be written is not kept."""
        if self.place is None or self._working is None or not is_main_process():
            return
        new = [path for path in self._working.glob(f"*{ENTRY}") if not path.is_symlink()]
        with contextlib.suppress(OSError):
            for path in new:
                if path.name not in self._published and _is_whole(data := path.read_bytes()):
                    write_bytes(self.place / _kept_name(path.name, data), data)
                self._published.add(path.name)
            if new:
                _evict(self.place)

    def first_step_done(self) -> None:
        """Keep the programs of the start; print, once and on the main process, how long it took and what it
        compiled."""
        if self._is_reported or not is_main_process():
            return
        self._is_reported = True
        self.publish()
        where = f" from {self.place}" if self.place and self.loaded else ""
        print(
            f"first step done {seconds_since_start():.1f} s after the start; programs: {self.compiled} "
            f"compiled, {self.loaded} loaded{where}",
            file=sys.stderr,
            flush=True,
        )


@contextlib.contextmanager
def compilation_cache(setting: str, name: str) -> Iterator[CompilationCache]:
    """Context of a command, in which compiled programs are loaded and kept. All processes enter it together.

    Args:
      setting: config.train.compilation_cache.
      name: the directory of the run, or its URL.
    """
    counts: Counter[str] = Counter()
    count = functools.partial(_count, counts)
    jax.monitoring.register_event_listener(count)
    with contextlib.ExitStack() as stack:
        stack.callback(jax.monitoring.unregister_event_listener, count)
        place = _usable_place(setting, name)
        kept = _same_on_all(_whole_programs(place))
        working = None
        if place is not None:
            with contextlib.suppress(OSError):
                working = stack.enter_context(temporary_directory())
                for key, path in kept.items():
                    (working / key).symlink_to(path)
                stack.enter_context(_working_in(working))
        cache = CompilationCache(place, working, counts)
        stack.callback(cache.publish)
        yield cache


def _count(counts: Counter[str], event: str, **_: str | int) -> None:
    counts[event] += 1


@contextlib.contextmanager
def _working_in(directory: Path) -> Iterator[None]:
    """Context in which JAX caches every program in `directory`."""
    values = {
        "jax_compilation_cache_dir": str(directory),
        "jax_persistent_cache_min_compile_time_secs": 0.0,
        # Otherwise the keys of programs depend on the name of the directory.
        "jax_persistent_cache_enable_xla_caches": "none",
    }
    before = {key: getattr(jax.config, key) for key in values}
    with warnings.catch_warnings():
        # Of a program that cannot be read or written, which is then compiled.
        warnings.filterwarnings("ignore", "Error (reading|writing) persistent compilation cache")
        try:
            reset_cache()
            for key, value in values.items():
                jax.config.update(key, value)
            yield
        finally:
            for key, value in before.items():
                jax.config.update(key, value)
            reset_cache()


def _usable_place(setting: str, name: str) -> Path | None:
    """The directory that keeps programs, or only has some that may be loaded; None, with a line for the user
    if that is not what was asked for, if there is none."""
    # A user who told JAX where to keep programs, or not to, has chosen.
    if setting == OFF or jax.config.jax_compilation_cache_dir or not jax.config.jax_enable_compilation_cache:
        return None
    place: Path | None = None
    try:
        place = _place(setting, name)
        place.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = place.stat()
        if status.st_uid != os.getuid() or status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            shown, place = place, None
            raise PermissionError(f"others may write to {shown}, and programs are code (chmod go-w)")
        if not os.access(place, os.W_OK):
            raise PermissionError(f"{place} cannot be written")
    except (OSError, ValueError) as error:
        if is_main_process():
            print(
                f"compiled programs are not kept: {error}. Every start compiles. "
                f"--config.train.compilation_cache=DIR keeps them elsewhere, {OFF} nowhere.",
                file=sys.stderr,
            )
    return place if place and os.path.isdir(place) else None


def _place(setting: str, name: str) -> Path:
    if setting != PARENT:
        return Path(setting)
    if is_bucket(name):
        return cache_directory() / "compiled"
    place = Path(name).absolute().parent / DIRECTORY
    is_others = place.exists() and place.stat().st_uid != os.getuid()
    return place.with_name(f"{DIRECTORY}-{os.getuid()}") if is_others else place


def _whole_programs(place: Path | None) -> dict[str, Path]:
    """JAX's name → file of every program of this kind of machine; those that are damaged are removed."""
    found: dict[str, Path] = {}
    if place is None:
        return found
    for path in place.glob(f"*{ENTRY}.{_machine()}.*"):
        with contextlib.suppress(OSError):
            key = path.name.rsplit(".", 2)[0]
            if path.name == _kept_name(key, path.read_bytes()):
                found[key] = path
            else:
                path.unlink()
    return found


def _same_on_all(programs: dict[str, Path]) -> dict[str, Path]:
    """The programs that every process has: on a GPU those that compile wait for each other."""
    if jax.process_count() == 1:
        return programs
    short = {hashlib.sha256(os.fsencode(path.name)).hexdigest()[:12]: key for key, path in programs.items()}
    common = set.intersection(*map(set, exchange(sorted(short)[:MAX_EXCHANGED])))
    return {short[one]: programs[short[one]] for one in common}


def _kept_name(key: str, data: bytes) -> str:
    return f"{key}.{_machine()}.{hashlib.sha256(data).hexdigest()[:32]}"


@functools.cache
def _machine() -> str:
    """Of machines with the same instructions and Python: a program may use all that its compiler found."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    features = sorted({line for line in lines if line.startswith(("flags", "Features", "model name"))})
    text = "\n".join([platform.machine(), platform.processor(), jax.__version__, *features])
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def _is_whole(data: bytes) -> bool:
    """Whether JAX could write all of a program: it is compressed, and its end is there."""
    try:
        if data.startswith(ZSTANDARD):
            import zstandard  # JAX uses it if it is installed

            decompressor = zstandard.ZstdDecompressor().decompressobj()
        else:
            decompressor = zlib.decompressobj()
        decompressor.decompress(data)
    except Exception:  # each library has errors of its own, and newer versions of Python another library
        return False
    return decompressor.eof


def _evict(place: Path) -> None:
    """Remove the oldest programs beyond MAX_BYTES, and what a killed process left."""
    files = sorted(
        ((path.stat(), path) for path in place.iterdir() if path.is_file()),
        key=lambda pair: pair[0].st_mtime,
        reverse=True,
    )
    total = 0
    for status, path in files:
        total += status.st_size
        is_abandoned = path.suffix == TEMPORARY_SUFFIX and time.time() - status.st_mtime > 3600
        if total > MAX_BYTES or is_abandoned:
            path.unlink(missing_ok=True)


def seconds_since_start() -> float:
    """Seconds since this process started; where the system does not tell, since this module was imported."""
    try:
        fields = Path("/proc/self/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
        return time.clock_gettime(time.CLOCK_BOOTTIME) - int(fields[19]) / os.sysconf("SC_CLK_TCK")
    except (OSError, AttributeError, ValueError, IndexError):
        return time.monotonic() - STARTED
