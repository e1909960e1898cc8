"""A run that trains removes older checkpoints, also while another command reads one of them."""

import contextlib
import json
import re
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from electra_jax.runs.trained import check_checkpoint, restore_params
from electra_jax.training.checkpointing import Checkpointer

PARAMS = {"encoder": {"kernel": np.ones(3, np.float32)}}


@pytest.fixture
def workdir(tmp_path):
    """A run with checkpoints of steps 10 and 20."""
    config = {"config": {"stages": []}, "data": []}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with contextlib.closing(Checkpointer(str(tmp_path / "checkpoints"), keep=2)) as checkpointer:
        for step in (10, 20):
            checkpointer.save(step, {"params": jax.tree.map(jnp.asarray, PARAMS)}, {"data": []})
    return tmp_path


@pytest.fixture(params=["check", "restore_params"], ids=["before its checksums", "before its arrays"])
def trainer(request, workdir, monkeypatch):
    """Saves step 30 and removes 20 and 10 once, when a reader has chosen its checkpoint."""
    method, original = request.param, getattr(Checkpointer, request.param)

    def interrupted(self, step, *rest):
        monkeypatch.setattr(Checkpointer, method, original)
        with contextlib.closing(Checkpointer(str(workdir / "checkpoints"), keep=1)) as checkpointer:
            checkpointer.save(30, {"params": jax.tree.map(jnp.asarray, PARAMS)}, {"data": []})
        for removed in (10, 20):
            shutil.rmtree(workdir / "checkpoints" / str(removed), ignore_errors=True)
        return original(self, step, *rest)

    monkeypatch.setattr(Checkpointer, method, interrupted)
    return method


def abstract():
    sharding = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    return {"encoder": {"kernel": jax.ShapeDtypeStruct((3,), jnp.float32, sharding=sharding)}}


def test_a_reader_of_the_newest_checkpoint_takes_the_newer_one(trainer, workdir):
    step, params = restore_params(workdir, None, abstract())
    assert step == 30
    np.testing.assert_array_equal(params["encoder"]["kernel"], PARAMS["encoder"]["kernel"])


def test_a_reader_of_one_step_hears_that_it_was_removed(trainer, workdir):
    place = re.escape(str(workdir))
    message = rf"{place}/checkpoints/20 was removed while it was read: .*The newest is {place}:30\."
    with pytest.raises(OSError, match=message):
        restore_params(workdir, 20, abstract())


@pytest.mark.parametrize("trainer", ["check"], indirect=True, ids=["before its checksums"])
def test_a_check_of_the_newest_checkpoint_looks_at_the_newer_one(trainer, workdir):
    check_checkpoint(workdir, None)
    with pytest.raises(FileNotFoundError, match=r"expected a checkpoint of step 20, found those of \[30\]"):
        check_checkpoint(workdir, 20)
