"""Datasets at URLs as sources of a run, without a bucket."""

import json

from data_pipelines.dataset_info import INFO_FILE
from electra_jax.runs import inputs


def test_a_dataset_in_a_bucket_is_known_by_its_content(tmp_path, monkeypatch):
    (tmp_path / INFO_FILE).write_text(json.dumps({"fingerprint": "f" * 64}), encoding="utf-8")
    monkeypatch.setattr(inputs, "local_dataset", {"gs://b/data": str(tmp_path)}.get)
    (source,) = inputs.make_sources({"datasets": ("gs://b/data",), "weights": (1.0,)}, tmp_path)
    assert (source.path, source.fingerprint) == ("gs://b/data", "f" * 64)
