"""`convert import` of files that lie, are damaged or mean harm: an error in one line, before memory is taken,
and nothing left beside --out."""

import json
import os
import pickle
import shutil

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

from electra_jax.conversion.import_checkpoint import import_checkpoint
from electra_jax.runs.trained import read_description
from support.forged_export import edit_config, edit_training
from support.import_options import DEFAULT

WEIGHTS, TABLE = "model.safetensors", "electra.embeddings.word_embeddings.weight"
NORM = "electra.embeddings.LayerNorm.weight"


@pytest.fixture
def model(export_to_damage, tmp_path):
    """A discriminator of others to damage: without the configuration of its training and recorded digests."""
    shutil.copytree(export_to_damage / "discriminator", tmp_path / "model")
    (tmp_path / "model" / "training_config.json").unlink()
    (tmp_path / "model" / "verification.safetensors").unlink()
    return tmp_path / "model"


@pytest.fixture
def trained(export_to_damage, tmp_path):
    """A discriminator to damage, with the configuration of its training."""
    return shutil.copytree(export_to_damage / "discriminator", tmp_path / "model")


def refused(directory, message, error=ValueError, **options):
    """Import `directory`, and check that it fails with one line and leaves nothing."""
    before = sorted(directory.parent.iterdir())
    with pytest.raises(error, match=message) as caught:
        import_checkpoint(directory, directory.parent / "run", DEFAULT._replace(**options))
    assert "\n" not in str(caught.value)
    assert sorted(directory.parent.iterdir()) == before


class Opens:
    """An object whose pickle creates a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


SIZES = {
    "hidden_size": 10**9,
    "vocab_size": 10**9,
    "embedding_size": 10**9,
    "num_hidden_layers": 10**6,
    "max_position_embeddings": 10**12,
    "type_vocab_size": 10**9,
    "intermediate_size": 10**12,
    "num_attention_heads": 10**18,
}


@pytest.mark.parametrize("field", SIZES)
def test_sizes_without_measure(field, model):
    edit_config(model, **{field: SIZES[field]})
    refused(model, rf"config\.json: got {field}={SIZES[field]}, expected a whole number from")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("hidden_size", 65_536),
        ("vocab_size", 2**24),
        ("max_position_embeddings", 2**20),
        ("type_vocab_size", 2**16),
        ("intermediate_size", 2**20),
    ],
)
def test_sizes_that_the_arrays_do_not_have(field, value, model):
    """They are large, but some model might have them."""
    edit_config(model, **{field: value})
    refused(model, "got an array of .*, expected one for")


def test_layers_that_the_arrays_do_not_have(model):
    edit_config(model, num_hidden_layers=900)
    refused(model, "the configuration has 900 layers, but there are no arrays of layer 2 and 897 more")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hidden_size": -128}, "got hidden_size=-128, expected a whole number"),
        ({"hidden_size": "128"}, "got hidden_size='128', expected a whole number"),
        ({"hidden_size": 128.0}, r"got hidden_size=128\.0, expected a whole number"),
        ({"hidden_size": True}, "got hidden_size=True, expected a whole number"),
        ({"num_attention_heads": 0}, "got num_attention_heads=0, expected a whole number from 1"),
        ({"num_attention_heads": 7}, r"expected a multiple of num_heads \(7\)"),
        ({"num_hidden_layers": [2]}, r"got num_hidden_layers=\[2\], expected a whole number"),
        ({"layer_norm_eps": float("nan")}, "got layer_norm_eps=nan, expected a number from"),
        ({"layer_norm_eps": float("inf")}, "got layer_norm_eps=inf, expected a number from"),
        ({"layer_norm_eps": "x"}, "got layer_norm_eps='x', expected a number from"),
        ({"layer_norm_eps": 0}, "got layer_norm_eps=0, expected a number from"),
        ({"initializer_range": -1.0}, r"got initializer_range=-1\.0, expected a number"),
        ({"hidden_dropout_prob": 5.0}, r"got hidden_dropout_prob=5\.0, expected a number"),
        ({"hidden_act": "__import__('os').system('x')"}, "got hidden_act="),
        ({"model_type": ["electra"]}, r"got model_type \['electra'\], expected one of"),
        ({"model_type": "gpt2"}, "got model_type 'gpt2', expected one of"),
        ({"model": [1]}, r"config\.json: got a list at model, expected an object"),
    ],
)
def test_values_out_of_range(changes, message, model):
    edit_config(model, **changes)
    refused(model, message)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[]", "got a list, expected an object"),
        ("null", "got None, expected an object"),
        ("", "not valid JSON"),
        (
            '{"model_type": "electra", "x": ' + "[" * 200_000 + "]" * 200_000 + "}",
            "nested more than 100 deep",
        ),
        ('{"model_type": "electra", "hidden_size": ' + "9" * 6000 + "}", "not valid JSON .*digits"),
        (b'{"model_type": "\xe9"}', "not valid JSON .*utf-8"),
    ],
)
def test_a_configuration_of_another_form(text, message, model):
    (model / "config.json").write_bytes(text if isinstance(text, bytes) else text.encode())
    refused(model, rf"config\.json: {message}|config\.json: .*{message}")


def test_a_configuration_that_is_no_file(model):
    (model / "config.json").unlink()
    (model / "config.json").symlink_to("/dev/zero")
    refused(model, r"no config\.json beside", FileNotFoundError)


WEIGHT_CHANGES = {
    "one infinity": (lambda a: a[TABLE].__setitem__((0, 0), np.inf), "word_embeddings.weight has 1 of"),
    "NaN": (lambda a: a.update({TABLE: a[TABLE] * np.nan}), "not finite"),
    "float64 beyond float32": (
        lambda a: a.update({TABLE: np.full(a[TABLE].shape, 1e300)}),
        "too large for float32",
    ),
    "int64": (lambda a: a.update({TABLE: np.ones(a[TABLE].shape, np.int64)}), "has the type int64"),
    "bool": (lambda a: a.update({TABLE: np.ones(a[TABLE].shape, bool)}), "has the type bool"),
    "missing": (lambda a: a.pop("electra.encoder.layer.1.output.dense.weight"), "the file has no arrays for"),
    "cut": (lambda a: a.update({TABLE: a[TABLE][:, :7].copy()}), "got an array of"),
    "transposed": (lambda a: a.update({TABLE: np.ascontiguousarray(a[TABLE].T)}), "got an array of"),
    "a scalar": (lambda a: a.update({TABLE: np.array(1.0, np.float32)}), "got an array of"),
    "no array of a model": (
        lambda a: (a.clear(), a.update({"x": np.zeros(1, np.float32)})),
        "expected one encoder",
    ),
    "two encoders": (lambda a: a.update({f"module.{TABLE}": a[TABLE] + 1}), "encoders below , module"),
    "two of one name": (
        lambda a: a.update({NORM.replace("weight", "gamma"): a[NORM] + 1}),
        "several arrays of one name",
    ),
}


@pytest.mark.parametrize("change", WEIGHT_CHANGES)
def test_weights_that_are_no_weights(change, model):
    change, message = WEIGHT_CHANGES[change]
    arrays = {name: array.copy() for name, array in load_file(model / WEIGHTS).items()}
    change(arrays)
    save_file(arrays, model / WEIGHTS)
    refused(model, message)


@pytest.mark.parametrize(
    ("make_state", "message"),
    [
        (lambda path: {"x": Opens(path)}, "without running code in it"),
        (lambda path: [1, 2], "holds no dictionary of arrays"),
        (lambda path: {"state_dict": {"model": {"module": {"model": 5}}}}, "got no arrays|no dictionary"),
    ],
)
@pytest.mark.parametrize("is_zip", [True, False])
def test_files_of_pytorch(make_state, message, is_zip, model, tmp_path):
    (model / WEIGHTS).unlink()
    opened = tmp_path.parent / f"{tmp_path.name}-opened"
    torch.save(make_state(opened), model / "pytorch_model.bin", _use_new_zipfile_serialization=is_zip)
    refused(model, message)
    assert not opened.exists()


def test_a_file_of_pytorch_that_is_cut_off(model):
    state = {name: torch.from_numpy(array) for name, array in load_file(model / WEIGHTS).items()}
    (model / WEIGHTS).unlink()
    torch.save(state, model / "pytorch_model.bin")
    os.truncate(model / "pytorch_model.bin", 50_000)
    refused(model, r"pytorch_model\.bin: damaged")


@pytest.mark.parametrize(
    "content", [b"hello", b"", pickle.dumps([1]), pickle.dumps({"a": {1, 2}}), b"PK\3\4"]
)
def test_files_that_pytorch_cannot_read(content, model):
    (model / WEIGHTS).unlink()
    (model / "pytorch_model.bin").write_bytes(content)
    refused(model, r"pytorch_model\.bin: (damaged|holds no dictionary)")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            {"weight_map": {"a": "../outside.safetensors"}},
            "names the file '../outside.safetensors', expected",
        ),
        ({"weight_map": {"a": "/etc/passwd"}}, "names the file '/etc/passwd', expected the plain name"),
        ({"weight_map": {"a": ".."}}, "names the file"),
        ({"weight_map": {"a": 5}}, "got 5 at weight_map.a, expected a string"),
        ({}, "no 'weight_map'"),
        ("{", "not valid JSON"),
        ({"weight_map": {"a": "copy.safetensors", "b": "part.safetensors"}}, "expected each array once"),
    ],
)
def test_an_index_names_plain_files(content, message, model):
    (model / WEIGHTS).rename(model / "part.safetensors")
    for copy in (model / "copy.safetensors", model.parent / "outside.safetensors"):
        shutil.copy(model / "part.safetensors", copy)
    index = content if isinstance(content, str) else json.dumps(content)
    (model / f"{WEIGHTS}.index.json").write_text(index)
    refused(model, message)


def test_an_index_whose_part_is_missing(model):
    (model / WEIGHTS).unlink()
    (model / f"{WEIGHTS}.index.json").write_text(json.dumps({"weight_map": {"a": "absent.safetensors"}}))
    refused(model, "absent.safetensors", FileNotFoundError)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"objective__name": "evil"}, "config.objective.name: got 'evil'"),
        ({"objective__name": ["electra"]}, r"got a list at config\.objective\.name, expected a string"),
        ({"objective__mask_prob": 2.0}, r"config\.objective\.mask_prob: got 2\.0"),
        ({"objective__more": 1}, r"config\.objective lacks or adds more"),
        ({"optimizer__learning_rate": -1.0}, r"config\.optimizer\.learning_rate: got -1\.0"),
        ({"optimizer__groups": [["(a+)+$", 1.0, 0.0]]}, "repetitions, and none of a group"),
        (
            {"optimizer__groups": [["(", 1.0, 0.0]]},
            r"config\.optimizer\.groups: got .*expected one or more rules",
        ),
        ({"optimizer__groups": [["a", 1.0]]}, r"config\.optimizer\.groups: got .*expected one or more rules"),
        ({"optimizer__groups": 5}, r"got 5 at config\.optimizer\.groups, expected a list"),
        ({"data__sequence_length": 10**12}, r"config\.data\.sequence_length: got 10+, expected 1 or more"),
        ({"data__sequence_length": "x"}, r"got 'x' at config\.data\.sequence_length"),
        ({"stages": [[-1, {"data.sequence_length": 10**12}]]}, r"config\.data\.sequence_length: got 10+"),
        ({"stages": [5]}, r"got 5 at config\.stages\[0\], expected a list"),
        ({"stages": [[5]]}, "values of another form|not enough values"),
        ({"model__dtype": ["float32"]}, r"model\.dtype: got \['float32'\], expected one of"),
        ({"model__generator": 5}, "values of another form"),
        ({"model__layer_norm_epsilon": float("nan")}, "layer_norm_epsilon"),
        ({"model": []}, r"got a list at config\.model, expected an object"),
    ],
)
def test_a_training_configuration_that_is_none(changes, message, trained):
    edit_training(trained, **changes)
    refused(trained, message)


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"config": 5}', ""])
def test_a_training_configuration_of_another_form(text, trained):
    (trained / "training_config.json").write_text(text)
    refused(trained, r"training_config\.json: ")


def test_a_larger_generator_than_the_files_have(trained):
    described = json.loads((trained / "training_config.json").read_text())["config"]["model"]["generator"]
    edit_training(trained, model__generator=described | {"intermediate_size": 2**17})
    refused(trained, "config.model.generator has larger intermediate_size", missing_generator="fresh")


def test_only_plain_settings_of_an_export_are_believed(trained, tmp_path):
    """What names files or code comes from this project's recipe, and nothing is run or read."""
    code = tmp_path / "evil.py"
    code.write_text(f"open({str(tmp_path / 'opened')!r}, 'w')\n")
    described = json.loads((trained / "training_config.json").read_text())["config"]
    edit_training(
        trained,
        probe=described["probe"] | {"every": 1, "config": str(code), "train": "/etc/passwd"},
        log=described["log"] | {"trackers": ["evil:Tracker"], "every": 7},
        data=described["data"] | {"datasets": ["/etc"], "seed": 99},
        checkpoint=described["checkpoint"] | {"init_from": "/etc"},
        train=described["train"] | {"batch_size": 3, "seed": 5},
        eval=described["eval"] | {"every": 3},
        mesh={"data": 17, "fsdp": 1, "tensor": 1},
        optimizer=described["optimizer"] | {"learning_rate": 0.123},
        more={"a": "/etc"},
    )
    notes = import_checkpoint(trained, tmp_path / "run", DEFAULT)
    config = read_description(tmp_path / "run")["config"]
    assert config["optimizer"]["learning_rate"] == 0.123
    assert config["objective"] == described["objective"]
    assert config["data"]["sequence_length"] == described["data"]["sequence_length"]
    assert any(note.startswith("of training_config.json: model, objective, optimizer") for note in notes)
    text = (tmp_path / "run" / "config.json").read_text().replace(str(trained), "").replace(str(tmp_path), "")
    for foreign in ("evil", "/etc", "more"):
        assert foreign not in text, foreign
    recipe = {"seed": 0, "every": 100, "batch_size": 256}
    assert (config["data"]["seed"], config["train"]["seed"]) == (recipe["seed"], recipe["seed"])
    assert (config["log"]["every"], config["train"]["batch_size"]) == (recipe["every"], recipe["batch_size"])
    assert (config["probe"]["every"], config["mesh"]["data"]) == (0, -1)
    assert not (tmp_path / "opened").exists()


def test_weights_that_are_a_pipe_or_a_device(model):
    (model / WEIGHTS).unlink()
    os.mkfifo(model / WEIGHTS)
    refused(model, r"expected model\.safetensors", FileNotFoundError)
    (model / WEIGHTS).unlink()
    (model / WEIGHTS).symlink_to("/dev/zero")
    refused(model, r"expected model\.safetensors", FileNotFoundError)
