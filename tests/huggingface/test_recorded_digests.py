"""The arrays of an export are compared with what it recorded whenever it is read."""

import json
import shutil

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from electra_jax.huggingface.array_files import digests
from electra_jax.huggingface.readers import read_directory
from support.damage import flip_bit

WEIGHTS, REFERENCE = "model.safetensors", "verification.safetensors"


@pytest.fixture(params=["discriminator", "generator"])
def model(request, export_to_damage, tmp_path):
    return shutil.copytree(export_to_damage / request.param, tmp_path / "model")


@pytest.mark.parametrize("place", [0.3, 0.6, 1.0])
def test_a_flipped_bit_is_told_with_the_file_and_the_array(place, model):
    read_directory(model)
    # The lowest bits of little-endian numbers: the values stay finite.
    size = (model / WEIGHTS).stat().st_size
    flip_bit(model / WEIGHTS, size - 4 - int((1 - place) * size * 0.5) // 4 * 4)
    message = rf"model/{WEIGHTS}: damaged or changed since its export: \S+ is not what was exported\. Export"
    with pytest.raises(ValueError, match=message):
        read_directory(model)
    (model / REFERENCE).unlink()
    read_directory(model)  # a model of others has no digests


def test_arrays_that_are_missing_or_new_are_told(model):
    arrays = load_file(model / WEIGHTS)
    name = sorted(arrays)[-1]
    save_file({("other" if one == name else one): array for one, array in arrays.items()}, model / WEIGHTS)
    with pytest.raises(ValueError, match=rf"{name} is missing") as error:
        read_directory(model)
    assert "other is new" in str(error.value)


@pytest.mark.parametrize("notes", [{}, {"digests": {}}, {"digests": {"other.safetensors": {"a": "0"}}}])
def test_a_record_without_digests_of_the_file_passes(notes, model):
    save_file(load_file(model / REFERENCE), model / REFERENCE, metadata={"notes": json.dumps(notes)})
    read_directory(model)


@pytest.mark.parametrize("notes", ["[]", "{", '{"digests": [1]}'])
def test_a_record_that_cannot_be_read_is_told(notes, model):
    save_file(load_file(model / REFERENCE), model / REFERENCE, metadata={"notes": notes})
    with pytest.raises(ValueError, match=rf"{REFERENCE}, notes: .*Export the model again"):
        read_directory(model)
    (model / REFERENCE).write_bytes(b"cut off")
    with pytest.raises(ValueError, match=rf"{REFERENCE}: damaged, cut off"):
        read_directory(model)


def test_digests_are_those_of_the_bytes():
    table = np.arange(6, dtype=np.float32).reshape(2, 3)
    found = digests({"a": table, "b": table.T, "c": table.astype(ml_dtypes.bfloat16), "d": np.float32(1)})
    assert found["a"] == "e2c0a71510b5394df7773b63fb5f54372b84c3564e67811bde7d665be227976d"
    assert found["c"] == "a8c3c50be91f116761c95b3137575dd8e77e91794f6ff74fb18fe40875bb640c"
    assert found["d"] == "e00e5eb9444182f352323374ef4e08ebcb784725fdd4fd612d7730540b3e0c8c"
    assert found["b"] == digests({"b": np.ascontiguousarray(table.T)})["b"] != found["a"]
    assert len(set(found.values())) == 4
