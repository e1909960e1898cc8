"""Documents that occur again are left out and counted, in bounded memory."""

import hashlib

import numpy as np
import pytest

from data_pipelines import corpus, document_digests, duplicates
from data_pipelines.chunks import make_groups, read_jobs
from data_pipelines.corpus_settings import CorpusSettings
from data_pipelines.document_digests import DocumentDigest
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
    seen, texts = SeenTexts(), [hashlib.sha256(bytes([n % 251, n // 251])).digest() for n in range(1000)]
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


@pytest.mark.parametrize("limit", [8, 20, 1000])
def test_long_documents_with_the_same_beginning_are_different(tmp_path, limit):
    licence = "Read the licence first. "
    more = f"{licence}One more sentence."
    documents = [licence, f"  {more}", f"{licence}Another one.", more]
    report = ReadReport()
    pieces = read_pieces([write(tmp_path / "a.jsonl", documents)], max_document_chars=limit, report=report)
    kept = list(without_duplicates(pieces, SeenTexts(), report))
    assert report.duplicates == 1 and sum(piece.is_first for piece in kept) == 3
    text = " ".join(piece.text for piece in kept)
    assert "more" in text and "Another" in text and len({piece.digest for piece in kept}) == 3


@pytest.mark.parametrize("name", ["a.jsonl", "a.txt"])
def test_the_limit_of_documents_does_not_decide_what_is_held_out(data, tmp_path, name):
    documents = [f"Text {number} is this. It has two sentences." for number in range(300)]
    source = tmp_path / name
    if name == "a.txt":
        source.write_text("\n\n".join(documents))
    else:
        write(source, documents)
    held_out = []
    for limit in (20, 30, 1000):
        settings = CorpusSettings(
            train=[str(source)],
            tokenizer="t",
            sequence_length=16,
            packing="documents",
            validation_fraction=0.2,
            max_document_chars=limit,
        )
        [group] = make_groups("train", settings.train, settings.chunk_chars)
        jobs = read_jobs(group, settings, tmp_path, ReadReport())
        pieces = [piece for job in jobs if "/validation-" in job.path for piece in job.pieces]
        held_out.append({piece.text.split()[1] for piece in pieces if piece.is_first})
    assert held_out[0] == held_out[1] == held_out[2] and 30 < len(held_out[0]) < 90


def test_a_digest_is_of_the_text_without_the_space_at_its_ends(monkeypatch):
    texts = [" \n a\u2003b \n c\n\n", "abc", "\ud800 x ", "   ", ""]
    for text in texts:
        expected = hashlib.sha256(text.strip().encode("utf-8", "surrogatepass")).digest()
        for size in (1, 2, 3, 100):
            one = DocumentDigest()
            fragments = [text[at : at + size] for at in range(0, len(text), size)]
            assert list(one.reading(iter(fragments))) == fragments
            assert one.digest() == expected and not one.is_full
    monkeypatch.setattr(document_digests, "MAX_CHARS", 4)
    for size in (1, 3, 100):
        one = DocumentDigest()
        list(one.reading(iter(["abcdefgh"[at : at + size] for at in range(0, 8, size)])))
        assert one.is_full and one.digest() == hashlib.sha256(b"abcd").digest()


def test_a_dataset_that_exists_is_said_not_to_be_built_again(data, tmp_path, monkeypatch, capsys):
    source = write(tmp_path / "a.jsonl", make_documents(60, 1))
    words = ["--train", source, "--validation_fraction=0.1", "--out", str(tmp_path / "out")]
    monkeypatch.setattr("sys.argv", ["corpus", *flags(data), *words])
    corpus.main()
    assert "nothing was read" not in capsys.readouterr().out
    corpus.main()
    assert "out holds this dataset already; nothing was read." in capsys.readouterr().out
