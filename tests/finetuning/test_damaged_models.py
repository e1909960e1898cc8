"""A fine-tuned model whose files are damaged, or do not belong together, is an error with the file's name."""

import json
import os

import jax
import numpy as np
import pytest
from flax.traverse_util import flatten_dict
from safetensors.numpy import load_file, save_file

from data_pipelines.tokenizers.load import load_tokenizer
from electra_jax.finetuning.encoder_shapes import abstract_encoder
from electra_jax.finetuning.model_files import load_model, save_model
from electra_jax.models.config import make_pretraining_config
from support import tiny_export

PARAMS, NAME = "params.safetensors", "encoder/layer_0/intermediate/kernel"


@pytest.fixture
def model(data, tmp_path):
    encoder = make_pretraining_config(tiny_export.electra_model()).discriminator
    tokenizer = load_tokenizer(str(data / "tokenizer_corpus"))
    params = jax.tree.map(lambda leaf: np.ones(leaf.shape, np.float32), abstract_encoder(encoder, tokenizer))
    description = {"task": {"kind": "classification"}, "labels": ["a", "b"], "config": {"model": {}}}
    save_model(tmp_path / "model", encoder, description, tokenizer, params)
    # Without checksums, as whoever means harm leaves it: damage by accident is found by them.
    (tmp_path / "model" / "checksums.json").unlink()
    described = json.loads((tmp_path / "model" / "model.json").read_text())
    described.pop("has_checksums")
    (tmp_path / "model" / "model.json").write_text(json.dumps(described))
    return tmp_path / "model"


def test_the_undamaged_one_is_read(model):
    params = flatten_dict(load_model(model).params, sep="/")
    assert params[NAME].dtype == np.float32 and (params[NAME] == 1).all()


def edit_encoder(model, **changes):
    path = model / "model.json"
    described = json.loads(path.read_text())
    path.write_text(json.dumps(described | {"encoder": described["encoder"] | changes}))


def edit_params(model, change):
    arrays = load_file(model / PARAMS)
    change(arrays)
    save_file(arrays, model / PARAMS)


DAMAGED = {
    "cut": (lambda d: os.truncate(d / PARAMS, 999), r"params\.safetensors: damaged, cut off"),
    "empty": (lambda d: (d / PARAMS).write_bytes(b""), r"params\.safetensors: damaged, cut off"),
    "infinite": (
        lambda d: edit_params(d, lambda a: a[NAME].__setitem__((0, 0), np.inf)),
        r"params\.safetensors: encoder/layer_0/intermediate/kernel has 1 of .* not finite",
    ),
    "missing": (lambda d: edit_params(d, lambda a: a.pop(NAME)), "got no array for encoder/layer_0"),
    "another shape": (
        lambda d: edit_params(d, lambda a: a.update({NAME: a[NAME][:, :3].copy()})),
        r"got \(16, 3\) for encoder/layer_0/intermediate/kernel|got \(\d+, 3\) for",
    ),
    "a name below an array": (
        lambda d: edit_params(d, lambda a: a.update({f"{NAME}/more": a[NAME].copy()})),
        r"params\.safetensors: ",
    ),
    "sizes": (lambda d: edit_encoder(d, hidden_size=10**9), r"params\.safetensors: got .* expected"),
    "layers": (
        lambda d: edit_encoder(d, num_layers=10**12),
        r"params\.safetensors: the configuration has 1,000,000,000,000 layers, but there are no arrays of",
    ),
    "a size that is a text": (lambda d: edit_encoder(d, hidden_size="x"), "got 'x', expected a whole number"),
    "a field more": (lambda d: edit_encoder(d, more=1), "expected the keys"),
    "no object": (lambda d: (d / "model.json").write_text("[]"), r"model\.json: got a list"),
    "no JSON": (lambda d: (d / "model.json").write_text("{"), r"model\.json: not valid JSON"),
    "no labels": (lambda d: (d / "model.json").write_text('{"encoder": {}}'), r"model\.json: no 'task'"),
}


@pytest.mark.parametrize("damage", DAMAGED)
def test_a_damaged_model_is_named(damage, model):
    change, message = DAMAGED[damage]
    change(model)
    with pytest.raises(ValueError, match=message) as caught:
        load_model(model)
    assert str(caught.value).startswith(str(model))
