"""Exports where HOME cannot be written, from and to folders with any name."""

import json
import os
import sys

import pytest
import transformers

from electra_jax.conversion.export_run import export_run
from electra_jax.huggingface.code_cache import temporary_code_cache
from support import tiny_export


def test_a_model_with_code_is_exported_without_a_cache(data, tmp_path, monkeypatch):
    cache = tmp_path / "cache"
    monkeypatch.setattr(transformers.dynamic_module_utils, "HF_MODULES_CACHE", str(cache))
    run, _ = tiny_export.make_run(tmp_path / "sweep[2]" / "run", data, tiny_export.relative_model())
    description = json.loads((run / "config.json").read_text())
    description["imported_from"] = os.fsdecode(b"/models/caf\xe9")
    (run / "config.json").write_text(json.dumps(description))
    out = tmp_path / "exports [1]" / "model"
    exported = export_run(run, None, out, tiny_export.PLAIN)
    assert [path.name for path in exported] == ["discriminator", "generator"]
    assert "caf\ufffd" in (out / "discriminator" / "README.md").read_text(encoding="utf-8")
    assert not cache.exists() and not [
        name for name in sys.modules if name.startswith("transformers_modules")
    ]


def test_the_usual_cache_is_back_afterwards():
    module = transformers.dynamic_module_utils
    usual, path = module.HF_MODULES_CACHE, list(sys.path)
    with temporary_code_cache(transformers):
        module.init_hf_modules()
        folder = module.HF_MODULES_CACHE
        assert folder != usual and os.path.isdir(folder) and folder in sys.path
    assert usual == module.HF_MODULES_CACHE and sys.path == path and not os.path.exists(folder)


def test_a_folder_that_no_library_can_read_is_refused(tmp_path):
    out = tmp_path / os.fsdecode(b"caf\xe9")
    with pytest.raises(ValueError, match=r"--out: got '.*caf\ufffd', whose name is not UTF-8"):
        export_run(tmp_path / "run", None, out, tiny_export.PLAIN)
