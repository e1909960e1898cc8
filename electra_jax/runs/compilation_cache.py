"""Compiled programs that the next start of a run loads.

JAX's own cache writes in place: a full disk or a killed process would leave half a program, which is never
replaced. So JAX works in a temporary directory of this process. Programs are copied into it from the store
(program_store.py), and new ones out of it, which makes each appear there complete or not at all. Trouble with
the store is no error: the run compiles.

On a GPU the processes that compile a program wait for each other. So either all load it or all compile it:
they load what all of them found at the start, and not what process 0, which alone writes, has added since,
such as the evaluation step of a former stage.
"""

import contextlib
import errno
import functools
import hashlib
import os
import sys
import time
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import jax
import jax.monitoring
from jax.experimental.compilation_cache.compilation_cache import reset_cache

from data_pipelines.command_errors import error_text
from electra_jax.distributed.processes import exchange, is_main_process
from electra_jax.runs.program_store import ENTRY, OFF, ProgramStore, find_store
from electra_jax.runs.temporary_directories import temporary_directory

MAX_EXCHANGED = 3_000  # programs that several processes compare
REQUESTS, HITS = "/jax/compilation_cache/compile_requests_use_cache", "/jax/compilation_cache/cache_hits"
STARTED = time.monotonic()
NOT_KEPT = "compiled programs are not kept"
ADDED = "added"  # folder of the working directory where JAX does not look


class CompilationCache:
    """The kept programs of a command, from `compilation_cache`."""

    def __init__(self, store: ProgramStore | None, working: Path | None, counts: Counter[str]):
        self._store, self._working, self._counts = store, working, counts
        self._taken = set() if working is None else {path.name for path in working.iterdir()}
        self._is_reported = False

    @property
    def compiled(self) -> int:
        """How many programs this process has compiled, if JAX's cache is on."""
        return self._counts[REQUESTS] - self._counts[HITS]

    @property
    def loaded(self) -> int:
        """How many programs it has loaded."""
        return self._counts[HITS]

    def publish(self) -> None:
        """Keep the programs that were compiled since the last call; what cannot be written is not kept."""
        if self._store is None or self._working is None or not is_main_process():
            return
        places = self._working, self._working / ADDED
        found = [path for place in places for path in place.glob(f"*{ENTRY}")]
        new = [path for path in found if path.name not in self._taken]
        for path in new:
            try:
                self._store.add(path)
            except OSError as error:
                if error.errno in (errno.ENOSPC, errno.EDQUOT):
                    continue  # there may be room later
            self._taken.add(path.name)
        if new:
            with contextlib.suppress(OSError):
                self._store.evict()

    def first_step_done(self) -> None:
        """Keep the programs of the start; print, once and on the main process, how long it took and what it
        compiled."""
        if self._is_reported or not is_main_process():
            return
        self._is_reported = True
        self.publish()
        text = f"first step done {seconds_since_start():.1f} s after the start"
        if self._counts[REQUESTS]:  # JAX's cache is on
            where = f" from {self._store.place}" if self._store and self.loaded else ""
            text += f"; programs: {self.compiled} compiled, {self.loaded} loaded{where}"
        print(text, file=sys.stderr, flush=True)


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
        store, working = _store(setting, name), None
        copied: set[str] = set()
        if store is not None:
            try:
                working = stack.enter_context(temporary_directory())
                copied = store.copy_to(working)
            except OSError as error:
                if working is None and is_main_process():
                    print(f"{NOT_KEPT}: {error_text(error)}", file=sys.stderr)
        common = _on_all_processes(copied)
        for key in copied - common:
            (working / key).unlink()
        if working is not None:
            stack.enter_context(_working_in(working))
            if jax.process_count() > 1:
                (working / ADDED).mkdir()
                hide = functools.partial(_hide_added, working, common)
                jax.monitoring.register_event_listener(hide)
                stack.callback(jax.monitoring.unregister_event_listener, hide)
        cache = CompilationCache(store, working, counts)
        stack.callback(cache.publish)
        yield cache


def _count(counts: Counter[str], event: str, **_: str | int) -> None:
    counts[event] += 1


def _hide_added(working: Path, common: set[str], event: str, **_: str | int) -> None:
    """Before JAX looks for a program: put what this process has added where JAX does not look."""
    if event == REQUESTS:
        with contextlib.suppress(OSError):
            for path in working.glob(f"*{ENTRY}"):
                if path.name not in common:
                    path.replace(working / ADDED / path.name)


def _store(setting: str, name: str) -> ProgramStore | None:
    """The store or None; problems are printed."""
    # A user who told JAX where to keep programs, or not to, has chosen.
    if setting == OFF or jax.config.jax_compilation_cache_dir or not jax.config.jax_enable_compilation_cache:
        return None
    store, problem = find_store(setting, name)
    if problem and is_main_process():
        what = NOT_KEPT if store is None else f"new {NOT_KEPT}"
        print(
            f"{what}: {problem}. --config.train.compilation_cache=DIR keeps them in another directory, {OFF} "
            "nowhere.",
            file=sys.stderr,
        )
    return store


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


def _on_all_processes(keys: set[str]) -> set[str]:
    """The programs that every process has: on a GPU those that compile wait for each other."""
    if jax.process_count() == 1:
        return keys
    short = {hashlib.sha256(os.fsencode(key)).hexdigest()[:12]: key for key in keys}
    common = set.intersection(*map(set, exchange(sorted(short)[:MAX_EXCHANGED])))
    return {short[one] for one in common}


def seconds_since_start() -> float:
    """Seconds since this process started; where the system does not tell, since this module was imported."""
    try:
        fields = Path("/proc/self/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
        return time.clock_gettime(time.CLOCK_BOOTTIME) - int(fields[19]) / os.sysconf("SC_CLK_TCK")
    except (OSError, AttributeError, ValueError, IndexError):
        return time.monotonic() - STARTED
