"""A directory of compiled programs, which outlive the process that compiled them.

A program is code. A store is therefore used only if nobody but this user and root can change it or put
another directory in its place, and a program only if it has the digest in its name.
"""

import contextlib
import functools
import glob
import hashlib
import importlib.metadata
import os
import platform
import re
import stat
import sys
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from data_pipelines.buckets import is_bucket
from data_pipelines.cache_directory import cache_directory
from data_pipelines.whole_files import TEMPORARY_SUFFIX, write_bytes
from electra_jax.distributed.processor import processor_lines

PARENT, OFF = "parent", "off"  # values of config.train.compilation_cache; any other is a directory
DIRECTORY = ".compiled"
MAX_BYTES = 1 << 29  # of all programs in a store
ENTRY = "-cache"  # how JAX ends the names of its files
ZSTANDARD = b"\x28\xb5\x2f\xfd"  # how they may begin
KEPT = re.compile(rf".+{ENTRY}\.[0-9a-f]{{8}}\.[0-9a-f]{{32}}")  # JAX's name, the machine, the digest
UNFINISHED = re.compile(rf"\..+{ENTRY}\..*{re.escape(TEMPORARY_SUFFIX)}")
SECONDS_UNFINISHED = 3600  # after which nobody writes it any longer


class ProgramStore:
    """The programs in the directory `place`, from `find_store`."""

    def __init__(self, place: Path):
        self.place = place

    def copy_to(self, directory: Path) -> set[str]:
        """Put the programs of this kind of machine into `directory` under JAX's names, which are returned.
        Damaged ones are removed from the store."""
        copied = set()
        for path in self._programs(f"*{ENTRY}.{_machine()}.*"):
            with contextlib.suppress(OSError):
                key, data = path.name.rsplit(".", 2)[0], path.read_bytes()
                if path.name == _kept_name(key, data):
                    write_bytes(directory / key, data)
                    copied.add(key)
                else:
                    path.unlink()
        return copied

    def add(self, path: Path) -> None:
        """Keep a program that JAX has written, unless the store has it, or a part of it is missing, as on a
        full disk.

        Raises:
          OSError: it cannot be kept.
        """
        data = path.read_bytes()
        # The bytes have the time that compiling took: the same program has another digest each time.
        is_kept = any(self._programs(f"{glob.escape(path.name)}.{_machine()}.*"))
        if not is_kept and _is_whole(data):
            write_bytes(self.place / _kept_name(path.name, data), data)

    def evict(self) -> None:
        """Remove the oldest programs beyond MAX_BYTES, and what a killed process left. Other files stay.

        Raises:
          OSError: the directory cannot be read or written.
        """
        for path in self.place.iterdir():
            if UNFINISHED.fullmatch(path.name) and time.time() - path.stat().st_mtime > SECONDS_UNFINISHED:
                path.unlink(missing_ok=True)
        described = [(path.stat(), path) for path in self._programs("*")]
        total = 0
        for status, path in sorted(described, key=lambda pair: pair[0].st_mtime, reverse=True):
            total += status.st_size
            if total > MAX_BYTES:
                path.unlink(missing_ok=True)

    def _programs(self, pattern: str) -> Iterator[Path]:
        for path in self.place.glob(pattern):
            if KEPT.fullmatch(path.name) and path.is_file() and not path.is_symlink():
                yield path


def find_store(setting: str, name: str) -> tuple[ProgramStore | None, str]:
    """(store of a run, what the user is told). The store is None where programs cannot be kept; the text
    is "" where they can.

    With PARENT it is in the directory that holds the run's; where that is not safe or cannot be written, and
    for a run in a bucket, in this user's directory of fetched files.

    Args:
      setting: PARENT or a directory.
      name: the directory of the run, or its URL.
    """
    try:
        if setting != PARENT:
            return _open(Path(os.path.realpath(setting)))
        if not is_bucket(name):
            parent = Path(os.path.realpath(name)).parent
            if parent != parent.parent:  # nothing is written to /
                with contextlib.suppress(OSError):
                    store, problem = _open(parent / DIRECTORY)
                    if not problem:
                        return store, ""
        return _open(Path(os.path.realpath(cache_directory())) / "compiled")
    except (OSError, ValueError) as error:
        return None, str(error)


def _open(place: Path) -> tuple[ProgramStore | None, str]:
    place.mkdir(mode=0o700, parents=True, exist_ok=True)
    if problem := _who_can_change(place):
        return None, problem
    is_writable = os.access(place, os.W_OK | os.X_OK)
    return ProgramStore(place), "" if is_writable else f"{place} cannot be written"


def _who_can_change(place: Path) -> str:
    """Why others than this user and root could change the programs in a directory; "": they cannot."""
    if place.is_symlink():
        return f"{place} is a link"
    for directory in (place, *place.parents):
        status = directory.stat()
        if status.st_uid not in (0, os.getuid()):
            return f"{directory} is another user's, and programs are code"
        is_shared = status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
        if is_shared and (directory == place or not status.st_mode & stat.S_ISVTX):
            return f"others may write to {directory}, and programs are code (chmod go-w)"
    return ""


def _kept_name(key: str, data: bytes) -> str:
    return f"{key}.{_machine()}.{hashlib.sha256(data).hexdigest()[:32]}"


@functools.cache
def _machine() -> str:
    """A digest of this machine's processor, Python and JAX: a program may use every instruction that its
    compiler found."""
    versions = [importlib.metadata.version(package) for package in ("jax", "jaxlib")]
    parts = [platform.machine(), platform.processor(), *versions, sys.version.split()[0]]
    return hashlib.sha256("\n".join([*parts, *processor_lines()]).encode()).hexdigest()[:8]


def _is_whole(data: bytes) -> bool:
    """Whether JAX could write all of a program: it is compressed, and its end is there."""
    try:
        decompressor = _decompressor(data)
        decompressor.decompress(data)
    except Exception:  # the libraries have different errors
        return False
    return decompressor.eof


def _decompressor(data: bytes) -> Any:
    """As JAX chooses it: zlib, or of zstandard Python's own module (from 3.14 on) or the package."""
    if not data.startswith(ZSTANDARD):
        return zlib.decompressobj()
    try:
        from compression import zstd

        return zstd.ZstdDecompressor()
    except ImportError:
        import zstandard

        return zstandard.ZstdDecompressor().decompressobj()
