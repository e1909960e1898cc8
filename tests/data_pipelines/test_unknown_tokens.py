"""The builder counts [UNK] and warns of a tokenizer that does not know the text."""

import json
import sys

import numpy as np
import pytest

from data_pipelines.corpus import main
from data_pipelines.dataset_info import load_dataset_info
from data_pipelines.tokenizers.directory import SpecialIds
from data_pipelines.tokenizers.report import unknown_warning
from support.small_corpus import build, flags, write, write_data


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Sources and a tokenizer."""
    return write_data(tmp_path_factory.mktemp("corpus"))


def test_unknown_tokens_are_counted_by_split_and_source(data, tmp_path, monkeypatch, capsys):
    known, unknown = write(tmp_path / "known.jsonl", ["the cat"] * 9), write(tmp_path / "no.jsonl", ["日本"])
    main_of = ["corpus", "--train", known, unknown, *flags(data)[2:], "--validation", known]
    for _ in range(2):  # the second time it exists
        monkeypatch.setattr(sys, "argv", [*main_of, "--out", str(tmp_path / "out")])
        main()
        out, err = capsys.readouterr()
        assert "0.00% of the text dropped, 5.00% [UNK]" in out and "0.00% [UNK]" in out
        assert f"50.0% of the 2 tokens of {unknown}\n  5.0% of the 20 tokens of split 'train'" in err
        assert known not in err and "validation" not in err
    info = load_dataset_info(str(tmp_path / "out"))
    counts = lambda *values: dict(zip(("documents", "text_tokens", "unknown_tokens"), values, strict=True))
    assert info.splits["train"]["by_source"] == {known: counts(9, 18, 0), unknown: counts(1, 2, 1)}
    assert info.splits["train"]["unknown_tokens"] == 1


def test_a_dataset_of_an_earlier_version_has_no_count_of_unknown_tokens(data, tmp_path):
    build(data, tmp_path / "out")
    path = tmp_path / "out" / "corpus.json"
    entries = json.loads(path.read_text())
    for split in entries["splits"].values():
        del split["unknown_tokens"], split["by_source"]
    path.write_text(json.dumps(entries))
    info = load_dataset_info(str(tmp_path / "out"))
    assert "[UNK]" not in "".join(info.split_lines()) and info.unknown_lines() == []


def test_rows_of_a_task_with_unknown_tokens():
    special = SpecialIds(pad=0, cls=1, sep=2, unk=3, mask=4)
    rows = lambda unknown: [
        np.array([1, 3, *[9] * 98, 2]),
        np.array([1, *[3] * unknown, *[9] * 100, 2, 0, 0]),
    ]
    assert unknown_warning(rows(0), special) == unknown_warning([], special) == ""
    assert unknown_warning(rows(100), special).startswith("WARNING: 33.8% of 299 tokens are [UNK]")
