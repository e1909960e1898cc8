"""Copies of documents by their scores: their mean is the curve, and a build has exactly those."""

import hashlib
import itertools
import json
import math

import numpy as np
import pytest

from data_pipelines import shards
from data_pipelines.chunks import make_groups, make_selector, read_jobs
from data_pipelines.copies import copies_of, spread
from data_pipelines.corpus_settings import CorpusSettings
from data_pipelines.documents import Piece, ReadReport
from data_pipelines.selection import Choice, Selector
from support.small_corpus import build, make_documents, write, write_data

FIELD = "quality"
CURVE = ((-1.0, 0.0), (0.0, 1.0), (1.0, 3.5))


def by_hand(score, text, curve=CURVE, seed=0):
    """The number of copies: the curve's value, rounded up where the hash of seed and text says so."""
    wanted = np.interp(score, [point[0] for point in curve], [point[1] for point in curve])
    number = int.from_bytes(hashlib.sha256(f"{seed}\n{text}".encode()).digest()[:8], "big")
    return math.floor(wanted) + (number / 2**64 < wanted % 1)


@pytest.fixture(scope="module")
def records():
    """150 documents with scores, of which every tenth has none."""
    rng = np.random.default_rng(0)
    scores = rng.uniform(-1.5, 1.5, 150)
    documents = enumerate(zip(make_documents(150, 0), scores, strict=True))
    return [{"text": text, FIELD: None if at % 10 == 3 else score} for at, (text, score) in documents]


@pytest.fixture(scope="module")
def data(tmp_path_factory, records):
    """Scored documents in two files, held-out text and a tokenizer."""
    root = write_data(tmp_path_factory.mktemp("corpus"))
    for number, part in enumerate((records[:75], records[75:])):
        (root / f"{number}.jsonl").write_text("".join(json.dumps(record) + "\n" for record in part))
    return root


def sources_of(data):
    return [str(data / f"{number}.jsonl") for number in (0, 1)]


def settings_of(data, **changes):
    common = {"tokenizer": "none", "sequence_length": 32, "packing": "documents", "score_field": FIELD}
    common |= {"chunk_chars": 100, "copies": CURVE, "validation": [str(data / "validation.jsonl")]}
    return CorpusSettings(train=sources_of(data), **common | changes)


def read(settings, tmp_path):
    """The texts of each group in order, chunk by chunk, and a report of each group, as workers of a cluster
    read them: without knowing of the others."""
    texts, reports = [], []
    groups = make_groups("train", settings.train, settings.chunk_chars)
    selector = make_selector(groups, settings) if settings.choice.needs_limit else None
    for group in groups:
        reports.append(ReadReport())
        jobs = list(read_jobs(group, settings, tmp_path, reports[-1], selector=selector))
        texts.append([[piece.text for piece in job.pieces] for job in jobs if "/train-" in job.path])
    return texts, reports


@pytest.mark.parametrize("score", [-2.0, -0.7, 0.0, 0.13, 0.5, 9.0])
def test_the_mean_number_of_copies_is_the_value_of_the_curve(score):
    texts = [f"document {number}" for number in range(4000)]
    counts = np.array([copies_of(score, text, CURVE, seed=1) for text in texts])
    wanted = np.interp(score, *np.transpose(CURVE))
    assert set(counts) <= {math.floor(wanted), math.ceil(wanted)}
    deviation = math.sqrt((wanted % 1) * (1 - wanted % 1) / len(texts))
    assert abs(counts.mean() - wanted) <= 4 * deviation
    assert counts.tolist() == [by_hand(score, text, seed=1) for text in texts]


def test_chances_depend_on_seed_and_text_and_not_on_the_choice_of_held_out_text():
    texts = [f"document {number}" for number in range(4000)]
    first, second = (np.array([copies_of(0.2, text, CURVE, seed) for text in texts]) for seed in (0, 1))
    assert abs(np.corrcoef(first, second)[0, 1]) < 4 / math.sqrt(len(texts))
    plain = [hashlib.sha256(text.encode()).digest()[:8] for text in texts]  # as for --validation_fraction
    chance = [int.from_bytes(digest, "big") for digest in plain]
    assert abs(np.corrcoef(first, chance)[0, 1]) < 4 / math.sqrt(len(texts))


def test_copies_stand_apart_and_the_others_in_order():
    rng = np.random.default_rng(0)
    for size in (1, 2, 7, 40):
        pieces = [Piece(str(at), "a", copies=int(rng.integers(1, 6))) for at in range(size)]
        found = [piece.text for piece in spread(pieces)]
        assert sorted(found) == sorted(piece.text for piece in pieces for _ in range(piece.copies))
        for piece in pieces:
            places = [at for at, text in enumerate(found) if text == piece.text]
            gaps = [high - low for low, high in itertools.pairwise(places)]
            # Others may be copied in between, so there are at least as many as in the text itself.
            assert all(gap >= size // piece.copies for gap in gaps)
    once = [Piece(str(at), "a") for at in range(5)]
    assert spread(once) == once


def test_every_document_is_packed_as_often_as_its_score_says(data, records, tmp_path):
    texts, reports = read(settings_of(data), tmp_path)
    found = [text for group in texts for chunk in group for text in chunk]
    counts = {record["text"]: 0 for record in records}
    for record in records:
        if record[FIELD] is not None:
            counts[record["text"]] = by_hand(record[FIELD], record["text"])
    assert sorted(found) == sorted(text for text, count in counts.items() for _ in range(count))
    assert set(counts.values()) == {0, 1, 2, 3, 4}
    total = lambda name: sum(getattr(report, name) for report in reports)
    assert total("documents") == len(found) and total("characters") == sum(map(len, found))
    assert total("low_scores") == sum(not count for count in counts.values())
    assert total("copies") == sum(max(0, count - 1) for count in counts.values())
    assert total("copied_characters") == sum(len(text) * max(0, count - 1) for text, count in counts.items())
    every = sum(len(record["text"]) for record in records)
    assert total("characters") - total("copied_characters") + total("low_score_characters") == every
    assert f"{reports[0].copies} copies of training documents added" in "\n".join(reports[0].lines("error"))
    # A chunk has its characters with copies: one document more would be too many.
    for chunk in (chunk for group in texts for chunk in group[:-1]):
        assert sum(map(len, chunk)) - max(map(len, chunk)) * 4 < 100


@pytest.mark.parametrize("choice", [{"min_score": 0.25}, {"keep_fraction": 0.4}], ids=str)
def test_copies_are_of_what_bounds_and_shares_keep(data, tmp_path, choice):
    every, _ = read(settings_of(data, copies=(), **choice), tmp_path)
    copied, _ = read(settings_of(data, **choice), tmp_path)
    once, _ = read(settings_of(data, copies=((0.0, 1.0), (1.0, 1.0)), **choice), tmp_path)
    assert once == every
    flat = lambda texts: [text for group in texts for chunk in group for text in chunk]
    assert set(flat(copied)) == set(flat(every)) and len(flat(copied)) > 1.3 * len(flat(every))


def test_pieces_of_a_long_document_have_as_many_copies(data, tmp_path):
    whole, _ = read(settings_of(data, chunk_chars=10**6), tmp_path)
    cut, _ = read(settings_of(data, chunk_chars=10**6, max_document_chars=60), tmp_path)
    words = lambda texts: sorted(" ".join(text for group in texts for c in group for text in c).split())
    # The first piece decides, by its own text, so other documents are rounded up.
    assert len(words(cut)) == pytest.approx(len(words(whole)), rel=0.15)
    [pieces, *_] = cut
    starts = [text for text in pieces[0] if text.startswith("number 0 ")]
    assert len(starts) < len(pieces[0]) / 2
    divided = [
        ("train", Piece(f"{document} {part}", "a", is_first=part == 0, fields={FIELD: 0.5}))
        for document, part in itertools.product(range(50), range(4))
    ]
    kept = Selector(Choice(FIELD, copies=CURVE)).keep(divided, ReadReport())
    counts = np.array([piece.copies for _, piece in kept]).reshape(50, 4)
    assert (counts == counts[:, :1]).all() and set(counts[:, 0].tolist()) == {2, 3}


def test_held_out_documents_are_packed_once(data, tmp_path):
    options = {"validation": (), "validation_fraction": 0.3, "chunk_chars": 10**6}
    settings = settings_of(data, copies=((0.0, 3.0), (1.0, 3.0)), **options)
    [group] = make_groups("train", settings.train, settings.chunk_chars)
    texts = {"train": [], "validation": []}
    for job in read_jobs(group, settings, tmp_path, ReadReport()):
        texts[job.path.split("/")[-1].partition("-")[0]] += [piece.text for piece in job.pieces]
    assert len(texts["validation"]) == len(set(texts["validation"])) > 20
    assert len(texts["train"]) == 3 * len(set(texts["train"])) > 150


def test_a_build_is_that_of_the_repeated_documents(data, records, tmp_path):
    options = {"train": sources_of(data), "score_field": FIELD, "copies": CURVE, "seed": 3}
    options |= {"chunk_chars": 10**6, "packing": "contiguous"}
    info = build(data, tmp_path / "out", **options)
    kept = [
        (one["text"], by_hand(one[FIELD], one["text"], seed=3)) for one in records if one[FIELD] is not None
    ]
    kept = [(text, count) for text, count in kept if count]
    places = [
        ((at + number * len(kept) / count) % len(kept), at)
        for at, (_, count) in enumerate(kept)
        for number in range(count)
    ]
    repeated = write(tmp_path / "repeated.jsonl", [kept[at][0] for _, at in sorted(places)])
    alone = build(data, tmp_path / "alone", train=[repeated], chunk_chars=10**6, packing="contiguous")
    assert info.fingerprint == alone.fingerprint
    added = sum(count - 1 for _, count in kept)
    assert info.splits["train"]["copies"]["documents"] == added > 20
    assert info.splits["train"]["documents"] == len(places) == len(kept) + added
    assert info.sources["copies"] == [list(point) for point in CURVE]
    assert "copies" not in alone.splits["train"] and "copies" not in alone.sources


def test_processes_and_interruptions_make_no_difference(data, tmp_path, monkeypatch):
    options = {"train": sources_of(data), "score_field": FIELD, "copies": CURVE, "chunk_chars": 3000}
    info = build(data, tmp_path / "one", **options)
    assert len(info.splits["train"]["shards"]) > 3
    assert build(data, tmp_path / "three", num_processes=3, **options) == info
    with monkeypatch.context() as patch:
        patch.setattr(shards, "write_shard", lambda job: (patch.undo(), shards.write_shard(job), 1 / 0)[1])
        with pytest.raises(ZeroDivisionError):
            build(data, tmp_path / "again", **options)
    with pytest.raises(FileExistsError, match=r"other settings \(copies: it has \[\[-1.0, 0.0\], "):
        build(data, tmp_path / "again", **options | {"copies": CURVE[1:]})
    made = []
    monkeypatch.setattr(
        shards, "write_shard", lambda job, write=shards.write_shard: made.append(job) or write(job)
    )
    assert build(data, tmp_path / "again", **options) == info
    assert 0 < len(made) < len(info.splits["train"]["shards"]) + len(info.splits["validation"]["shards"])
    assert build(data, tmp_path / "again", **options) == info  # which is there


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"score_field": ""}, "--score_field: got '' with .* and --copies -1:0,0:1,1:3.5, expected a field"),
        ({"copies": ((0.0, 2.0),)}, "--copies: got 0:2, expected two points or more"),
        ({"copies": ((0.0, 1.0), (0.0, 2.0))}, "--copies: got 0:1,0:2, expected two points .* larger score"),
        ({"copies": ((0.0, 1.0), (math.nan, 2.0))}, "--copies: got 0:1,nan:2, expected two points"),
        ({"copies": ((0.0, 1.0), (1.0, 101.0))}, "--copies: got 0:1,1:101, expected 0 to 100 copies"),
        ({"copies": ((0.0, -1.0), (1.0, 1.0))}, "--copies: got 0:-1,1:1, expected 0 to 100 copies"),
        ({"copies": ((0.0, 0.0), (1.0, 0.0))}, "more than 0 at one of them"),
    ],
    ids=str,
)
def test_curves_that_are_none(data, options, message):
    with pytest.raises(ValueError, match=message):
        settings_of(data, **options)
