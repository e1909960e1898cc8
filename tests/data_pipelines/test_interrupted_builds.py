"""Interrupted builds: resumed with the same result, and never removed without being asked."""

import json
import os
from pathlib import Path

import numpy as np
import pytest

from data_pipelines import chunks, corpus_builder, dataset_directory, shards
from data_pipelines.documents import Piece
from data_pipelines.lock_holders import HeldError, LostError
from data_pipelines.tokenizers.train import train_tokenizer
from support.small_corpus import build, make_documents, rows_of, write_data


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Sources and a tokenizer."""
    return write_data(tmp_path_factory.mktemp("corpus"))


def test_a_killed_build_resumes_with_the_same_result(data, tmp_path, monkeypatch):
    whole = build(data, tmp_path / "whole")
    written, original = [], shards.write_shard

    def dies_at_the_fourth(job):
        if len(written) == 3:
            Path(job.path + ".tmp").write_bytes(b"half a file")
            raise KeyboardInterrupt
        written.append(job.path)
        return original(job)

    monkeypatch.setattr(shards, "write_shard", dies_at_the_fourth)
    with pytest.raises(KeyboardInterrupt):
        build(data, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    again = []
    monkeypatch.setattr(shards, "write_shard", lambda job: again.append(job.path) or original(job))
    assert build(data, tmp_path / "out").fingerprint == whole.fingerprint
    assert not set(written) & set(again) and len(written) == 3
    files = lambda root: {
        path.relative_to(root): path.read_bytes() for path in root.rglob("*") if path.is_file()
    }
    assert files(tmp_path / "out") == files(tmp_path / "whole")


def test_a_build_that_failed_at_its_end_packs_nothing_again(data, tmp_path, monkeypatch):
    whole, write_shard = build(data, tmp_path / "whole"), shards.write_shard

    def disk_full(*_, **__):
        raise OSError("No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(dataset_directory.shutil, "copyfile", disk_full)
        with pytest.raises(OSError, match="No space"):
            build(data, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    again = []
    monkeypatch.setattr(shards, "write_shard", lambda job: again.append(job.path) or write_shard(job))
    assert build(data, tmp_path / "out") == whole and not again


@pytest.fixture
def interrupted(data, tmp_path, monkeypatch):
    """A source, and the directory of a build of it that is interrupted at its end."""
    source = tmp_path / "both.jsonl"
    lines = [json.dumps({"text": text, "body": text}) + "\n" for text in make_documents(200, 1)]
    source.write_text("".join(lines))
    with monkeypatch.context() as patch:
        patch.setattr(dataset_directory, "write_tfds_metadata", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            build(data, tmp_path / "out", train=[str(source)], validation=[str(source)])
    return source, tmp_path / "out"


def count_writes(monkeypatch):
    """Paths of the files that are packed from here on."""
    paths, write_shard = [], shards.write_shard
    monkeypatch.setattr(shards, "write_shard", lambda job: paths.append(job.path) or write_shard(job))
    return paths


@pytest.mark.parametrize("is_same_time", [True, False])
def test_only_files_of_changed_text_are_made_again(data, tmp_path, monkeypatch, interrupted, is_same_time):
    source, out = interrupted
    before = source.stat()
    start, end = source.read_text().split(" cat ", 1)
    source.write_text(f"{start} dog {end}")
    if is_same_time:  # and the same size
        os.utime(source, ns=(before.st_atime_ns, before.st_mtime_ns))
    again = count_writes(monkeypatch)
    info = build(data, out, train=[str(source)], validation=[str(source)])
    assert len(again) == 2  # of each split, the one that holds the word
    assert (
        info.fingerprint
        == build(data, tmp_path / "fresh", train=[str(source)], validation=[str(source)]).fingerprint
    )
    np.testing.assert_array_equal(rows_of(out), rows_of(tmp_path / "fresh"))
    assert sorted(p.name for p in out.iterdir()) == sorted(p.name for p in (tmp_path / "fresh").iterdir())


@pytest.mark.parametrize(
    "change",
    [
        {"sequence_length": 16},
        {"seed": 1},
        {"text_field": "body"},
        {"chunk_chars": 3_000},
        {"document_separator": "line"},
    ],
)
def test_an_unfinished_build_of_other_settings_is_kept(data, monkeypatch, interrupted, change):
    source, out = interrupted
    partial = Path(f"{out}.partial")
    kept = sorted(partial.iterdir())
    [key, value] = *change, *change.values()
    settings = {"sequence_length": 32, "seed": 0, "text_field": "text", "chunk_chars": 4_000}
    settings |= {"document_separator": "blank_line"}
    words = f"with other settings \\({key}: it has {settings[key]!r}, you gave {value!r}\\).*--start_over"
    with pytest.raises(FileExistsError, match=words):
        build(data, out, train=[str(source)], validation=[str(source)], **change)
    assert sorted(partial.iterdir()) == kept
    again = count_writes(monkeypatch)
    info = build(data, out, train=[str(source)], validation=[str(source)], start_over=True, **change)
    assert len(again) == sum(len(split["shards"]) for split in info.splits.values())
    assert not partial.exists()


def test_the_same_settings_with_start_over_pack_everything_again(data, monkeypatch, interrupted):
    source, out = interrupted
    again = count_writes(monkeypatch)
    info = build(data, out, train=[str(source)], validation=[str(source)], start_over=True)
    assert len(again) == sum(len(split["shards"]) for split in info.splits.values())


@pytest.fixture
def job(data, tmp_path):
    """A job whose file is finished."""
    pieces = [Piece(document, "train.jsonl") for document in make_documents(30, 1)]
    job = chunks.Job(str(data / "tokenizer"), 32, "electra", (0, 0, 0), str(tmp_path / "file"), pieces)
    shards.finish_job(job)
    return job


@pytest.mark.parametrize("change", ["sequence_length", "packing", "seed", "tokenizer", "source", "text"])
def test_a_finished_file_of_other_settings_is_made_again(job, tmp_path, monkeypatch, change):
    """A worker of a killed build may have finished it after the next build had begun."""
    train_tokenizer(make_documents(300, 3), str(tmp_path / "other"), vocab_size=70)
    first, *rest = job.pieces
    changes = {
        "sequence_length": {"sequence_length": 16},
        "packing": {"packing": "contiguous"},
        "seed": {"seed": (1, 0, 0)},
        "tokenizer": {"tokenizer": str(tmp_path / "other")},
        "source": {"pieces": [first._replace(source="other.jsonl"), *rest]},
        "text": {"pieces": [first._replace(text=first.text.replace("a", "o")), *rest]},
    }
    other = job._replace(**changes[change])
    again = count_writes(monkeypatch)
    shards.finish_job(job)
    assert not again
    _, counts = shards.finish_job(other)
    assert again == [job.path]
    _, fresh = shards.finish_job(other._replace(path=str(tmp_path / "fresh")))
    keys = "rows", "by_source", "sha256"
    assert [counts[key] for key in keys] == [fresh[key] for key in keys]
    assert shards.finish_job(other) == (job.path, counts) and len(again) == 2


def test_a_finished_file_of_an_earlier_version_is_made_again(job, monkeypatch):
    path = Path(job.path + shards.COUNTS_SUFFIX)
    counts = json.loads(path.read_text())
    path.write_text(json.dumps({key: value for key, value in counts.items() if key != "input_sha256"}))
    again = count_writes(monkeypatch)
    assert shards.finish_job(job) == (job.path, counts) and again == [job.path]


@pytest.mark.parametrize("settings", [None, "{}", '{"sources": []}', "// of an editor"])
def test_a_directory_that_no_build_made_is_kept(data, tmp_path, settings):
    partial = tmp_path / "out.partial"
    partial.mkdir()
    (partial / "mine.txt").write_text("mine")
    if settings is not None:
        (partial / "settings.json").write_text(settings)
    for start_over in (False, True):
        with pytest.raises(FileExistsError, match=r"out\.partial exists and was not made by this command"):
            build(data, tmp_path / "out", start_over=start_over)
    assert (partial / "mine.txt").read_text() == "mine"


def test_a_build_that_finished_no_file_can_be_corrected(data, tmp_path):
    with pytest.raises(ValueError, match="no field 'body', found 'text'"):
        build(data, tmp_path / "out", text_field="body")
    assert (tmp_path / "out.partial").exists()
    build(data, tmp_path / "out")


def test_a_build_killed_before_its_first_file_starts(data, tmp_path):
    """Its directory is empty, or holds half of the settings."""
    (tmp_path / "out.partial").mkdir()
    (tmp_path / "out.partial" / ".settings.json.0.tmp").write_text("{")
    build(data, tmp_path / "out")
    assert not (tmp_path / "out.partial").exists()


@pytest.mark.parametrize("start_over", [False, True])
def test_what_no_build_made_is_kept_beside_one(data, interrupted, start_over):
    source, out = interrupted
    partial = Path(f"{out}.partial")
    (partial / "notes.txt").write_text("mine")
    (partial / "train-notes").write_text("mine")
    (partial / "folder").mkdir()
    (partial / "folder" / "a.counts.json").write_text("mine")
    fresh = build(data, out.parent / "fresh", train=[str(source)], validation=[str(source)])
    assert build(data, out, train=[str(source)], validation=[str(source)], start_over=start_over) == fresh
    names = {str(path.relative_to(out)) for path in out.rglob("*")}
    names -= {str(path.relative_to(out.parent / "fresh")) for path in (out.parent / "fresh").rglob("*")}
    assert names == {"notes.txt", "train-notes", "folder", "folder/a.counts.json"}


def test_a_second_build_refuses_while_the_first_works(data, tmp_path, monkeypatch):
    write_shard, refused = shards.write_shard, []

    def starts_another(job):
        if not refused:
            refused.append(None)  # the second must not do so
            before = sorted(path.name for path in Path(job.path).parent.iterdir())
            with pytest.raises(HeldError, match="another process writes this directory"):
                build(data, tmp_path / "out", start_over=True)
            assert sorted(path.name for path in Path(job.path).parent.iterdir()) == before
        return write_shard(job)

    whole = build(data, tmp_path / "whole")
    monkeypatch.setattr(shards, "write_shard", starts_another)
    assert build(data, tmp_path / "out") == whole and refused
    assert not list(tmp_path.glob(".*"))


def test_files_are_readable_as_the_umask_says(data, tmp_path):
    for path in (data / "tokenizer").iterdir():
        path.chmod(0o600)
    before = os.umask(0o027)
    try:
        (data / "tokenizer").chmod(0o700)
        build(data, tmp_path / "out")
        modes = {path.is_dir(): path.stat().st_mode & 0o777 for path in [*(tmp_path / "out").rglob("*")]}
        assert modes == {True: 0o750, False: 0o640}
    finally:
        os.umask(before)


def test_a_lock_that_was_lost_just_before_the_end_finishes_nothing(data, tmp_path, monkeypatch):
    """Another host took the lock over after the last file was packed."""
    finish = corpus_builder.finish_dataset

    def lose_before(*arguments):
        for path in (tmp_path / ".out.lock", tmp_path / ".out.lock.json"):
            path.unlink()
        return finish(*arguments)

    monkeypatch.setattr(corpus_builder, "finish_dataset", lose_before)
    with pytest.raises(LostError, match=r"\.out\.lock was removed or overwritten"):
        build(data, tmp_path / "out")
    assert not (tmp_path / "out").exists() and not list((tmp_path / "out.partial").glob("corpus.json"))
