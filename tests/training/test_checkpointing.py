"""Directories with any name, checkpoints that cannot be read, and reading parameters alone."""

import contextlib
import os
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest

from electra_jax.training import plain_paths
from electra_jax.training.checkpointing import Checkpointer, with_shardings
from electra_jax.training.kept_checkpoints import most_kept, within_reach
from electra_jax.training.plain_paths import PlainPath, check_checkpoint_path
from electra_jax.training.state import TrainState


@pytest.fixture
def checkpointer(tmp_path):
    with contextlib.closing(Checkpointer(str(tmp_path), keep=1)) as checkpointer:
        checkpointer.save_params(
            {"encoder": {"kernel": jnp.arange(6.0).reshape(2, 3)}, "head": {"bias": jnp.ones(2)}}, {}
        )
        yield checkpointer


def abstract(tree):
    device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    return with_shardings(tree, jax.tree.map(lambda _: device, tree))


def test_some_of_the_parameters_are_read(checkpointer):
    params = checkpointer.restore_params(
        0, abstract({"encoder": {"kernel": jax.ShapeDtypeStruct((2, 3), jnp.float32)}})
    )
    assert list(params) == ["encoder"]
    np.testing.assert_array_equal(params["encoder"]["kernel"], np.arange(6.0).reshape(2, 3))


def test_missing_parameters_are_an_error(checkpointer):
    wanted = {
        "encoder": {name: jax.ShapeDtypeStruct((2, 3), jnp.float32) for name in ("kernel", "other")},
        "decoder": jax.ShapeDtypeStruct((2,), jnp.float32),
    }
    with pytest.raises(
        OSError, match=r"cannot be used: it lacks decoder, encoder/other\. The run has no other"
    ):
        checkpointer.restore_params(0, abstract(wanted))


NAMES = ("sweep[2]", "a*b?", "two words", "100% \"quoted\" 'é'", "new\nline", os.fsdecode(b"caf\xe9"), "[[]]")


@pytest.mark.parametrize("name", NAMES)
def test_a_directory_may_have_any_name(name, tmp_path):
    directory = str(tmp_path / name / "run" / "checkpoints")
    wanted = abstract({"kernel": jax.ShapeDtypeStruct((2, 3), jnp.float32)})
    with contextlib.closing(Checkpointer(directory, keep=2)) as checkpointer:
        for step in (1, 2, 3):
            checkpointer.save(step, {"params": {"kernel": jnp.full((2, 3), step, jnp.float32)}}, {"at": step})
        checkpointer.wait()
        assert checkpointer.all_steps() == [2, 3]
    assert sorted(os.listdir(directory)) == ["2", "3"]
    with contextlib.closing(Checkpointer(directory, keep=None)) as reader:
        assert reader.describe(3) == {"at": 3}
        np.testing.assert_array_equal(reader.restore_params(3, wanted)["kernel"], np.full((2, 3), 3.0))
        shutil.rmtree(os.path.join(directory, "3", "state"))
        with pytest.raises(OSError, match=r"(?s)state/_METADATA is missing\. .* of step 2\.$") as error:
            reader.restore_params(3, wanted)
        assert os.path.join(directory, "3") in str(error.value)


def test_a_directory_that_may_not_be_written_is_told_at_the_start(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: str(path) != str(tmp_path) or mode == os.R_OK)
    with pytest.raises(PermissionError, match=rf"^{tmp_path}: this user may not write there"):
        Checkpointer(str(tmp_path), keep=1)
    Checkpointer(str(tmp_path), keep=None).close()


def test_a_directory_without_checkpoints_is_read_as_such(tmp_path):
    with contextlib.closing(Checkpointer(str(tmp_path / "none[1]"), keep=None)) as checkpointer:
        assert checkpointer.latest_step() is None
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("ends", ["wait", "save"])
def test_a_checkpoint_whose_arrays_were_not_merged_never_appears(ends, tmp_path, monkeypatch):
    directory, state = tmp_path / "sweep[2]", {"params": {"kernel": jnp.ones((2, 3))}}
    with contextlib.closing(Checkpointer(str(directory), keep=1)) as checkpointer:
        checkpointer.save(1, state, {})
    # As if nothing were known about such names: Orbax leaves the arrays unmerged, and reports nothing.
    monkeypatch.setattr(plain_paths, "find_special", lambda path: [])
    with contextlib.closing(Checkpointer(str(directory), keep=1)) as checkpointer:
        checkpointer.save(2, state, {})
        with pytest.raises(
            OSError,
            match=r"could not be saved in \S+sweep\[2\]: its arrays were not merged: state/manifest\.ocdbt "
            r"was not written\. The checkpoints of steps \[1\] are complete",
        ):
            if ends == "wait":
                checkpointer.wait()
            else:
                checkpointer.save(3, state, {})
        assert checkpointer.all_steps() == [1]  # though one is kept


@pytest.mark.parametrize("leaf", [np.ones(3), 5, 2.5, jnp.ones(3)])
def test_saving_opens_no_array_whatever_its_type(leaf, tmp_path, monkeypatch):
    """TensorStore never frees what it returns when Orbax describes an open array: for 160 arrays
    a megabyte a checkpoint."""

    def metadata(self, directory):
        raise AssertionError("arrays were opened")

    monkeypatch.setattr(ocp.PyTreeCheckpointHandler, "metadata", metadata)
    monkeypatch.setattr(ocp.StandardCheckpointHandler, "metadata", metadata)
    with contextlib.closing(Checkpointer(str(tmp_path), keep=3)) as checkpointer:
        checkpointer.save_params({"leaf": leaf, "none": None, "empty": {}}, {})
        assert checkpointer.inspect(0).problem == ""


def test_a_system_without_second_names_refuses_the_path(tmp_path, monkeypatch):
    monkeypatch.setattr(plain_paths, "OPEN_DIRECTORIES", tmp_path / "missing")
    check_checkpoint_path(str(tmp_path / "plain"))
    with pytest.raises(ValueError, match=r"sweep\[2\]/run': got '\[' in the path of a run"):
        PlainPath(str(tmp_path / "sweep[2]" / "run"), create=True)
    assert not (tmp_path / "sweep[2]").exists()


def test_special_characters_in_a_bucket_are_refused():
    check_checkpoint_path("gs://bucket/run")
    with pytest.raises(ValueError, match=r"gs://bucket/a\[1\]': got '\['"):
        check_checkpoint_path("gs://bucket/a[1]")


@pytest.mark.parametrize(("keep", "reach"), [(2, 0), (1, 7), (2, 4), (3, 100)])
def test_as_many_checkpoints_are_kept_as_is_foretold(keep, reach, tmp_path):
    checkpointer, kept = Checkpointer(str(tmp_path / "checkpoints"), keep=keep, reach=reach), []
    steps = [3, 6, 7, 9, 12, 15]
    for step in steps:
        checkpointer.save(step, TrainState(jnp.int32(step), {}, {}, {}), {})
        checkpointer.wait()
        kept.append(len(checkpointer.all_steps()))
    checkpointer.close()
    assert max(kept) == most_kept(steps, keep, reach)


def test_checkpoints_that_a_rollback_may_need_are_kept(tmp_path):
    assert within_reach([], 5) == set() and within_reach([10], 5) == {10}
    assert within_reach([10, 20, 30, 31, 32, 33], 5) == {20, 30, 31, 32, 33}
    assert within_reach([10, 20, 30], 10) == {20, 30} and within_reach([10, 20, 30], 11) == {10, 20, 30}
    checkpointer = Checkpointer(str(tmp_path / "checkpoints"), keep=2, reach=4)
    for step in (5, 10, 11, 12, 13):  # three of them between two that are due, as after SIGTERM
        checkpointer.save(step, {"x": jnp.zeros(2)}, {})
    checkpointer.wait()
    assert checkpointer.all_steps() == [5, 10, 11, 12, 13]
    checkpointer.save(15, {"x": jnp.zeros(2)}, {})
    checkpointer.wait()
    assert checkpointer.all_steps() == [11, 12, 13, 15]
    checkpointer.close()
