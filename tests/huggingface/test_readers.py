"""Files as other programs name their arrays: read like their usual form, or refused in words."""

import json

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from electra_jax.huggingface.readers import read_directory

USUAL = (
    "electra.embeddings.word_embeddings.weight",
    "electra.embeddings.LayerNorm.weight",
    "electra.embeddings.LayerNorm.bias",
    "electra.encoder.layer.0.attention.output.LayerNorm.weight",
    "discriminator_predictions.dense.bias",
)


def written(directory, names, model_type="electra"):
    """A directory whose arrays are numbered in the order of their names."""
    directory.mkdir(exist_ok=True)
    save_file(
        {name: np.full(2, index, np.float32) for index, name in enumerate(names)},
        directory / "model.safetensors",
    )
    (directory / "config.json").write_text(json.dumps({"model_type": model_type}))
    return directory


@pytest.mark.parametrize(
    "rename",
    [
        lambda name: name,
        lambda name: name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("Norm.bias", "Norm.beta"),
        lambda name: f"module.{name}",
        lambda name: f"_orig_mod.{name}",
        lambda name: f"module._orig_mod.{name}",
        lambda name: f"model.discriminator.{name}",
        lambda name: name.replace("electra.", "electra._orig_mod."),
        lambda name: name.replace("layer.0.", "layer.0._fsdp_wrapped_module."),
        lambda name: f"module.{name.replace('LayerNorm.weight', 'LayerNorm.gamma')}",
    ],
)
def test_names_of_wrappers_and_of_old_files(rename, tmp_path):
    arrays = read_directory(written(tmp_path, [rename(name) for name in USUAL])).arrays
    assert {name: int(array[0]) for name, array in arrays.items()} == {
        name: index for index, name in enumerate(USUAL)
    }


@pytest.mark.parametrize("wrapper", ["", "0.auto_model.", "module."])
def test_an_encoder_alone(wrapper, tmp_path):
    names = [f"{wrapper}{name.removeprefix('electra.')}" for name in USUAL[:4]]
    arrays = read_directory(written(tmp_path, names)).arrays
    assert sorted(arrays) == sorted(name.removeprefix("electra.") for name in USUAL[:4])


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (
            [f"{role}.{name}" for role in ("discriminator", "generator") for name in USUAL],
            r"got encoders below discriminator\., generator\., expected one",
        ),
        ([name.replace("electra.", "bert.") for name in USUAL], r"got encoders below bert\., expected one"),
        (
            ["electra/embeddings/word_embeddings/weight:0"],
            r"got electra/embeddings/word_embeddings/weight:0, expected one encoder, with electra\.emb",
        ),
        (["electra.embeddings.word_embeddings.embedding"], r"the other names of PyTorch's `transformers`"),
    ],
)
def test_other_names_are_refused_in_words(names, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        read_directory(written(tmp_path, names))


def test_files_of_other_libraries_are_named(tmp_path):
    written(tmp_path, USUAL)
    (tmp_path / "model.safetensors").rename(tmp_path / "tf_model.h5")
    with pytest.raises(FileNotFoundError, match=r"tf_model\.h5: files of TensorFlow and Flax are not read"):
        read_directory(tmp_path)


@pytest.mark.parametrize("key", ["state_dict", "model"])
def test_the_weights_in_a_checkpoint_of_a_trainer(key, tmp_path):
    written(tmp_path, USUAL)
    (tmp_path / "model.safetensors").unlink()
    state = {key: {f"model.{name}": torch.ones(2) for name in USUAL}, "epoch": 3}
    torch.save(state, tmp_path / "pytorch_model.bin")
    assert sorted(read_directory(tmp_path).arrays) == sorted(USUAL)
