"""Checks of exported embedding models: what was changed or recorded wrongly is found, and files that name
other classes are not loaded."""

import json
import shutil

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from electra_jax.conversion.export_task import export_task
from electra_jax.huggingface import embedding_checks
from electra_jax.huggingface.comparison_texts import VerificationText, comparison_singles
from electra_jax.huggingface.contents import CODE, describe_contents
from electra_jax.huggingface.export import REFERENCE_FILE
from electra_jax.huggingface.verify import LOADS, verify
from support.edits import edit_json
from support.tiny_embeddings import LENGTH, VARIANTS, make_embedder
from support.tiny_task_exports import UNSAID

IN_ONE_BATCH, ONE_BY_ONE = "texts in one batch", "texts one by one"


@pytest.fixture(scope="module")
def exported(data, tmp_path_factory):
    """An export that was not verified yet."""
    root = tmp_path_factory.mktemp("electra")
    model, pooling, widths, dtype, _ = VARIANTS["electra"]
    source = make_embedder(root / "model", data, model, pooling, widths)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("electra_jax.conversion.export_run.verify_all", lambda directory, lines: True)
        return export_task(source, root / "export", dtype, UNSAID)


@pytest.fixture
def directory(exported, tmp_path):
    return shutil.copytree(exported, tmp_path / "export")


def recorded(directory):
    """(arrays, notes) of verification.safetensors."""
    with safe_open(directory / REFERENCE_FILE, "numpy") as file:
        return load_file(directory / REFERENCE_FILE), json.loads(file.metadata()["notes"])


def record_again(directory, arrays=None, **notes):
    """Change arrays and notes of verification.safetensors."""
    old_arrays, old_notes = recorded(directory)
    metadata = {"notes": json.dumps(old_notes | notes)}
    save_file(old_arrays | (arrays or {}), directory / REFERENCE_FILE, metadata=metadata)


def failed(directory):
    """Name → what differs, of the checks that did not pass."""
    return {check.name: check.detail for check in verify(directory) if not check.is_passed}


def test_what_is_compared(exported):
    """Rows of several lengths, the longest one cut; in both libraries."""
    arrays, notes = recorded(exported)
    lengths = arrays["attention_mask"].sum(axis=1)
    assert lengths.max() == LENGTH and len(set(lengths)) > 2 and len(lengths) == len(notes["texts"])
    np.testing.assert_allclose(np.linalg.norm(arrays["embeddings"], axis=1), 1, atol=1e-6)
    checks = {check.name: check for check in verify(exported)}
    assert all(check.is_passed for check in checks.values()), checks
    assert {"embeddings", IN_ONE_BATCH, ONE_BY_ONE} < checks.keys()
    assert any(name.startswith("sentence-transformers 6.") for name in checks)


def test_the_command_explains_every_file(exported):
    lines = describe_contents(exported)
    assert sum("for sentence-transformers: " in line for line in lines) == 1
    assert any(line.startswith("  1_Pooling/config.json ") for line in lines)
    assert len(lines) == 14 and not any(line.endswith(CODE) for line in lines)


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("1_Pooling/config.json", {"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}),
        ("sentence_bert_config.json", {"max_seq_length": 512}),
        ("sentence_bert_config.json", {"model_args": {"trust_remote_code": True}}),
        ("config_sentence_transformers.json", {"similarity_fn_name": "dot"}),
        ("config_sentence_transformers.json", {"prompts": {"query": "a "}, "default_prompt_name": "query"}),
    ],
    ids=["pooling", "length", "arguments", "similarity", "prompt"],
)
def test_a_changed_file_is_named(name, changes, directory):
    edit_json(directory / name, **changes)
    assert failed(directory).keys() == {name, LOADS}


@pytest.mark.parametrize("name", ["modules.json", "1_Pooling/config.json"])
def test_a_missing_file_is_named(name, directory):
    (directory / name).unlink()
    assert "No such file" in failed(directory)[name]


def test_other_classes_are_not_imported(directory, tmp_path, monkeypatch):
    """sentence-transformers imports what modules.json names, before version 6 without being asked to."""
    canary = tmp_path / "canary"
    (tmp_path / "evil.py").write_text(f"open({str(canary)!r}, 'w')")
    monkeypatch.syspath_prepend(tmp_path)
    modules = json.loads((directory / "modules.json").read_text())
    modules[2]["type"] = "evil.Normalize"
    (directory / "modules.json").write_text(json.dumps(modules))
    found = failed(directory)
    assert found["modules.json"] == "is not what was exported" and "not loaded" in found[LOADS]
    assert not canary.exists()


def test_other_recorded_vectors_are_found(directory):
    arrays, _ = recorded(directory)
    changed = arrays["embeddings"] + np.float32(2e-4)
    record_again(directory, {"embeddings": changed})
    found = failed(directory)
    assert {"embeddings", IN_ONE_BATCH, ONE_BY_ONE} < found.keys()
    assert all("allowed 1e-04" in detail for detail in found.values())


def test_other_texts_are_found(directory):
    """Only sentence-transformers reads them."""
    _, notes = recorded(directory)
    record_again(directory, texts=["s", *notes["texts"][1:]])
    assert failed(directory).keys() == {IN_ONE_BATCH, ONE_BY_ONE}


def test_notes_of_another_form_are_refused(directory):
    record_again(directory, texts=[1])
    assert "texts" in failed(directory)["config.json"]


def test_without_sentence_transformers_that_is_said(directory, monkeypatch):
    monkeypatch.setattr(embedding_checks, "find_spec", lambda name: None)
    checks = {check.name: check for check in verify(directory)}
    assert checks["embeddings"].is_passed and IN_ONE_BATCH not in checks
    assert checks["sentence-transformers"].detail == (
        "not compared, since it is not installed: `pip install sentence-transformers`"
    )


def test_random_ids_are_compared_too(data, tmp_path):
    model, pooling, _, dtype, _ = VARIANTS["electra"]
    source = make_embedder(tmp_path / "model", data, model, pooling)
    nothing = VerificationText("random token ids", (), ())
    directory = export_task(source, tmp_path / "export", dtype, UNSAID, nothing)
    arrays, notes = recorded(directory)
    assert notes["texts"] == [] and len(arrays["embeddings"]) == 8
    changed = {"embeddings": arrays["embeddings"][::-1].copy()}
    record_again(directory, changed)
    found = failed(directory)
    assert "embeddings" in found and any(name.startswith("sentence-transformers 6.") for name in found)


def test_texts_to_compare_have_several_lengths():
    lines = [" one two three four five ", "six seven"]
    assert comparison_singles(lines, 9) == [
        "one",
        "one two",
        "one two three four",
        "one two three four five",
        "six seven",
        "one two three four five six seven one two",
    ]
    assert comparison_singles([], 9) == [] and comparison_singles(["   "], 9) == []
