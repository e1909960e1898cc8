"""A dry run of the corpus builder shows the rows that the build makes, and writes nothing."""

import json
import os
import re

import numpy as np
import pyarrow
import pytest
from pyarrow import parquet

from data_pipelines import chunks, corpus, document_bytes, preview
from data_pipelines.corpus_settings import CorpusSettings
from data_pipelines.documents import read_pieces
from data_pipelines.tokenizers.load import load_tokenizer
from data_pipelines.tokenizers.train import train_tokenizer
from support.small_corpus import build, flags, make_documents, rows_of, write, write_data


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Sources and a tokenizer."""
    return write_data(tmp_path_factory.mktemp("corpus"))


def dry_run(monkeypatch, capsys, *words):
    monkeypatch.setattr("sys.argv", ["corpus", "--dry_run", *map(str, words)])
    corpus.main()
    return capsys.readouterr().out


@pytest.mark.parametrize("packing", ["documents", "electra", "contiguous"])
def test_it_shows_rows_of_the_build(data, tmp_path, monkeypatch, capsys, packing):
    validation = ["--validation", data / "validation.jsonl", "--packing", packing, "--out", tmp_path / "out"]
    out = dry_run(monkeypatch, capsys, *flags(data), *validation)
    assert not list(tmp_path.iterdir())
    info = build(data, tmp_path / "built", packing=packing, chunk_chars=8_000_000)
    rows, tokenizer = rows_of(tmp_path / "built"), load_tokenizer(str(data / "tokenizer"))
    train = info.splits["train"]
    assert f"rows         {train['rows']:,} of 32 ids" in out
    assert f"about 200 documents in --train; rows: about {train['rows']:,} of train, " in out
    expected_dropped = train["dropped_text_tokens"] / train["text_tokens"]
    assert f"{expected_dropped:.2%} of the text dropped" in out
    shown = {int(number): text for number, text in re.findall(r"^row (\d+)\n(.*?)\n\n", out, re.M | re.S)}
    assert sorted(shown) == [1, train["rows"] // 3 + 1, train["rows"] * 2 // 3 + 1]
    name = {"documents": "document", "electra": "segment", "contiguous": "part"}[packing]
    for number, text in shown.items():
        row = rows[number - 1]
        words = " ".join(text.split())
        texts, masked = words.partition(" masked ")[::2]
        parts = [tokenizer.decode(ids) for ids in split_at_special(row, tokenizer.special)]
        assert texts == " ".join(f"{name} {at} {part}" for at, part in enumerate(parts, 1))
        is_text = ~np.isin(row, (tokenizer.special.pad, tokenizer.special.cls, tokenizer.special.sep))
        pieces = masked.partition(" padding ")[0].split(" ")
        assert pieces.count("[MASK]") == round(0.15 * is_text.sum())
        spelled = [tokenizer.vocabulary()[number] for number in row if number != tokenizer.special.pad]
        assert all(piece in ("[MASK]", true) for piece, true in zip(pieces, spelled, strict=True))


def split_at_special(row, special):
    parts, current = [], []
    for number in [*row.tolist(), special.sep]:
        if number in (special.cls, special.sep, special.pad):
            parts += [current] if current else []
            current = []
        else:
            current.append(number)
    return parts


def test_of_a_large_corpus_it_reads_a_part(data, tmp_path, monkeypatch):
    documents = make_documents(5_000, 3) * 2
    source = write(tmp_path / "large.jsonl", documents)
    monkeypatch.setattr(preview, "SAMPLE_CHARS", 20_000)
    monkeypatch.setattr(preview, "MEASURED_BYTES", 256 << 10)
    for name in ("BLOCK_BYTES", "HEAD_BYTES"):
        monkeypatch.setattr(document_bytes, name, 8 << 10)
    assert os.path.getsize(source) > 3 * preview.MEASURED_BYTES
    settings = CorpusSettings(
        train=(source,),
        validation_fraction=0.03,  # less than SAMPLE_CHARS of what is read
        tokenizer=str(data / "tokenizer"),
        sequence_length=32,
        packing="documents",
    )
    lines = preview.preview_lines(settings, 2)
    sample = int(re.search(r"the first ([\d,]+) documents", lines[1])[1].replace(",", ""))
    assert sample < 500
    whole = re.search(
        r"about ([\d,]+) documents in --train; rows: about ([\d,]+) of train, ([\d,]+) of", lines[3]
    )
    got, train, validation = (int(number.replace(",", "")) for number in whole.groups())
    assert got == pytest.approx(len(documents), rel=0.15)
    info = build(data, tmp_path / "out", train=[source], validation=(), validation_fraction=0.03)
    assert train == pytest.approx(info.splits["train"]["rows"], rel=0.15)
    assert validation == pytest.approx(info.splits["validation"]["rows"], rel=0.3)


@pytest.mark.parametrize(
    ("choice", "eighths"),
    [
        ({"keep_fraction": 1e-4}, 2),
        ({"min_score": 1.0}, 1),
        ({"min_score": 2_500.0}, 5),
        ({"min_score": 8_000.0}, 13),
    ],
    ids=["share", "bound", "bound of later documents", "bound of the last documents alone"],
)
def test_of_chosen_documents_it_reads_a_part(data, tmp_path, monkeypatch, choice, eighths):
    """However few are chosen: their numbers and then they are read, or a larger part if it has none."""
    source, documents = tmp_path / "large.jsonl", make_documents(9_000, 3)
    records = [{"text": text, "quality": at} for at, text in enumerate(documents)]
    source.write_text("".join(json.dumps(record) + "\n" for record in records))
    read, eighth = [], sum(map(len, documents)) / 8
    monkeypatch.setattr(preview, "MEASURED_BYTES", source.stat().st_size // 8)
    monkeypatch.setattr(preview, "SAMPLE_CHARS", 20_000)
    for name in ("BLOCK_BYTES", "HEAD_BYTES"):
        monkeypatch.setattr(document_bytes, name, 8 << 10)
    pieces = lambda *words, **options: map(
        lambda one: read.append(len(one.text)) or one, read_pieces(*words, **options)
    )
    monkeypatch.setattr(chunks, "read_pieces", pieces)
    settings = CorpusSettings(
        train=(str(source),),
        validation=(str(data / "validation.jsonl"),),
        tokenizer=str(data / "tokenizer"),
        sequence_length=32,
        packing="documents",
        score_field="quality",
        **choice,
    )
    lines = preview.preview_lines(settings, 1)
    assert "documents of train" in lines[1]
    assert eighths - 0.5 < sum(read) / eighth < eighths + 0.5


@pytest.mark.parametrize("choice", [{"keep_fraction": 0.5}, {"copies": ((0.0, 1.0), (1.0, 2.0))}], ids=str)
def test_documents_with_scores_may_follow_what_is_read_first(data, tmp_path, monkeypatch, choice):
    source = tmp_path / "late.jsonl"
    scores = [None] * 300 + [0.5] * 600
    records = [
        {"text": text, "quality": score} for text, score in zip(make_documents(900, 3), scores, strict=True)
    ]
    source.write_text("".join(json.dumps(record) + "\n" for record in records))
    monkeypatch.setattr(preview, "MEASURED_BYTES", 4 << 10)
    for name in ("BLOCK_BYTES", "HEAD_BYTES"):
        monkeypatch.setattr(document_bytes, name, 1 << 10)
    settings = CorpusSettings(
        train=(str(source),),
        validation=(str(data / "validation.jsonl"),),
        tokenizer=str(data / "tokenizer"),
        sequence_length=32,
        packing="documents",
        score_field="quality",
        **choice,
    )
    assert "documents of train" in preview.preview_lines(settings, 1)[1]


def test_it_reads_a_part_of_a_row_group_of_long_documents(data, tmp_path, monkeypatch):
    """Parquet is read many rows at a time: the bytes of those that were not looked at do not count."""
    documents = ["the cat sat on the mat " * 50 + str(number) for number in range(100)]
    parquet.write_table(pyarrow.table({"text": documents}), tmp_path / "a.parquet")
    monkeypatch.setattr(preview, "SAMPLE_CHARS", 5_000)
    monkeypatch.setattr(preview, "MEASURED_BYTES", 20_000)
    settings = CorpusSettings(
        train=(str(tmp_path / "a.parquet"),),
        validation_fraction=0.1,
        tokenizer=str(data / "tokenizer"),
        sequence_length=32,
        packing="documents",
    )
    [whole] = [line for line in preview.preview_lines(settings, 2) if line.startswith("whole")]
    assert int(re.search(r"about (\d+) documents", whole)[1]) == pytest.approx(100, abs=3)


def test_it_finds_what_would_stop_the_build(data, tmp_path, monkeypatch, capsys):
    words = [*flags(data), "--out", tmp_path / "out"]
    (tmp_path / "one.txt").write_text("a cat\nsat on the mat\n")
    out = dry_run(
        monkeypatch, capsys, *words, "--train", tmp_path / "one.txt", "--validation_fraction", "0.001"
    )
    assert "WARNING: none of these documents is held out by --validation_fraction 0.001" in out
    out = dry_run(monkeypatch, capsys, *words, "--validation", tmp_path / "one.txt")
    assert re.search(r"0 of validation; time: (less than a second|about .* seconds) with 1 process\n", out)
    assert "WARNING: the held-out text fills hardly a row" in out
    (tmp_path / "empty.txt").write_text("\n\n")
    invisible, visible = tmp_path / "invisible.txt", str(tmp_path / "visible")
    invisible.write_text("\u200b\n")  # a character that this normalisation removes
    train_tokenizer(make_documents(300, 0), visible, vocab_size=80, normalization="nfkc_visible")
    build(data, tmp_path / "built")
    for changes, message in (
        (["--train", tmp_path / "none.txt"], "none.txt: does not exist"),
        (["--train", tmp_path / "empty.txt"], "split 'train': got no text"),
        (["--train", invisible, "--tokenizer", visible], "split 'train': got no text"),
        (["--out", tmp_path / "built"], "built holds a dataset with different sources"),
        (["--tokenizer", tmp_path], "no tokenizer here"),
    ):
        with pytest.raises(SystemExit, match=f"^error: .*{message}"):
            dry_run(monkeypatch, capsys, *words, "--validation", data / "validation.jsonl", *changes)
    with pytest.raises(SystemExit):
        dry_run(monkeypatch, capsys, *words, "--num_processes=0")
    assert "--num_processes: got '0', expected a whole number of 1 or more" in capsys.readouterr().err
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["built", "empty.txt", "invisible.txt", "one.txt", "visible"]
