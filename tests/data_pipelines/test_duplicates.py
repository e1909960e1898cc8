"""Documents that occur again are left out and counted, in bounded memory."""

import numpy as np
import pytest

from data_pipelines import corpus, duplicates
from data_pipelines.documents import ReadReport, read_pieces
from data_pipelines.duplicates import SeenTexts, without_duplicates
from support.small_corpus import build, flags, make_documents, rows_of, write, write_data


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Sources and a tokenizer."""
    return write_data(tmp_path_factory.mktemp("corpus"))


def test_a_build_without_duplicates_has_the_rows_of_the_text_without_them(
    data, tmp_path, monkeypatch, capsys
):
    documents, held_out = make_documents(100, 1), make_documents(10, 2)
    repeated = write(tmp_path / "repeated.jsonl", [*documents, *documents[:30], *documents[20:50]])
    both = write(tmp_path / "both.jsonl", [*held_out, *documents[:7], held_out[0]])
    once, validation = write(tmp_path / "once.jsonl", documents), write(tmp_path / "v.jsonl", held_out)
    expected = build(
        data, tmp_path / "expected", train=[once], validation=[validation], chunk_chars=8_000_000
    )
    words = ["--train", repeated, "--validation", both, "--out", str(tmp_path / "out"), "--deduplicate"]
    monkeypatch.setattr("sys.argv", ["corpus", *flags(data), *words])
    corpus.main()
    out = capsys.readouterr().out
    assert "68 documents left out (--deduplicate), whose text occurred before" in out
    for split in ("train", "validation"):
        assert f"{expected.splits[split]['documents']} documents" in " ".join(out.split())
        np.testing.assert_array_equal(rows_of(tmp_path / "out", split), rows_of(tmp_path / "expected", split))


def test_the_setting_is_recorded_and_kept_apart(data, tmp_path):
    train = [write(tmp_path / "a.jsonl", make_documents(50, 1) * 2)]
    with_them, without = (
        build(data, tmp_path / str(deduplicate), train=train, deduplicate=deduplicate, num_processes=2)
        for deduplicate in (False, True)
    )
    assert [info.splits["train"]["documents"] for info in (with_them, without)] == [100, 50]
    assert "deduplicate" not in with_them.sources and without.sources["deduplicate"] is True
    with pytest.raises(FileExistsError, match="holds a dataset with different sources"):
        build(data, tmp_path / "True", train=train)
    fraction = build(
        data, tmp_path / "f", train=train, validation=(), validation_fraction=0.3, deduplicate=True
    )
    assert sum(split["documents"] for split in fraction.splits.values()) == 50


def test_a_runner_is_refused(data, tmp_path, monkeypatch):
    words = ["--validation_fraction=0.1", "--out", str(tmp_path / "out"), "--deduplicate", "--runner=X"]
    monkeypatch.setattr("sys.argv", ["corpus", *flags(data), *words])
    with pytest.raises(SystemExit, match=r"^error: --deduplicate: got it with --runner X"):
        corpus.main()


def test_memory_is_bounded_and_nothing_new_is_left_out(monkeypatch):
    monkeypatch.setattr(duplicates, "NUM_SETS", 2)
    seen, texts = SeenTexts(), [f"text {number}" for number in range(1000)]
    assert all(map(seen.add, texts))
    remembered = [text for text in texts if not seen.add(text)]
    assert len(remembered) <= 2 * duplicates.NUM_WAYS and not seen.add(texts[-1])
    monkeypatch.undo()
    seen = SeenTexts()
    assert all(map(seen.add, texts)) and not any(map(seen.add, texts))


def test_a_long_document_is_left_out_with_all_of_its_pieces(tmp_path):
    long = write(tmp_path / "a.jsonl", ["x " * 20 + "end", "short", "x " * 20 + "end", "short too"])
    report = ReadReport()
    pieces = read_pieces([long], max_document_chars=10, report=report)
    texts = [piece.text for piece in without_duplicates(pieces, SeenTexts(), report)]
    assert len(texts) == 7 and texts[-2:] == ["short", "short too"]
    assert (report.documents, report.duplicates) == (7, 1) and report.characters == sum(map(len, texts))
