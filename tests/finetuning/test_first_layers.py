"""An encoder whose last layers are left out (config.model.num_layers)."""

import jax
import numpy as np
import pytest
import torch
import transformers

from data_pipelines.tasks.encoding import encode_examples
from data_pipelines.tasks.examples import TextExample
from data_pipelines.tasks.load import TaskData
from electra_jax.configuration.checks import check_values
from electra_jax.configuration.flags import load_config
from electra_jax.configuration.migration import upgrade_config
from electra_jax.distributed.mesh import make_mesh
from electra_jax.finetuning.encoders import PretrainedEncoder, first_layers, load_encoder
from electra_jax.finetuning.models import TaskModel
from electra_jax.finetuning.task_finetuner import TaskFinetuner
from electra_jax.frozen_features.features import FeatureReader
from electra_jax.models.config import make_pretraining_config
from support import tiny_export
from support.random_parameters import random_parameters
from support.tiny import SPECIAL
from support.tiny_pairs import EXAMPLES, Characters
from support.tiny_task import ONE, encoder_config


class Tokenizer(Characters):
    fingerprint = "characters"


def one_device():
    return make_mesh(ONE, jax.devices()[:1])


def test_its_states_are_those_of_a_middle_layer_in_transformers(export_to_damage, tmp_path):
    place = export_to_damage / "discriminator"
    encoder = load_encoder(str(place), tmp_path / "tokenizer")
    assert encoder.config.num_layers > 1
    cut = first_layers(encoder, 1)
    rows, _ = encode_examples(encoder.tokenizer, [TextExample("abc dei hgf", None, None)], 32)
    found = FeatureReader(cut, one_device()).read(rows, lambda _: None)
    arguments = {"input_ids": torch.tensor(rows[0].ids[None], dtype=torch.long)}
    model = transformers.ElectraModel.from_pretrained(place).eval()
    with torch.no_grad():
        states = model(**arguments, output_hidden_states=True).hidden_states
    np.testing.assert_allclose(found["mean"][0, 0], states[1][0].numpy().mean(0), atol=2e-5)
    assert first_layers(encoder, 0) is encoder
    assert first_layers(encoder, encoder.config.num_layers) is encoder


def test_modernberts_last_norm_follows_the_last_layer_that_is_kept():
    config = make_pretraining_config(tiny_export.modern_model()).discriminator
    ids = np.random.default_rng(0).integers(5, 40, size=(2, 12)).astype(np.int32)

    def states(config, params):
        model = TaskModel(config, SPECIAL, "embedding", 0, "published", 0.0, "mean")
        return jax.jit(lambda ids: model.apply({"params": params}, ids, False, method="states"))(ids)

    full = TaskModel(config, SPECIAL, "embedding", 0, "published", 0.0, "mean")
    params = random_parameters(
        lambda: full.init(jax.random.key(0), np.ones((1, 2), np.int32), False)["params"]
    )
    cut = first_layers(PretrainedEncoder("x", config, None, params), 1)
    # Layers that add nothing leave the states of the first one, since the norms come before them.
    silent = jax.tree_util.tree_map_with_path(
        lambda path, leaf: (
            leaf * 0 if path[1].key.startswith("layer_") and path[1].key != "layer_0" else leaf
        ),
        params,
    )
    found = states(cut.config, cut.params)
    np.testing.assert_allclose(found, states(config, silent), atol=1e-5)
    assert np.abs(found - states(config, params)).max() > 0.1


def test_it_is_trained_and_saved_with_fewer_layers():
    config = load_config("configs/finetune.py:task=local_embedding").to_dict()
    config["model"]["num_layers"] = 1
    config["train"].update(num_epochs=1, batch_size=2)
    config["log"]["progress"] = False
    finetuner = TaskFinetuner(
        config, TaskData((), {"train": EXAMPLES, "validation": EXAMPLES}, []), one_device()
    )
    start = PretrainedEncoder("random:x", encoder_config("electra"), Tokenizer(), None)
    finetuned = finetuner.finetune(start, {}, 0)
    assert start.config.num_layers > 1 and finetuned.encoder.num_layers == 1
    assert [name for name in finetuned.params["encoder"] if name.startswith("layer_")] == ["layer_0"]
    most = start.config.num_layers
    with pytest.raises(
        ValueError,
        match=rf"^config\.model\.num_layers: got 99, expected at most {most}, .* random:x\. Pass --config",
    ):
        finetuner.check_runs([{}, {"model.num_layers": 99}], start)


def test_what_is_no_number_of_layers():
    config = load_config("configs/finetune.py:task=local").to_dict()
    assert config["model"]["num_layers"] == 0
    config["model"]["num_layers"] = -1
    with pytest.raises(
        ValueError, match=r"^config\.model\.num_layers: got -1, expected 0 \(all\) or the num"
    ):
        check_values(config)
    del config["model"]["num_layers"]
    assert upgrade_config(config)["model"]["num_layers"] == 0
