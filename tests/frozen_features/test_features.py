"""Features are the pooled hidden states that `transformers` and fine-tuning compute."""

import jax
import numpy as np
import pytest
import torch
import transformers

from data_pipelines.tasks.encoding import encode_examples
from data_pipelines.tasks.examples import TextExample
from electra_jax.distributed.mesh import make_mesh
from electra_jax.finetuning.encoders import PretrainedEncoder, load_encoder
from electra_jax.finetuning.models import TaskModel
from electra_jax.finetuning.pooling import POOLINGS
from electra_jax.frozen_features.features import FeatureReader
from electra_jax.models.config import make_pretraining_config
from support import tiny_export
from support.random_parameters import random_parameters
from support.tiny import SPECIAL
from support.tiny_task import ONE

TEXTS = [("abc dei hgf", None), ("or not", "s to be"), ("kl mno pr to be or", None), ("to", None)]


def one_device():
    return make_mesh(ONE, jax.devices()[:1])


def test_features_of_every_layer_are_the_hidden_states_of_transformers(export_to_damage, tmp_path):
    place = export_to_damage / "discriminator"
    encoder = load_encoder(str(place), tmp_path / "tokenizer")
    rows, _ = encode_examples(encoder.tokenizer, [TextExample(*text, None) for text in TEXTS], 32)
    shares = []
    found = FeatureReader(encoder, one_device()).read(rows, shares.append, every_layer=True)
    assert shares == sorted(shares) and shares[-1] == 1.0
    model = transformers.ElectraModel.from_pretrained(place).eval()
    for number, row in enumerate(rows):
        arguments = {"input_ids": torch.tensor(row.ids[None], dtype=torch.long)}
        ends = np.flatnonzero(row.ids == encoder.special.sep)
        types = (np.arange(len(row.ids)) > ends[0]).astype(np.int64)
        with torch.no_grad():
            states = model(
                **arguments, token_type_ids=torch.tensor(types[None]), output_hidden_states=True
            ).hidden_states
        states_SLD = np.stack([state[0].numpy() for state in states])
        np.testing.assert_allclose(found["mean"][:, number], states_SLD.mean(1), atol=2e-5)
        np.testing.assert_allclose(found["cls"][:, number], states_SLD[:, 0], atol=2e-5)
    last = FeatureReader(encoder, one_device()).read(rows, shares.append)
    for pooling in POOLINGS:
        assert last[pooling].shape == (1, 4, encoder.config.hidden_size)
        np.testing.assert_allclose(last[pooling][0], found[pooling][-1], atol=1e-6)


def test_the_last_features_of_a_modernbert_are_those_that_fine_tuning_reads():
    """They come after its final LayerNorm."""
    config = make_pretraining_config(tiny_export.modern_model()).discriminator
    model = TaskModel(config, SPECIAL, "classification", 2, "published", 0.0, "mean")
    source = np.random.default_rng(0)
    rows = [np.array([1, *source.integers(5, 40, size=size), 2], np.int32) for size in (9, 14, 12)]
    parts = random_parameters(
        lambda: model.init(jax.random.key(0), np.ones((1, 2), np.int32), False)["params"]
    )
    params = {name: parts[name] for name in ("embeddings", "encoder")}

    class Tokenizer:
        special = SPECIAL

    class Row:
        def __init__(self, ids):
            self.ids = ids

    encoder = PretrainedEncoder("x", config, Tokenizer(), params)
    found = FeatureReader(encoder, one_device()).read(list(map(Row, rows)), lambda _: None, every_layer=True)
    assert found["mean"].shape == (5, 3, 32)
    padded = np.stack([np.pad(row, (0, 16 - len(row))) for row in rows])
    states = jax.jit(lambda ids: model.apply({"params": params}, ids, False, method="states"))(padded)
    for number, row in enumerate(rows):
        states_LD = states[number, : len(row)]
        np.testing.assert_allclose(found["mean"][-1, number], states_LD.mean(0), atol=2e-5)
        np.testing.assert_allclose(found["cls"][-1, number], states_LD[0], atol=2e-5)


def test_states_that_are_not_finite_are_an_error(export_to_damage, tmp_path):
    encoder = load_encoder(str(export_to_damage / "discriminator"), tmp_path / "tokenizer")
    rows, _ = encode_examples(encoder.tokenizer, [TextExample("abc dei hgf", None, None)], 32)
    params = jax.tree.map(lambda leaf: np.full_like(leaf, np.nan), encoder.params)
    with pytest.raises(FloatingPointError, match="got states that are not finite numbers"):
        FeatureReader(encoder._replace(params=params), one_device()).read(rows, lambda _: None)
