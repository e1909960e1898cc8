"""Heads for whole texts that read the mean of the states."""

import jax.numpy as jnp
import numpy as np
import pytest

from configs import finetune
from electra_jax.configuration.migration import upgrade_config, upgrade_head
from electra_jax.finetuning.models import TaskModel
from electra_jax.finetuning.pooling import mean_state
from electra_jax.models.layers import gelu
from support.jitted import apply_jitted
from support.tiny import SPECIAL
from support.tiny_task import encoder_config, random_params

PAD = SPECIAL.pad


def test_the_mean_leaves_out_padding_and_nothing_else():
    ids = jnp.array([[1, 7, 2, PAD, PAD], [1, 8, 9, 10, 2], [PAD] * 5])
    states = np.random.default_rng(0).normal(size=(3, 5, 4)).astype(np.float32)
    states[0, 3:] = np.nan  # of padding, whatever it is
    found = mean_state(jnp.asarray(states), ids, PAD)
    assert found.shape == (3, 1, 4)
    np.testing.assert_allclose(found[0, 0], states[0, :3].mean(0), rtol=1e-6)
    np.testing.assert_allclose(found[1, 0], states[1].mean(0), rtol=1e-6)
    np.testing.assert_array_equal(found[2], np.zeros((1, 4)))
    rounded = mean_state(jnp.asarray(states[1:2], jnp.bfloat16), ids[1:2], PAD)
    assert rounded.dtype == jnp.bfloat16


@pytest.mark.parametrize(("family", "has_layer"), [("electra", False), ("deberta", True)])
def test_a_head_reads_what_it_is_told(family, has_layer):
    ids = (
        jnp.asarray(np.random.default_rng(0).integers(5, 40, size=(3, 12)).astype(np.int32))
        .at[:, 9:]
        .set(PAD)
    )
    models = {
        pooling: TaskModel(encoder_config(family), SPECIAL, "classification", 4, "published", 0.1, pooling)
        for pooling in ("cls", "mean")
    }
    params = random_params(models["cls"], ids)
    states = apply_jitted(models["cls"], params, ids, False, method="states")
    for pooling, pooled in (("cls", states[:, 0]), ("mean", states[:, :9].mean(1))):
        if has_layer:
            layer = params["head"]["pooler"]
            pooled = gelu(pooled @ layer["kernel"] + layer["bias"][None])
        expected = (
            pooled @ params["head"]["classifier"]["kernel"] + params["head"]["classifier"]["bias"][None]
        )
        np.testing.assert_allclose(apply_jitted(models[pooling], params, ids, False), expected, atol=2e-5)


def test_older_models_read_cls():
    config = finetune.get_config("task=local").to_dict()
    assert config["model"]["pooling"] == "cls"
    del config["model"]["pooling"]
    assert upgrade_config(config)["model"]["pooling"] == "cls"
    assert upgrade_head({"head": "published"}) == {"head": "published", "pooling": "cls"}
    assert upgrade_head({"pooling": "mean"}) == {"pooling": "mean"}
