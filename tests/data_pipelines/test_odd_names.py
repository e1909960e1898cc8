"""Names of files that are not UTF-8, and caches without a home directory."""

import json
import os
import stat
import tempfile

import pytest

from data_pipelines.cache_directory import cache_directory
from data_pipelines.corpus_builder import build_corpus
from data_pipelines.corpus_settings import CorpusSettings
from data_pipelines.json_files import write_json
from data_pipelines.mixture import DatasetSource, make_sequential
from data_pipelines.whole_files import write_text

ODD = os.fsdecode(b"caf\xe9")


def test_a_name_that_is_not_utf8_is_written_somehow(tmp_path):
    write_text(tmp_path / "card.md", f"from `{ODD}`\n")
    assert (tmp_path / "card.md").read_text(encoding="utf-8") == "from `caf\ufffd`\n"
    write_json(tmp_path / "record.json", {"source": ODD, "é": "▁"})
    text = (tmp_path / "record.json").read_text(encoding="utf-8")
    assert json.loads(text) == {"source": ODD, "é": "▁"} and "é" in text


def test_a_dataset_whose_name_is_not_utf8_is_refused_before_anything_is_written(tmp_path):
    settings = CorpusSettings(
        train=["missing.txt"],
        validation_fraction=0.1,
        tokenizer="missing",
        sequence_length=32,
        packing="documents",
    )
    with pytest.raises(ValueError, match=r"--out: got '.*caf\ufffd/corpus', whose name is not UTF-8"):
        build_corpus(str(tmp_path / ODD / "corpus"), settings)
    with pytest.raises(ValueError, match=r"config\.data\.datasets: got '.*caf\ufffd'"):
        make_sequential([DatasetSource(str(tmp_path / ODD))])
    assert list(tmp_path.iterdir()) == []


def test_the_cache_of_fetched_files(tmp_path, monkeypatch):
    monkeypatch.delenv("ELECTRA_JAX_CACHE", raising=False)
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(tmp_path / "temporary"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert cache_directory() == tmp_path / "cache" / "electra_jax"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert cache_directory() == tmp_path / "home" / ".cache" / "electra_jax"
    for home in ("/proc/nohome", None):  # it cannot be written; there is none
        monkeypatch.setenv("HOME", home or "")
        if home is None:
            monkeypatch.setattr("os.path.expanduser", lambda path: path)
        found = cache_directory()
        assert found == tmp_path / "temporary" / f"electra_jax-{os.getuid()}"
        assert stat.S_IMODE(found.stat().st_mode) == 0o700
    monkeypatch.setattr("tempfile.gettempdir", lambda: "/proc/none")
    with pytest.raises(OSError, match="Set ELECTRA_JAX_CACHE to a directory for fetched files"):
        cache_directory()


def test_the_cache_of_fetched_files_without_temporary_files(tmp_path, monkeypatch):
    monkeypatch.delenv("ELECTRA_JAX_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with monkeypatch.context() as patched:  # pytest removes temporary files
        patched.setattr(tempfile, "tempdir", None)
        patched.setattr(tempfile, "_candidate_tempdir_list", lambda: ["/nonexistent"])
        assert cache_directory() == tmp_path / "cache" / "electra_jax"
        patched.setenv("XDG_CACHE_HOME", "/proc/none")
        with pytest.raises(OSError, match=r"/proc/none/electra_jax cannot be written\. Set ELECTRA"):
            cache_directory()


def test_the_chosen_cache_of_fetched_files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    for chosen in (str(tmp_path / "chosen"), "~/chosen", "chosen"):
        monkeypatch.setenv("ELECTRA_JAX_CACHE", chosen)
        assert cache_directory() == tmp_path / "chosen"
    monkeypatch.setenv("ELECTRA_JAX_CACHE", "/proc/none")  # no other directory is taken for it
    with pytest.raises(OSError, match=r"/proc/none cannot be written\. Set ELECTRA_JAX_CACHE"):
        cache_directory()
