"""Flags that are paths: what is refused before a command does anything, and what passes."""

import os

import pytest

from data_pipelines.path_flags import DIRECTORY, FILE, NAME, NEW_DIRECTORY, NEW_FILE, check_paths


@pytest.fixture
def places(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("x")
    (tmp_path / "link").symlink_to("folder")
    (tmp_path / "loose").symlink_to("nowhere")
    (tmp_path / "loop").symlink_to("loop")
    return tmp_path


@pytest.mark.parametrize(
    ("kind", "path", "message"),
    [
        (NEW_DIRECTORY, "file", r"got 'file', a file, expected a directory\. Give another path\.$"),
        (NEW_DIRECTORY, "file/x/y", r"got 'file/x/y', but '.*/file' is a file, expected a directory\."),
        (NEW_DIRECTORY, "loose", r"got 'loose', a link that leads nowhere"),
        (NEW_DIRECTORY, "loose/x", r"got 'loose/x', but '.*/loose' leads nowhere, expected a directory"),
        (NEW_DIRECTORY, "loop", r"got 'loop', which cannot be looked up: Too many levels"),
        (NEW_DIRECTORY, "n" * 300, r"got 'n{80}'…, which cannot be looked up: File name too long"),
        (NEW_DIRECTORY, "x/" + "n" * 300, "with a name of more than 255 bytes"),
        (NEW_DIRECTORY, "a\0b", "which cannot be looked up: .*null byte"),
        (DIRECTORY, "file", "a file, expected a directory"),
        (DIRECTORY, "file/x", "is a file, expected a directory"),
        (DIRECTORY, ["folder", "file"], "got 'file', a file, expected a directory"),
        (NEW_FILE, "folder", r"got 'folder', a directory, expected a file\."),
        (NEW_FILE, "link", "a directory, expected a file"),
        (NEW_FILE, "file/x", "is a file, expected a directory"),
        (FILE, "folder", "a directory, expected a file"),
    ],
)
def test_what_is_refused(kind, path, message, places):
    with pytest.raises(ValueError, match=rf"^--out: .*{message}"):
        check_paths({"out": path}, {"out": kind})
    assert sorted(os.listdir(places)) == ["file", "folder", "link", "loop", "loose"]


@pytest.mark.parametrize("path", ["file", "new", "new/a/b"])
def test_a_file_where_this_user_may_not_write(path, places, monkeypatch):
    """Tests may run as root, who may write everywhere."""
    monkeypatch.setattr(os, "access", lambda place, mode: str(place) != str(places))
    with pytest.raises(ValueError, match=rf"^--out: got '{path}', but this user may not write to '{places}'"):
        check_paths({"out": path}, {"out": NEW_FILE})
    check_paths({"out": f"folder/{path}"}, {"out": NEW_FILE})


@pytest.mark.parametrize(
    ("kind", "paths"),
    [
        (
            NEW_DIRECTORY,
            ["folder", "link", "new", "new/a/b", "a [1] *?", "100%#{x}", "a:b", "new\nline", "./~"],
        ),
        (NEW_DIRECTORY, ["folder/", "folder/../x/./y", "gs://b/x", os.fsdecode(b"caf\xe9"), None, ""]),
        (DIRECTORY, ["folder", "missing", "s3://b/x"]),
        (FILE, ["file", "missing", "-", "/dev/null"]),
        (NEW_FILE, ["file", "new", "new/file", "/dev/stdout"]),
        (NAME, ["file", "folder", "tfds:x@y", "*.txt", "a:3", "n" * 300]),
    ],
)
def test_what_passes(kind, paths, places):
    for path in paths:
        check_paths({"out": path}, {"out": kind}, takes_urls=("out",))


@pytest.mark.parametrize(
    ("words", "flag"),
    [
        (["--out="], "--out"),
        (["--out", ""], "--out"),
        (["--out=  "], "--out"),
        (["-out="], "--out"),
        (["--train", "a", ""], "--train"),
        (["--from", ""], "--from"),
        (["verify", ""], "DIR"),
    ],
)
def test_an_empty_path_is_refused(words, flag):
    paths = {"out": NEW_DIRECTORY, "train": NAME, "source": NAME, "directory": DIRECTORY}
    with pytest.raises(ValueError, match=rf"^{flag}: got an empty path, expected a"):
        check_paths({}, paths, words)


def test_other_flags_may_be_empty():
    check_paths(
        {}, {"out": NEW_DIRECTORY}, ["--text_column=", "--pair_column", "", "--demo", "", "--out", "x"]
    )


def test_all_that_is_wrong_comes_together(places):
    values, paths = (
        {"out": "file", "json": "folder", "data": "az://b/x"},
        {"out": NEW_DIRECTORY, "json": NEW_FILE},
    )
    with pytest.raises(
        ValueError, match=r"^4 things are wrong:\n1\. --data: .*\n2\. --in.*\n3\. --out.*\n4\. --js"
    ):
        check_paths(values, paths | {"input": FILE}, ["--input="])
