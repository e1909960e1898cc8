"""Embedding models in sentence-transformers and in `transformers`."""

import pytest
from support.tiny_embeddings import VARIANTS


@pytest.mark.parametrize("name", VARIANTS)
def test_it(name, embedding_exports):
    source, directory = embedding_exports(name)
    import os, subprocess

    print(subprocess.run(["find", str(directory), "-type", "f"], capture_output=True, text=True).stdout)
    print((directory / "README.md").read_text())
