"""Reading parameters alone from a checkpoint."""

import contextlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from electra_jax.training.checkpointing import Checkpointer, with_shardings


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
        OSError, match=r"cannot be read: it lacks decoder, encoder/other\. Remove that directory"
    ):
        checkpointer.restore_params(0, abstract(wanted))
