"""NumPy arrays as files that exist complete or not at all."""

import io
from pathlib import Path

import numpy as np

from data_pipelines.whole_files import write_bytes


def save_array(path: Path, array: np.ndarray) -> None:
    """Write a .npy file in one go."""
    content = io.BytesIO()  # an error of NumPy's own files tells neither path nor cause
    np.save(content, array)
    write_bytes(path, content.getvalue())
