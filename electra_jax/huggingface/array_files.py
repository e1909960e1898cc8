"""Writing arrays as safetensors."""

import stat
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file


def write_arrays(path: Path, arrays: dict[str, np.ndarray], metadata: dict[str, str] | None = None) -> None:
    """Write arrays to a file with the permissions of any other new file; the library's own are the owner's
    alone."""
    path.touch()
    mode = stat.S_IMODE(path.stat().st_mode)
    save_file(arrays, path, metadata=metadata)
    path.chmod(mode)
