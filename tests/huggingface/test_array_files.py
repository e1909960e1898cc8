"""Arrays from files: of every type of weights in float32, or an error that names the file and the array."""

import json
import os
import pickle
import struct

import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import save_file

from electra_jax.huggingface.array_files import finite_float32, read_safetensors, read_shapes

VALUES = np.array([[0.5, -2.0, 3.0]])


def raw(path, header, data=b"", length=None):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text) if length is None else length) + text + data)
    return path


ENTRY = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
DAMAGED = {
    "a header of 2^60 bytes": lambda path: raw(path, {}, length=2**60),
    "empty": lambda path: path.write_bytes(b""),
    "a text": lambda path: path.write_text("version https://git-lfs.github.com/spec/v1\n"),
    "arrays that overlap": lambda path: raw(
        path, {"a": ENTRY, "b": ENTRY | {"data_offsets": [4, 12]}}, b"\0" * 12
    ),
    "a shape that overflows": lambda path: raw(
        path, {"a": ENTRY | {"shape": [2**33, 2**33], "data_offsets": [0, 0]}}
    ),
    "a shape of more than NumPy's": lambda path: raw(
        path, {"a": ENTRY | {"shape": [2**40, 2**40, 0], "data_offsets": [0, 0]}}
    ),
    "a nested header": lambda path: raw(path, b"[" * 1_000_000),
    "a pickle": lambda path: path.write_bytes(pickle.dumps({"a": 1})),
    "an unknown type": lambda path: raw(path, {"a": ENTRY | {"dtype": "F17"}}, b"\0" * 8),
    "cut off": lambda path: (save_file({"a": VALUES}, path), os.truncate(path, 90)),
    "a pipe": lambda path: os.mkfifo(path),
    "a device": lambda path: path.symlink_to("/dev/zero"),
}


@pytest.mark.parametrize("damage", DAMAGED)
def test_a_damaged_file_is_one_line_with_its_name(damage, tmp_path):
    path = tmp_path / "model.safetensors"
    DAMAGED[damage](path)
    with pytest.raises(
        ValueError, match=r"(damaged, cut off, or not a|expected a) safetensors file"
    ) as caught:
        read_safetensors(path)
    assert str(caught.value).startswith(f"{path}: ") and "\n" not in str(caught.value)
    if damage != "a shape of more than NumPy's":  # which the header alone does not show
        with pytest.raises(ValueError, match="safetensors file"):
            read_shapes(path)


def test_a_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"a\.safetensors"):
        read_safetensors(tmp_path / "a.safetensors")


@pytest.mark.parametrize("dtype", [np.float16, jnp.bfloat16, np.float32, np.float64])
def test_weights_of_every_type(dtype, tmp_path):
    save_file({"a": VALUES.astype(dtype)}, tmp_path / "a.safetensors", metadata={"format": "pt"})
    arrays, metadata = read_safetensors(tmp_path / "a.safetensors")
    assert arrays["a"].dtype == dtype and metadata == {"format": "pt"}
    assert read_shapes(tmp_path / "a.safetensors") == {"a": (1, 3)}
    found = finite_float32(arrays, "a.safetensors")["a"]
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, VALUES)


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (
            np.ones(3, np.int64),
            "layer has the type int64, expected one of float16, bfloat16, float32, float64",
        ),
        (np.ones(3, bool), "layer has the type bool"),
        (np.ones(3, jnp.float8_e4m3fn), "layer has the type float8_e4m3fn"),
        (np.float32([1, np.nan]), r"layer has 1 of 2 values that are not finite \(NaN or infinity\)"),
        (np.float32([np.inf, np.nan]), "layer has 2 of 2 values that are not finite"),
        (np.float16([-np.inf]), "layer has 1 of 1 values that are not finite"),
        (np.array([1.0, 1e300]), "layer has 1 of 2 values that are too large for float32"),
    ],
)
def test_other_values_are_refused(array, message):
    with pytest.raises(ValueError, match=rf"^f\.safetensors: {message}"):
        finite_float32({"fine": VALUES, "layer": array}, "f.safetensors")
