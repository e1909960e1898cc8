"""`convert verify` of directories that are damaged or mean harm: FAILED lines, and no code of theirs runs."""

import json
import os
import shutil

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from electra_jax import convert
from electra_jax.huggingface import exported_files
from electra_jax.huggingface.array_files import read_safetensors
from electra_jax.huggingface.verify import verify
from support.edits import edit_arrays
from support.forged_export import edit_config, edit_training

WEIGHTS, REFERENCE = "model.safetensors", "verification.safetensors"
LOADS = "transformers loads it"


@pytest.fixture
def model(export_to_damage, tmp_path):
    """A discriminator to damage."""
    return shutil.copytree(export_to_damage / "discriminator", tmp_path / "model")


def failed(directory):
    """Name → detail of the checks that fail, one line each."""
    found = {check.name: check.detail for check in verify(directory) if not check.is_passed}
    assert found and not any("\n" in detail for detail in found.values()), found
    return found


def edit_notes(directory, change):
    """Change the notes of the verification file; `change` may return others."""
    arrays, metadata = read_safetensors(directory / REFERENCE)
    notes = json.loads(metadata["notes"])
    notes = change(notes) or notes
    text = notes if isinstance(notes, str) else json.dumps(notes)
    save_file(arrays, directory / REFERENCE, metadata={"notes": text})


def write_code(directory, name="evil.py"):
    """A file that creates another when it is run; returns that other."""
    canary = directory.parent / "opened"
    (directory / name).write_text(
        f"open({str(canary)!r}, 'w')\nfrom transformers import ElectraForPreTraining\n"
    )
    return canary


def test_an_undamaged_export_passes(model, capsys):
    convert.main(["verify", str(model)])
    text = capsys.readouterr().out
    assert "FAILED" not in text and "ok     code" in text and "ok     detection logits" in text


def test_code_that_config_json_names_is_not_run(model):
    canary = write_code(model, "modeling_evil.py")
    edit_config(model, auto_map={"AutoModelForPreTraining": "modeling_evil.ElectraForPreTraining"})
    found = failed(model)
    assert "not this project's: modeling_evil.py" in found["code"] and "not loaded" in found[LOADS]
    assert not canary.exists()


def test_code_that_the_verification_file_also_names_is_not_run(model):
    """Both files of the directory agree."""
    canary = write_code(model, "modeling_evil.py")
    additions = {"auto_map": {"AutoModelForPreTraining": "modeling_evil.ElectraForPreTraining"}}
    edit_config(model, **additions)
    edit_notes(model, lambda notes: notes.update(config_additions=additions))
    found = failed(model)
    assert "config_additions of auto_map, expected what an export" in found["config.json"]
    assert not canary.exists()


@pytest.mark.parametrize("place", ["somebody/evil--modeling.Evil", "../evil.Evil"])
def test_code_elsewhere_is_not_looked_for(place, model):
    edit_config(model, auto_map={"AutoModelForPreTraining": place})
    found = failed(model)
    assert "auto_map is" in found["config.json"] and "not loaded" in found[LOADS]


def test_code_of_a_tokenizer_is_not_run(model):
    canary = write_code(model)
    edit_config(model, "tokenizer_config.json", auto_map={"AutoTokenizer": ["evil.Evil", None]})
    found = failed(model)
    assert found["code of tokenizer_config.json"].startswith("names code: ") and "code" in found
    (model / "evil.py").unlink()
    edit_config(model, "tokenizer_config.json", auto_map={"AutoTokenizer": ["some/body--evil.Evil", None]})
    found = failed(model)
    assert "not loaded" in found[LOADS] and not canary.exists()


@pytest.mark.parametrize("name", ["modeling_electra_relative_bias.py", "sub/modeling.py", "setup.py"])
def test_files_of_code_are_this_projects(name, model):
    (model / name).parent.mkdir(exist_ok=True)
    canary = write_code(model, name)
    assert name in failed(model)["code"]
    assert not canary.exists()


def test_this_projects_code_passes_byte_for_byte(model):
    source = exported_files.CUSTOM_CODE / "modeling_electra_relative_bias.py"
    shutil.copy(source, model)
    assert exported_files.check_code(model).is_passed
    (model / source.name).write_bytes(source.read_bytes() + b"\n")
    assert not exported_files.check_code(model).is_passed


def test_other_files_are_not_seen(model):
    """An adapter would make `transformers` load the model that it names."""
    for name in ("adapter_config.json", "pytorch_model.bin", "processor_config.json", "README.md"):
        (model / name).write_text('{"base_model_name_or_path": "/etc"}')
    with exported_files.only_known_files(model) as known:
        names = {path.name for path in known.iterdir()}
    assert names == {path.name for path in model.iterdir()} & exported_files.FILES.keys() - {REFERENCE}
    assert "adapter_config.json" not in names and "pytorch_model.bin" not in names


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda notes: notes["digests"].clear(), "has no digests of model.safetensors"),
        (lambda notes: notes["digests"].update({WEIGHTS: {}}), "has no digests of model.safetensors"),
        (lambda notes: notes["digests"].update({"../../../../etc/passwd": {}}), "has digests of '../../"),
        (lambda notes: notes["digests"].update({"/etc/passwd": {}}), "has digests of '/etc/passwd'"),
        (lambda notes: notes["digests"].update({"config.json": {}}), "has digests of 'config.json'"),
        (lambda notes: "{", "not valid JSON"),
        (lambda notes: "{}", "no 'digests' and no 'lines'"),
        (lambda notes: "[" * 500 + "]" * 500, "nested more than 100 deep"),
        (lambda notes: notes.update(digests=5), "got 5 at digests, expected an object"),
        (lambda notes: notes.update(lines=5), "got 5 at lines, expected a list"),
        (lambda notes: notes.update(lines=[["a"]]), "has lines that are not pairs of a text and its ids"),
        (lambda notes: notes.update(lines=[["a", 5]]), "has lines that are not pairs of a text and its ids"),
        (lambda notes: notes.update(lines=[[5, [1]]]), "has lines that are not pairs of a text and its ids"),
    ],
)
def test_what_a_verification_file_notes(change, message, model):
    edit_notes(model, change)
    assert message in failed(model)[REFERENCE]


def test_notes_of_another_role(model):
    edit_notes(model, lambda notes: notes.update(role="evil"))
    assert "got role 'evil'" in failed(model)["config.json"]


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        (lambda arrays: {}, "has no input_ids, attention_mask, positions, hidden_states"),
        (lambda arrays: arrays | {"hidden_states": np.zeros((0, 2), np.float32)}, "has no hidden_states"),
        (lambda arrays: arrays | {"input_ids": arrays["input_ids"] + 10**6}, "cannot be compared with: "),
        (lambda arrays: arrays | {"positions": arrays["positions"] + 10**6}, "cannot be compared with: "),
    ],
)
def test_what_a_verification_file_records(arrays, message, model):
    notes = {}
    edit_notes(model, notes.update)
    recorded = arrays(load_file(model / REFERENCE))
    save_file(recorded, model / REFERENCE, metadata={"notes": json.dumps(notes)})
    assert message in failed(model)[REFERENCE]


@pytest.mark.parametrize(
    ("damage", "name", "message"),
    [
        (lambda d: os.truncate(d / WEIGHTS, 9999), WEIGHTS, "damaged, cut off, or not a safetensors file"),
        (lambda d: (d / WEIGHTS).unlink(), WEIGHTS, "missing"),
        (lambda d: os.truncate(d / REFERENCE, 999), REFERENCE, "damaged, cut off, or not a safetensors file"),
        (lambda d: (d / REFERENCE).write_bytes(b"x" * 100), REFERENCE, "damaged, cut off"),
        (lambda d: (d / REFERENCE).write_bytes(b"\xff" * 7 + b"\x0f{}"), REFERENCE, "damaged, cut off"),
        (lambda d: (d / "config.json").unlink(), "config.json", "No such file"),
        (lambda d: (d / "config.json").write_text("{"), "config.json", "not valid JSON"),
        (lambda d: edit_config(d, architectures=[]), LOADS, "not loaded"),
        (lambda d: edit_config(d, architectures=["pipeline"]), LOADS, "not loaded"),
        (lambda d: edit_config(d, architectures="x"), "config.json", "got 'x' at architectures"),
        (lambda d: edit_config(d, type_vocab_size=None), "config.json", "type_vocab_size is None"),
        (lambda d: edit_config(d, quantization_config={"quant_method": "x"}), LOADS, "not loaded"),
        (
            lambda d: (d / "training_config.json").write_text("[]"),
            "config.json",
            "training_config.json: got a",
        ),
        (lambda d: (d / "training_config.json").unlink(), "config.json", "No such file"),
        (lambda d: (d / "tokenizer.json").write_text("{"), "tokenizer", ""),
    ],
)
def test_damaged_files_are_a_line(damage, name, message, model):
    damage(model)
    assert message in failed(model)[name]


@pytest.mark.parametrize(
    "sizes",
    [
        {"hidden_size": 10**9},
        {"vocab_size": 2**24},
        {"intermediate_size": 2**20},
        {"max_position_embeddings": 2**20},
        {"num_hidden_layers": 900},
        {"num_hidden_layers": 10**6},
    ],
)
def test_sizes_that_the_weights_do_not_have(sizes, model):
    """All files of the directory but the weights agree on them."""
    ours = {"num_hidden_layers": "num_layers"}
    edit_config(model, **sizes)
    described = json.loads((model / "training_config.json").read_text())["config"]["model"]
    for name, value in sizes.items():
        key = ours.get(name, name)
        edit_training(model, **{f"model__{key}": value}) if key in described else edit_training(
            model, model__discriminator=described["discriminator"] | {key: value}
        )
    assert failed(model).keys() <= {"config.json", LOADS}


def test_a_model_that_lost_its_verification_file_fails(export_to_damage, tmp_path, capsys):
    directory = shutil.copytree(export_to_damage, tmp_path / "both")
    (directory / "discriminator" / REFERENCE).unlink()
    with pytest.raises(SystemExit, match="failed its verification"):
        convert.main(["verify", str(directory)])
    assert "FAILED verification.safetensors" in capsys.readouterr().out
    (directory / "generator" / REFERENCE).unlink()
    with pytest.raises(SystemExit, match=r"no verification\.safetensors in it"):
        convert.main(["verify", str(directory)])


def test_weights_that_were_changed_are_still_compared(model):
    """A model without code is loaded all the same, to show what the change does."""
    name = "electra.encoder.layer.1.output.dense.weight"
    edit_arrays(model / WEIGHTS, lambda arrays: arrays | {name: np.ascontiguousarray(arrays[name][::-1])})
    found = failed(model)
    assert f"{name} is not what was exported" in found[WEIGHTS]
    assert "first differ after layer 1" in found["hidden states"]
