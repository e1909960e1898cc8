"""Writing arrays as safetensors."""

import os
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file


def write_arrays(path: Path, arrays: dict[str, np.ndarray], metadata: dict[str, str] | None = None) -> None:
    """Write arrays to a file with the permissions of any other new file; the library's own are the owner's
    alone."""
    save_file(arrays, path, metadata=metadata)
    mask = os.umask(0)
    os.umask(mask)
    path.chmod(0o666 & ~mask)
