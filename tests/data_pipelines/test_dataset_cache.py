"""Local copies of datasets in buckets, without a bucket: one process copies, and removes what a killed one
left."""

import concurrent.futures
import errno
import json
import shutil
import time

import pytest

from data_pipelines import buckets, dataset_cache
from data_pipelines.buckets import bucket_errors
from data_pipelines.dataset_cache import local_dataset
from data_pipelines.dataset_info import INFO_FILE


@pytest.fixture
def downloads(tmp_path, monkeypatch):
    """The URL of every download of a dataset that all URLs hold."""
    source, urls = tmp_path / "source", []
    source.mkdir()
    (source / "rows").write_text("12345")
    described = {"fingerprint": "f" * 64, "splits": {"train": {"shards": {"rows": 5}}}}
    (source / INFO_FILE).write_text(json.dumps(described))

    def download(url, names, directory, label):
        urls.append(url)
        directory.mkdir()
        time.sleep(0.3)
        for name in names:
            shutil.copy(source / name, directory / name)

    sizes = {path.name: path.stat().st_size for path in source.iterdir()}
    monkeypatch.setattr(dataset_cache, "read_object", lambda url: (source / INFO_FILE).read_bytes())
    monkeypatch.setattr(dataset_cache, "sizes_under", lambda url: sizes)
    monkeypatch.setattr(dataset_cache, "download", download)
    monkeypatch.setenv(dataset_cache.CACHE_VARIABLE, str(tmp_path / "cache"))
    return urls


def test_several_processes_copy_a_dataset_once(downloads, tmp_path, capsys):
    urls = [f"gs://b/{tmp_path.name}/{index}" for index in range(4)]
    copies = tmp_path / "cache" / "datasets"
    unfinished = copies / ("f" * 32 + ".tmp")
    unfinished.mkdir(parents=True)
    (unfinished / "half").write_text("of a killed process")
    with concurrent.futures.ThreadPoolExecutor(len(urls)) as executor:
        places = set(executor.map(local_dataset, urls))
    assert len(downloads) == 1 and places == {str(copies / ("f" * 32))}
    assert "Waiting for another process that copies" in capsys.readouterr().err
    assert [path.name for path in copies.iterdir()] == ["f" * 32]
    assert sorted(path.name for path in (copies / ("f" * 32)).iterdir()) == [INFO_FILE, "rows"]


def test_a_failed_copy_leaves_no_files(downloads, tmp_path, monkeypatch):
    def fail(url, names, directory, label):
        directory.mkdir()
        raise OSError("cut off")

    whole = dataset_cache.download
    monkeypatch.setattr(dataset_cache, "download", fail)
    url = f"gs://b/{tmp_path.name}/failing"
    with pytest.raises(OSError, match="cut off"):
        local_dataset(url)
    assert [path.suffix for path in (tmp_path / "cache" / "datasets").iterdir()] == [".lock"]
    monkeypatch.setattr(dataset_cache, "download", whole)
    assert local_dataset(url) == str(tmp_path / "cache" / "datasets" / ("f" * 32))


def test_a_cache_that_cannot_be_written_is_an_error_with_advice(downloads, tmp_path):
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "datasets").write_text("a file")
    with pytest.raises(OSError, match=r"no copy of gs://b/.* can be made there: .* Set ELECTRA_JAX_CACHE"):
        local_dataset(f"gs://b/{tmp_path.name}/refused")


def test_a_full_disk_is_not_taken_for_a_broken_network():
    with (
        pytest.raises(
            OSError, match=r"gs://b/x cannot be read: .*No space left.* Free space on this machine"
        ),
        bucket_errors("gs://b/x", "read"),
    ):
        raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("name", ["../outside", "tokenizer/../../outside", "/etc/passwd", "a//b"])
def test_objects_are_copied_into_the_directory_alone(name, tmp_path):
    with pytest.raises(ValueError, match="expected the plain name of a file"):
        buckets.download("gs://bucket/rows", ["corpus.json", name], tmp_path / "copy")
    assert not list(tmp_path.iterdir())
