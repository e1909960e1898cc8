"""Reading and writing arrays as safetensors, and their digests."""

import concurrent.futures
import contextlib
import hashlib
import os
import re
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

# Types whose values are weights. Others, such as 8-bit floats, need scales that no reader here knows.
FLOATING = tuple(map(np.dtype, (np.float16, jnp.bfloat16, np.float32, np.float64)))
_THREADS = min(8, os.cpu_count() or 1)
ADVICE = "Fetch or write the file again."


class ArrayFile(NamedTuple):
    """The content of a safetensors file."""

    arrays: dict[str, np.ndarray]
    metadata: dict[str, str]


def read_safetensors(path: str | os.PathLike, advice: str = ADVICE) -> ArrayFile:
    """All arrays of a file, by name, and its metadata.

    Raises:
      FileNotFoundError, OSError: it cannot be opened.
      ValueError: it is damaged, cut off or not a safetensors file.
    """
    with (
        reader_errors(path, "a safetensors file", advice),
        safe_open(Path(path), framework="np") as file,
    ):
        names, metadata = file.keys(), file.metadata() or {}
        return ArrayFile({name: file.get_tensor(name) for name in names}, metadata)


def read_metadata(path: str | os.PathLike, advice: str = ADVICE) -> dict[str, str]:
    """The metadata of a file, from its header alone. Raises as `read_safetensors`."""
    with (
        reader_errors(path, "a safetensors file", advice),
        safe_open(Path(path), framework="np") as file,
    ):
        return file.metadata() or {}


def read_shapes(path: str | os.PathLike) -> dict[str, tuple[int, ...]]:
    """The shapes of the arrays of a file, by name, from its header alone. Raises as `read_safetensors`."""
    with (
        reader_errors(path, "a safetensors file", ADVICE),
        safe_open(Path(path), framework="np") as file,
    ):
        names = file.keys()
        return {name: tuple(file.get_slice(name).get_shape()) for name in names}


@contextlib.contextmanager
def reader_errors(path: str | os.PathLike, kind: str, advice: str) -> Iterator[None]:
    """Context of a library that reads a file, which may be anybody's. Such readers raise errors of many types
    for what is damaged; these become a ValueError of one line.

    Args:
      kind: what the file should be, for the message.

    Raises:
      FileNotFoundError, OSError: it cannot be opened.
      ValueError: it is damaged, or not a regular file.
    """
    if not stat.S_ISREG(os.stat(path).st_mode):
        raise ValueError(f"{path}: got a directory, a pipe or a device, expected {kind}. {advice}")
    try:
        yield
    except MemoryError as error:
        raise ValueError(f"{path}: its arrays do not fit into memory. {advice}") from error
    except Exception as error:
        if isinstance(error, OSError) and error.filename is not None:
            raise
        reason = f"{type(error).__name__}: {error}".partition("\n")[0][:200]
        raise ValueError(f"{path}: damaged, cut off, or not {kind} ({reason}). {advice}") from error


def finite_float32(arrays: Mapping[str, np.ndarray], path: str | os.PathLike) -> dict[str, np.ndarray]:
    """Weights of a file in float32, which every type in FLOATING becomes exactly, but for float64's rounding.

    Raises:
      ValueError: an array is not of such a type, or has a value that is not finite, or is not in float32;
        names the array.
    """
    found = {}
    for name, array in arrays.items():
        if array.dtype not in FLOATING:
            raise ValueError(
                f"{path}: {name} has the type {array.dtype}, expected one of "
                f"{', '.join(map(str, FLOATING))}. "
                "Save the model with weights of such a type, not quantised."
            )
        with np.errstate(over="ignore", invalid="ignore"):
            found[name] = np.asarray(array, np.float32)
        is_bad = ~np.isfinite(found[name])
        if is_bad.any():
            is_too_large = np.isfinite(np.asarray(array[is_bad], np.float64)).all()
            kind = "too large for float32" if is_too_large else "not finite (NaN or infinity)"
            raise ValueError(
                f"{path}: {name} has {is_bad.sum():,} of {is_bad.size:,} values that are {kind}, expected "
                "finite numbers. The file is damaged, or the training diverged: take another checkpoint."
            )
    return found


def digests(arrays: Mapping[str, np.ndarray]) -> dict[str, str]:
    """Name → SHA-256 of the array's bytes."""
    with concurrent.futures.ThreadPoolExecutor(_THREADS) as pool:
        return dict(zip(arrays, pool.map(_digest, arrays.values()), strict=True))


def _digest(array: np.ndarray) -> str:
    # Without a copy. Types such as bfloat16 have no buffer of their own.
    return hashlib.sha256(np.ascontiguousarray(array).reshape(-1).view(np.uint8)).hexdigest()


def write_arrays(path: Path, arrays: dict[str, np.ndarray], metadata: dict[str, str] | None = None) -> None:
    """Write arrays to a file with the permissions of any other new file; the library's own are the owner's
    alone. Raises OSError, with the path, if it cannot be written."""
    path.touch()
    mode = stat.S_IMODE(path.stat().st_mode)
    try:
        save_file(arrays, path, metadata=metadata)
    except SafetensorError as error:
        if found := re.search(r"\(os error (\d+)\)", str(error)):  # such as that of a full disk
            raise OSError(int(found[1]), os.strerror(int(found[1])), str(path)) from error
        raise
    path.chmod(mode)
