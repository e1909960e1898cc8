"""Changes to the files of an export."""

import json

from safetensors.numpy import load_file, save_file


def edit_json(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def edit_arrays(path, change):
    arrays = load_file(path)
    save_file(change(arrays), path, metadata={"format": "pt"})


def edit_tokenizer(path):
    """Drop the normalisation to NFKC."""
    described = json.loads(path.read_text())
    steps = described["normalizer"]["normalizers"]
    described["normalizer"]["normalizers"] = [step for step in steps if step["type"] != "NFKC"]
    assert len(described["normalizer"]["normalizers"]) < len(steps)
    path.write_text(json.dumps(described))
